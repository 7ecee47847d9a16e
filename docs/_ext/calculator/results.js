// The results on the page: verdict, bar, tables, advice, formulas. Needs estimates.js.
const results = (() => {
  "use strict";
  const { commas } = budgets;
  const at = (name) => document.getElementById(`calc-${name}`);
  const WORDS = [
    [15n, "quadrillion"],
    [12n, "trillion"],
    [9n, "billion"],
    [6n, "million"],
    [3n, "thousand"],
  ];
  const KINDS = { optimizer: "optimiser", kv_cache: "key and value cache" };
  const MOMENTS = {
    forward: "forward pass",
    loss: "loss",
    backward: "backward pass",
    step: "optimiser's step",
  };
  const LEVERS = {
    "--batch": "batch of",
    "--seq": "tokens:",
    "--precision": "precision",
    "--attn": "attention",
    "--checkpointing": "gradient checkpointing",
    "--optim": "optimiser",
    "--lora": "LoRA of rank",
    "--quant": "weights in",
    "--kv-dtype": "cache in",
    "--logits": "logits:",
    "--requests": "caches at once:",
  };

  // Texts and elements.
  function rounded(number, unit, digits) {
    const scale = 10n ** BigInt(digits);
    const units = String((2n * number * scale + unit) / (2n * unit));
    const padded = units.padStart(digits + 1, "0");
    return `${commas(padded.slice(0, -digits))}.${padded.slice(-digits)}`;
  }
  const gib = (bytes) => `${rounded(bytes, 2n ** 30n, 2)} GiB`;
  const kindOf = (kind) => KINDS[kind] ?? kind;

  function about(number) {
    const found = WORDS.find(([power]) => number >= 10n ** power);
    return found ? `${rounded(number, 10n ** found[0], 2)} ${found[1]}` : "";
  }

  function element(name, content, more = {}) {
    const made = Object.assign(document.createElement(name), more);
    made.append(...[content].flat());
    return made;
  }

  function line([head, ...cells]) {
    const first = element("th", head, { scope: "row" });
    return element("tr", [first, ...cells.map((cell) => element("td", cell))]);
  }

  const fill = (name, parts) => at(name).replaceChildren(...parts);

  // `linkTo` gives the address of the choice with some fields changed.
  function show(found, calls, linkTo) {
    const { memory, overhead } = found;
    const kinds = Object.entries({ ...memory.at_peak, ...(overhead && { overhead }) });
    const need = memory.peak + overhead;
    verdict(found, need);
    bar(kinds, need, found.gpu);
    advice(found, linkTo);
    peak(kinds, need, memory);
    numbers(found);
    rows(found);
    fill("terms", found.steps.map(line));
    fill("steps", steps(calls));
  }

  function verdict({ fits, gpu, memory, model }, need) {
    const left = gpu === null ? 0n : gpu - need;
    const room = fits ? `${gib(left)} to spare` : `${gib(-left)} too much`;
    const fit = `it ${fits ? "fits" : "does not fit"} ${gib(gpu ?? 0n)}, ${room}`;
    const when = MOMENTS[memory.peak_moment];
    const said = `${model} needs ${gib(need)} in the ${when}`;
    at("verdict").textContent = gpu === null ? `${said}.` : `${said}: ${fit}.`;
    at("verdict").classList.toggle("over", fits === false);
  }

  function bar(kinds, need, gpu) {
    const scale = gpu !== null && gpu > need ? gpu : need;
    const percent = (bytes) => `${Number((10_000n * bytes) / scale) / 100}%`;
    const parts = kinds.map(([kind, bytes]) => {
      const part = element("span", "", { className: `part kind-${kind}` });
      part.style.width = percent(bytes);
      return part;
    });
    const words = kinds.map(([kind, bytes]) => `${kindOf(kind)} ${gib(bytes)}`);
    if (gpu !== null) {
      const limit = element("span", "", { className: "limit" });
      limit.style.left = percent(gpu);
      parts.push(limit);
      words.push(`the GPU has ${gib(gpu)}`);
    }
    fill("bar", parts);
    at("bar").setAttribute("aria-label", words.join(", "));
  }

  // What else would fit, and links to what would help.
  function advice(found, linkTo) {
    const { gpu, largest_batch, largest_seq, levers, memory, overhead } = found;
    const { batch, seq } = found.settings;
    const most = (number) => (number ? commas(number) : "none");
    at("more").hidden = gpu === null;
    at("more").textContent =
      `Largest batch that fits at ${commas(seq)} tokens: ${most(largest_batch)}. ` +
      `Longest sequence at a batch of ${commas(batch)}: ${most(largest_seq)}.`;
    const best = Object.entries(levers).slice(0, 4);
    const items = best.map(([lever, bytes]) => {
      const spelt = lever.replaceAll(" --", " and --");
      const words = spelt.replace(/--[a-z-]+/g, (flag) => LEVERS[flag]);
      const link = element("a", words, { href: linkTo(changed(lever, found)) });
      const fits = bytes + overhead <= gpu ? ", which fits" : "";
      const less = `${gib(memory.peak - bytes)} less`;
      return element("li", [link, ` (${gib(bytes + overhead)}, ${less}${fits})`]);
    });
    fill("levers", items);
    at("help").hidden = items.length === 0;
  }

  // The fields that a lever changes; it speaks as the command line does.
  function changed(lever, { settings }) {
    const found = {};
    for (const [, flag, , value = "on"] of lever.matchAll(
      /--([a-z-]+)( ([^-]\S*))?/g,
    )) {
      found[flag.replace("-", "_")] = value;
    }
    const { lora, ...fields } = found;
    const { batch, requests } = settings;
    if (found.batch && requests !== null) {
      fields.requests = String(requests - batch + BigInt(found.batch));
    }
    return lora
      ? { ...fields, adapters: "lora", r: lora, targets: "all-linear" }
      : fields;
  }

  function peak(kinds, need, memory) {
    const share = (bytes) => `${rounded(100n * bytes, need, 1)} %`;
    const cells = (name, bytes) => [name, gib(bytes), share(bytes), commas(bytes)];
    const lines = kinds.map(([kind, bytes]) => {
      const swatch = element("span", "", { className: `swatch kind-${kind}` });
      return line(cells([swatch, kindOf(kind)], bytes));
    });
    fill("memory", [...lines, line(cells("together", need))]);
    const { gradients, activations, logits } = memory;
    const apart = Object.entries({ gradients, activations, logits })
      .filter(([kind, bytes]) => bytes && !memory.at_peak[kind])
      .map(([kind, bytes]) => `${kind} ${gib(bytes)}`);
    at("elsewhere").textContent = `At other moments: ${apart.join(", ")}.`;
    at("elsewhere").hidden = apart.length === 0;
    const peaks = Object.entries(memory.peaks);
    fill(
      "peaks",
      peaks.map(([name, n]) => line([MOMENTS[name], gib(n), commas(n)])),
    );
  }

  function numbers({ flops, lora, parameters, settings }) {
    const { active, embedding, total } = parameters;
    const train = settings.mode === "train";
    const lines = [
      ["parameters", total],
      ["of them active for a token", active === total ? 0n : active],
      ["of them in embeddings", embedding],
      ["adapters", lora.trainable],
      ["trained", train ? lora.trainable || total : 0n],
      ["operations of a forward pass", flops.forward],
      ["operations of a training step", flops.training_step],
    ];
    const known = lines.filter(([, number]) => number);
    fill(
      "numbers",
      known.map(([of, n]) => line([of, about(n), commas(n)])),
    );
  }

  function rows({ book, sizes }) {
    const lines = book.rows.map(({ name, shape, copies, tied, stored }, i) => {
      const place = tied ? `tied to ${tied}` : commas(stored);
      const sides = shape.map(commas).join(" × ");
      return line([name, sides, commas(copies), place, commas(sizes[i])]);
    });
    fill("rows", lines);
  }

  // Each formula that was used, as it stands below, with numbers in place of its words.
  function steps(calls) {
    const used = new Map();
    for (const call of calls)
      used.set(call.name, [...(used.get(call.name) ?? []), call]);
    return [...used].flatMap(([name, [{ given, value }, ...more]]) => {
      const formula = document.getElementById(`formula-${name}`);
      const math = formula.querySelector("math").cloneNode(true);
      const sign = (kind, text) => {
        const made = document.createElementNS(math.namespaceURI, kind);
        made.textContent = text;
        return made;
      };
      for (const word of math.querySelectorAll("mi, mtext")) {
        const i = signatures[name].indexOf(word.textContent.replaceAll(" ", "_"));
        if (i >= 0) word.replaceWith(sign("mn", commas(given[i])));
      }
      math.append(sign("mo", "="), sign("mn", commas(value)));
      const words = formula.querySelector("p").textContent.replace(/\.$/, "");
      const again = more.length ? ` (the first of ${more.length + 1})` : "";
      const box = element("div", math, { className: "math-wrapper" });
      return [element("p", `${words}${again}:`), box];
    });
  }

  return { at, show };
})();
