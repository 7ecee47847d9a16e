// What a choice of the form comes to; its numbers are texts. Needs ledger.js.
const estimates = (() => {
  "use strict";
  const { oneOf, positive, refuse, repr } = reading;
  const DTYPES = ["bf16", "fp32", "fp16", "fp8"];
  const POWERS = { K: 1n, M: 2n, G: 3n, T: 4n };

  // What is no whole number stays what it is, to be refused by its name.
  const whole = (text) => (/^\d+$/.test(text) ? BigInt(text) : text);

  // "24GiB", "80 GB" or bytes.
  function bytesOf(name, text) {
    const [, digits, unit, binary] = /^(\d+) *(?:([KMGT])(i?)B)?$/.exec(text) ?? [];
    if (!digits) refuse(`${name}=${repr(text)} is no size; write it as 24GiB`);
    const base = binary ? 1024n : 1000n;
    return BigInt(digits) * base ** (POWERS[unit] ?? 0n);
  }

  function estimate({ config, architecture, ...choice }) {
    const book = ledgers.ledger(config, architecture || undefined);
    const batch = positive("batch", whole(choice.batch));
    const seq = positive("seq", whole(choice.seq));
    const dtype = oneOf("dtype", choice.dtype, DTYPES);
    const memory = {
      weights: book.bytes(dtype, choice.quant),
      kv_cache: book.kvCache(batch, seq, choice.kv_dtype),
    };
    const adapters = choice.tuning === "lora";
    return {
      book,
      memory,
      need: memory.weights + memory.kv_cache,
      flops: book.flops(batch, seq, null, choice.logits),
      trainable: adapters ? book.lora(whole(choice.r), choice.targets) : null,
      gpu: choice.gpu ? bytesOf("gpu", choice.gpu) : null,
      sizes: book.rows.map((row) => ledgers.bytesOf(row, dtype, choice.quant)),
    };
  }

  return { estimate };
})();
