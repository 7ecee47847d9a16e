// The page of the calculator: its form, its results, and the link to a choice.
(() => {
  "use strict";
  const form = document.getElementById("calc-form");
  if (!form) return;
  const at = (name) => document.getElementById(`calc-${name}`);
  const controls = [...form.querySelectorAll("input, select, textarea")];
  const control = (name) => form.elements.namedItem(name);

  // Texts.
  const commas = (number) => String(number).replace(/\B(?=(\d{3})+$)/g, ",");
  const rounded = (number, unit, digits) => {
    const scale = 10n ** BigInt(digits);
    const units = String((2n * number * scale + unit) / (2n * unit)).padStart(
      digits + 1,
      "0",
    );
    return `${commas(units.slice(0, -digits))}.${units.slice(-digits)}`;
  };
  const gib = (bytes) => `${rounded(bytes, 2n ** 30n, 2)} GiB`;
  const SHORT = [
    ["", 0n],
    ["thousand", 3n],
    ["million", 6n],
    ["billion", 9n],
    ["trillion", 12n],
    ["quadrillion", 15n],
  ];
  const about = (number) => {
    const power = Math.min(5, Math.floor((String(number).length - 1) / 3));
    const [word, digits] = SHORT[power];
    return power ? `${rounded(number, 10n ** digits, 2)} ${word}` : "";
  };
  const KINDS = { optimizer: "optimiser", kv_cache: "key and value cache" };
  const MOMENTS = {
    forward: "forward pass",
    loss: "loss",
    backward: "backward pass",
    step: "optimiser's step",
  };
  const LEVERS = {
    "--batch": "batch of",
    "--seq": "sequences of",
    "--precision": "precision",
    "--attn": "attention",
    "--checkpointing": "gradient checkpointing",
    "--optim": "optimiser",
    "--lora": "LoRA of rank",
    "--quant": "weights in",
    "--kv-dtype": "cache in",
    "--logits": "logits of the",
    "--requests": "caches at once:",
  };

  function element(name, text, more = {}) {
    const made = Object.assign(document.createElement(name), more);
    made.append(...[text].flat());
    return made;
  }
  const line = ([first, ...cells]) =>
    element("tr", [
      element("th", first, { scope: "row" }),
      ...cells.map((cell) => element("td", cell)),
    ]);
  const fill = (name, lines) => at(name).replaceChildren(...lines);

  // The form: what is shown depends on what is chosen.
  const first = (field) =>
    field.localName === "select"
      ? (
          [...field.options].find((option) => option.defaultSelected) ??
          field.options[0]
        ).value
      : field.defaultValue;

  function show() {
    for (const part of form.querySelectorAll("[data-when]")) {
      part.hidden = !part.dataset.when.split("&").every((condition) => {
        const [name, value] = condition.split("=");
        return control(name).value === value;
      });
    }
  }

  // The heads of the model that is chosen.
  function offerHeads(book) {
    const select = control("architecture");
    const names = Object.keys(book.table.heads).map((head) => book.table.class + head);
    const known = [...select.options].slice(1).map((option) => option.value);
    if (known.join() === names.join()) return;
    const { value } = select;
    select.length = 1;
    select.append(...names.map((name) => new Option(name, name)));
    select.value = names.includes(value) ? value : "";
  }

  // The settings of an estimate. What is no whole number stays as it is, to be refused.
  const whole = (text) => (/^\d+$/.test(text) ? BigInt(text) : text);
  const given = (text, read = (same) => same) => (text === "" ? null : read(text));

  function settings() {
    const value = (name) => control(name).value;
    const train = value("mode") === "train";
    const adapters = {
      r: whole(value("r")),
      targets: value("targets") || value("names"),
    };
    return {
      config: value("config") || value("pasted"),
      architecture: given(value("architecture")),
      mode: value("mode"),
      batch: whole(value("batch")),
      seq: given(value("seq"), whole),
      precision: value("precision"),
      attn: value("attn"),
      quant: value("quant"),
      gpu: value("gpu") === "none" ? null : value("gpu") || value("size"),
      overhead: estimates.sizeOf("overhead", value("overhead")),
      ...(train && {
        lora: value("tuning") === "lora" ? adapters : null,
        optim: value("optim"),
        checkpointing: value("checkpointing") === "on",
        accumulate: whole(value("accumulate")),
      }),
      ...(!train && {
        logits: given(value("logits")),
        kv_dtype: given(value("kv_dtype")),
        requests: given(value("requests"), whole),
      }),
    };
  }

  // The link: what differs from the page as it comes, in the fragment of the address.
  function fragment(changes = {}) {
    const chosen = new URLSearchParams();
    for (const field of controls) {
      const value = changes[field.name] ?? field.value;
      const used = field.name in changes || !field.closest("[data-when][hidden]");
      if (used && value !== first(field)) chosen.set(field.name, value);
    }
    return `#${chosen}`;
  }

  let unknown = [];
  function restore() {
    const wanted = new URLSearchParams(location.hash.slice(1));
    if (location.hash.length > 1 && !location.hash.includes("=")) return;
    unknown = [...wanted]
      .filter(([name, value]) => !set(name, value))
      .map((pair) => pair.join("="));
    for (const field of controls)
      if (!wanted.has(field.name)) field.value = first(field);
    update();
  }

  function set(name, value) {
    const field = controls.find((one) => one.name === name);
    if (!field) return false;
    if (name === "architecture" && value) field.append(new Option(value, value));
    field.value = value;
    const known = field.value === value;
    if (!known) field.value = first(field);
    return known;
  }

  // The results.
  function watched(act) {
    const calls = [];
    const kept = { ...formulas };
    for (const name of Object.keys(kept)) {
      formulas[name] = (...given) => {
        const value = kept[name](...given);
        calls.push({ name, given, value });
        return value;
      };
    }
    try {
      return [act(), calls];
    } finally {
      Object.assign(formulas, kept);
    }
  }

  function update() {
    show();
    let refused = true;
    try {
      if (unknown.length)
        reading.refuse(`the link asks for what is not here: ${unknown.join(", ")}`);
      const [found, calls] = watched(() => estimates.estimate(settings()));
      offerHeads(found.book);
      render(found);
      steps(calls);
      refused = false;
    } catch (error) {
      if (!(error instanceof reading.Refused)) throw error;
      at("verdict").textContent = error.message;
    }
    at("verdict").classList.toggle("refused", refused);
    at("found").hidden = refused;
    at("link").href = fragment();
    at("copied").textContent = "";
  }

  function render(found) {
    const { book, memory, overhead } = found;
    const kinds = Object.entries({ ...memory.at_peak, ...(overhead && { overhead }) });
    const need = memory.peak + overhead;
    verdict(found, need);
    bar(kinds, need, found.gpu);
    advise(found);
    const share = (bytes) => `${rounded(100n * bytes, need, 1)} %`;
    const of = ([kind, bytes]) => {
      const made = line([kindOf(kind), gib(bytes), share(bytes), commas(bytes)]);
      made.firstChild.prepend(
        element("span", "", { className: `swatch kind-${kind}` }),
      );
      return made;
    };
    const all = line(["together", gib(need), share(need), commas(need)]);
    fill("memory", [...kinds.map(of), all]);
    const apart = [
      "weights",
      "gradients",
      "optimizer",
      "activations",
      "logits",
      "kv_cache",
    ]
      .filter((kind) => memory[kind] && !memory.at_peak[kind])
      .map((kind) => `${kindOf(kind)} ${gib(memory[kind])}`);
    at("elsewhere").textContent = apart.length
      ? `At other moments: ${apart.join(", ")}.`
      : "";
    const peaks = Object.entries(memory.peaks);
    fill(
      "peaks",
      peaks.map(([name, n]) => line([MOMENTS[name], gib(n), commas(n)])),
    );
    numbers(found);
    fill("terms", found.steps.map(line));
    fill(
      "rows",
      book.rows.map((row, i) => {
        const { name, shape, copies, tied, stored } = row;
        const place = tied ? `tied to ${tied}` : commas(stored);
        const bytes = commas(found.sizes[i]);
        return line([
          name,
          shape.map(commas).join(" × "),
          commas(copies),
          place,
          bytes,
        ]);
      }),
    );
  }

  const kindOf = (kind) => KINDS[kind] ?? kind;

  function verdict({ architecture, fits, gpu, memory, model }, need) {
    const left = gpu === null ? 0n : gpu - need;
    const room = fits ? `${gib(left)} to spare` : `${gib(-left)} too much`;
    const said =
      gpu === null ? "" : `: it ${fits ? "fits" : "does not fit"} ${gib(gpu)}, ${room}`;
    const when = MOMENTS[memory.peak_moment];
    at("verdict").textContent = `${model} needs ${gib(need)} in the ${when}${said}.`;
    at("verdict").classList.toggle("over", fits === false);
    at("verdict").title = architecture;
  }

  function numbers({ flops, lora, parameters, settings }) {
    const { active, embedding, total } = parameters;
    const trained = settings.lora ? lora.trainable : total;
    const lines = [
      ["parameters", total],
      ["of them active for a token", active === total ? 0n : active],
      ["of them in embeddings", embedding],
      ["trained", settings.mode === "train" ? trained : 0n],
      ["operations of a forward pass", flops.forward],
      ["operations of a training step", flops.training_step],
    ];
    const known = lines.filter(([, number]) => number);
    fill(
      "numbers",
      known.map(([of, n]) => line([of, about(n), commas(n)])),
    );
  }

  // What else would fit, and links to what would help.
  function advise({
    gpu,
    largest_batch,
    largest_seq,
    levers,
    memory,
    overhead,
    settings,
  }) {
    const { batch, seq } = settings;
    const longest = largest_seq || "none";
    at("more").textContent =
      gpu === null
        ? ""
        : `Largest batch that fits at ${commas(seq)} tokens: ${commas(largest_batch || "none")}. ` +
          `Longest sequence at a batch of ${commas(batch)}: ${commas(longest)}.`;
    const best = Object.entries(levers).slice(0, 4);
    fill(
      "levers",
      best.map(([name, peak]) => {
        const words = name.replace(/--[a-z-]+/g, (flag) => LEVERS[flag]);
        const tokens = name.startsWith("--seq") ? " tokens" : "";
        const fits = peak + overhead <= gpu ? ", which fits" : "";
        const href = fragment(changed(name));
        const link = element("a", words.replace(/\d+$/, commas) + tokens, { href });
        const less = `${gib(memory.peak - peak)} less`;
        return element("li", [link, `: ${gib(peak + overhead)}, ${less}${fits}`]);
      }),
    );
    at("help").hidden = best.length === 0;
  }

  // The fields that a lever changes, which speaks as the command line does.
  function changed(lever) {
    const found = {};
    for (const [, flag, value = "on"] of lever.matchAll(
      /--([a-z-]+)(?: ([^-]\S*))?/g,
    )) {
      if (flag === "lora") Object.assign(found, { tuning: "lora", r: value });
      else found[flag.replace("-", "_")] = value;
    }
    if (found.tuning) found.targets = "all-linear";
    return found;
  }

  function bar(kinds, need, gpu) {
    const scale = gpu !== null && gpu > need ? gpu : need;
    const percent = (bytes) => `${Number((10_000n * bytes) / scale) / 100}%`;
    const parts = kinds.map(([kind, bytes]) => {
      const part = element("span", "", { className: `part kind-${kind}` });
      part.style.width = percent(bytes);
      return part;
    });
    if (gpu !== null) {
      const limit = element("span", "", { className: "limit" });
      limit.style.left = percent(gpu);
      parts.push(limit);
    }
    fill("bar", parts);
    const words = kinds.map(([kind, bytes]) => `${kindOf(kind)} ${gib(bytes)}`);
    if (gpu !== null) words.push(`the GPU has ${gib(gpu)}`);
    at("bar").setAttribute("aria-label", words.join(", "));
  }

  // Each formula that was used, as it stands below, with numbers in place of its words.
  function steps(calls) {
    const times = new Map();
    for (const { name } of calls) times.set(name, (times.get(name) ?? 0) + 1);
    const shown = new Set();
    const made = [];
    for (const { name, given, value } of calls) {
      if (shown.has(name)) continue;
      shown.add(name);
      const of = document.getElementById(`formula-${name}`);
      const math = of.querySelector("math").cloneNode(true);
      const sign = (kind, text) => {
        const made = document.createElementNS(math.namespaceURI, kind);
        made.textContent = text;
        return made;
      };
      for (const word of math.querySelectorAll("mi")) {
        const i = signatures[name].indexOf(word.textContent.replace(" ", "_"));
        if (i >= 0) word.replaceWith(sign("mn", commas(given[i])));
      }
      math.append(sign("mo", "="), sign("mn", commas(value)));
      const again =
        times.get(name) > 1 ? ` (the first of ${times.get(name)} times)` : "";
      const words = of.querySelector("p").textContent.replace(/\.$/, "");
      made.push(element("p", `${words}${again}:`));
      made.push(element("div", math, { className: "math-wrapper" }));
    }
    fill("steps", made);
  }

  at("off").remove();
  form.hidden = false;
  at("results").hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", (event) => {
    unknown = [];
    if (event.target.name === "config") control("architecture").value = "";
    update();
    history.replaceState(null, "", fragment());
  });
  window.addEventListener("hashchange", restore);
  at("copy").addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(at("link").href);
      at("copied").textContent = "Copied.";
    } catch {
      at("copied").textContent = "The browser does not allow it: copy the address.";
    }
  });
  if (!navigator.clipboard) at("copy").hidden = true;
  restore();
  if (!location.hash.includes("=")) update();
})();
