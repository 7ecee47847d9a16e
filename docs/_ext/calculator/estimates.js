// Will it fit: an estimate of the settings that are given, as in tfdoc/cost/estimates.py;
// whole numbers are BigInt, what is not given is null. Needs budgets.js.
const estimates = (() => {
  "use strict";
  const { flag, near, oneOf, positive, refuse, repr } = reading;
  const { Budget, MOST, whole } = budgets;
  const DEFAULTS = {
    mode: "train",
    batch: 1n,
    seq: null,
    precision: "bf16",
    attn: "sdpa",
    checkpointing: false,
    optim: "adamw",
    lora: null,
    quant: null,
    logits: null,
    accumulate: 1n,
    kv_dtype: null,
    requests: null,
    gpu: null,
    overhead: 0n,
    architecture: null,
  };
  const TOKENS = 2048n;
  const LARGEST = 2n ** 50n; // bytes
  const SIZE = /^([-+]?)(\d{1,20})(?:\.(\d{1,20}))?\s*([a-z]*)$/;
  const UNITS = {};
  for (const [i, letter] of ["", "k", "m", "g", "t"].entries()) {
    UNITS[`${letter}b`] = 1000n ** BigInt(i);
    if (letter) UNITS[`${letter}ib`] = 1024n ** BigInt(i);
  }

  function size(name, value) {
    if (positive(name, value) > MOST) {
      refuse(`${name}=${value} is too large; at most ${MOST} is counted`);
    }
    return value;
  }

  // The bytes of a GPU: "24GiB", a name, or a number.
  function memoryOf(gpu) {
    const bytes = typeof gpu === "string" ? bytesOf(gpu) : positive("gpu", gpu);
    if (bytes < 1n) refuse(`gpu must be at least a byte, got ${repr(gpu)}`);
    if (bytes > LARGEST) {
      refuse(`gpu=${repr(gpu)} is more than ${LARGEST} bytes; check the unit`);
    }
    return bytes;
  }

  // The bytes of a text: a number alone, or with a unit.
  function sizeOf(name, text) {
    return /^\d+$/.test(text)
      ? BigInt(text)
      : sized(name, text.trim().toLowerCase(), text);
  }

  function bytesOf(text) {
    const word = text.trim().toLowerCase();
    const name = word.replace(/[\s_]+/g, "-");
    if (Object.hasOwn(tables.gpus, name)) return tables.gpus[name];
    if (!SIZE.test(word)) {
      const known = Object.keys(tables.gpus);
      const longer = known.filter((other) => name && other.includes(name)).map(repr);
      const hint = longer.length ? `; did you mean ${longer.join(" or ")}?` : "";
      const names = hint || near(name, known) || `; known are ${known.join(", ")}`;
      refuse(`gpu=${repr(text)} is no size such as '24GiB' and no name${names}`);
    }
    return sized("gpu", word, text);
  }

  function sized(name, word, text) {
    const found = SIZE.exec(word);
    if (!found) refuse(`${name}=${repr(text)} is no size such as '1GiB'`);
    const [, sign, digits, part = "", unit] = found;
    if (!Object.hasOwn(UNITS, unit)) {
      const number = `${sign}${digits}${part && "."}${part}`;
      const fault = unit ? `has the unknown unit ${repr(unit)}` : "has no unit";
      const fix = `write '${number}GiB' for 2^30 bytes each or '${number}GB' for 10^9`;
      refuse(`${name}=${repr(text)} ${fault}; ${fix}`);
    }
    const bytes = (BigInt(digits + part) * UNITS[unit]) / 10n ** BigInt(part.length);
    return sign === "-" ? -bytes : bytes;
  }

  // The settings, checked one by one and against each other.
  function budgetOf(book, given) {
    const train = oneOf("mode", given.mode, ["train", "infer"]) === "train";
    const [r, targets] = loraOf(given.lora);
    const quant = oneOf("quant", given.quant || "none", ["none", "int8", "nf4"]);
    if (train && quant !== "none" && !r) {
      const fix = "train adapters: lora={'r': 16}";
      refuse(`quant=${repr(quant)} has no gradients of its own; ${fix}`);
    }
    const checkpointing = flag("checkpointing", given.checkpointing);
    const optim = oneOf("optim", given.optim, ["adamw", "adamw8bit", "sgd", "none"]);
    const accumulate = size("accumulate", given.accumulate);
    const batch = size("batch", given.batch);
    only(train, given);
    const precision = oneOf("precision", given.precision, ["bf16", "fp32", "amp"]);
    const natural = precision === "fp32" ? "fp32" : "bf16";
    const requests = given.requests === null ? batch : size("requests", given.requests);
    if (requests < batch)
      refuse(`requests=${requests} must be at least batch=${batch}`);
    const budget = new Budget(book, {
      train,
      batch,
      seq: seqOf(book, given.seq),
      precision,
      attn: oneOf("attn", given.attn, ["sdpa", "eager"]),
      checkpointing,
      optim: train ? optim : "none",
      r,
      targets,
      quant,
      last: !train && given.logits !== "all",
      accumulate,
      kv_dtype: oneOf(
        "kv_dtype",
        given.kv_dtype || natural,
        Object.keys(ledgers.BYTES),
      ),
      requests,
    });
    return runnable(budget, given.logits);
  }

  // What says something of the other mode only is refused.
  function only(train, given) {
    const foreign = train
      ? ["kv_dtype", "requests"].filter((name) => given[name] !== null)
      : [];
    if (train && given.logits === "last") foreign.push("logits");
    if (!train && given.checkpointing) foreign.push("checkpointing");
    if (!train && given.accumulate > 1n) foreign.push("accumulate");
    if (!train && !["adamw", "none"].includes(given.optim)) foreign.push("optim");
    if (given.logits !== null) oneOf("logits", given.logits, ["all", "last"]);
    if (foreign.length) {
      const [name] = foreign;
      const other = repr(train ? "infer" : "train");
      refuse(`${name}=${repr(given[name])} says something of mode=${other} only`);
    }
  }

  function seqOf(book, seq) {
    const { positions } = book.table;
    const most = positions ? models.evaluate(positions, book.values) : MOST;
    if (seq === null) return integers.min(TOKENS, most);
    if (size("seq", seq) > most) {
      refuse(`seq=${seq} is more than the ${most} positions of the model`);
    }
    return seq;
  }

  // The rank, 0 without adapters, and the targets.
  function loraOf(lora) {
    if (lora === null) return [0n, ""];
    const { r, targets = "all-linear" } = lora;
    return [size("r", r), targets];
  }

  // The budget with settings that transformers can run.
  function runnable(budget, logits) {
    let found = budget;
    const fused = Object.keys(budget.forms).some((name) => name.includes(" sdpa"));
    if (budget.settings.attn === "sdpa" && !fused)
      found = found.other({ attn: "eager" });
    if (!(found.setting in found.forms)) {
      if (logits === "last") {
        const what = `what ${budget.book.architecture} does in transformers`;
        refuse(`logits='last' is not ${what}: it computes all`);
      }
      found = found.other({ last: false });
    }
    return found;
  }

  function estimate({ config, ...chosen }) {
    const given = { ...DEFAULTS, ...chosen };
    const book = ledgers.ledger(config, given.architecture);
    const budget = budgetOf(book, given);
    const gpu = given.gpu === null ? null : memoryOf(given.gpu);
    const named = typeof config === "string" ? config.toLowerCase() : "";
    const model = Object.hasOwn(tables.presets, named) ? named : book.architecture;
    const found = told(budget, model, gpu, reading.count("overhead", given.overhead));
    // For the page: no part of what Python gives.
    const width = budget.width === 2n ? "bf16" : "fp32";
    const sizes = book.rows.map((row) => ledgers.bytesOf(row, width, budget.s.quant));
    return Object.defineProperties(found, {
      book: { value: book },
      sizes: { value: sizes },
    });
  }

  function told(budget, model, gpu, overhead) {
    const { book, settings: s } = budget;
    const peaks = {};
    for (const [name, kinds] of budget.moments) {
      peaks[name] = integers.max(peaks[name] ?? 0n, whole(kinds));
    }
    const [moment, all] = budget.moments.find(
      ([, kinds]) => whole(kinds) === budget.peak,
    );
    const room = gpu === null ? null : gpu - overhead;
    return {
      model,
      architecture: book.architecture,
      settings: {
        mode: s.train ? "train" : "infer",
        batch: s.batch,
        seq: s.seq,
        precision: s.precision,
        attn: s.attn,
        checkpointing: s.checkpointing,
        optim: s.optim,
        lora: s.r ? { r: s.r, targets: s.targets } : null,
        quant: s.quant === "none" ? null : s.quant,
        logits: s.last ? "last" : "all",
        accumulate: s.accumulate,
        kv_dtype: s.kv_dtype,
        requests: s.requests === s.batch ? null : s.requests,
      },
      parameters: {
        total: book.total,
        active: book.active,
        embedding: book.embedding,
        by_component: book.byComponent,
      },
      memory: {
        weights: budget.weights,
        gradients: budget.gradients,
        optimizer: budget.optimizer,
        activations: budget.activations,
        logits: budget.logits,
        temporaries: all.temporaries,
        kv_cache: budget.kv_cache,
        peak: budget.peak,
        peak_moment: moment,
        peaks,
        at_peak: Object.fromEntries(Object.entries(all).filter(([, bytes]) => bytes)),
      },
      flops: { forward: budget.forward, training_step: budget.training_step },
      lora: { trainable: budget.adapterNumbers },
      gpu,
      overhead,
      fits: room === null ? null : budget.peak <= room,
      largest_batch: room === null ? null : budgets.largest(budget, "batch", room),
      largest_seq: room === null ? null : budgets.largest(budget, "seq", room),
      levers: room === null ? {} : budgets.levers(budget),
      left_out: book.leftOut,
      steps: budgets.explained(budget),
    };
  }

  return { estimate, sizeOf };
})();
