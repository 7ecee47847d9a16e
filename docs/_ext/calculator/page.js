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
  const KINDS = { weights: "weights", kv_cache: "key and value cache" };

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

  function choice() {
    const chosen = Object.fromEntries(
      controls.map((field) => [field.name, field.value]),
    );
    return {
      ...chosen,
      config: chosen.config || chosen.pasted,
      targets: chosen.targets || chosen.names,
      gpu: chosen.gpu || chosen.size,
    };
  }

  // The link: what differs from the page as it comes, in the fragment of the address.
  function fragment() {
    const chosen = new URLSearchParams();
    for (const field of controls) {
      const shown = !field.closest("[data-when][hidden]");
      if (shown && field.value !== first(field)) chosen.set(field.name, field.value);
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
    let found;
    try {
      if (unknown.length)
        reading.refuse(`the link asks for what is not here: ${unknown.join(", ")}`);
      const [result, calls] = watched(() => estimates.estimate(choice()));
      offerHeads(result.book);
      found = true;
      render(result, calls);
    } catch (error) {
      if (!(error instanceof reading.Refused)) throw error;
      found = false;
      at("verdict").textContent = error.message;
    }
    at("verdict").classList.toggle("refused", !found);
    at("found").hidden = !found;
    at("link").href = fragment();
    at("copied").textContent = "";
  }

  function render({ book, memory, need, flops, trainable, gpu, sizes }, calls) {
    const kinds = Object.entries(memory).filter(([, bytes]) => bytes);
    verdict(book, need, gpu);
    bar(kinds, need, gpu);
    const share = (bytes) => `${rounded(100n * bytes, need, 1)} %`;
    fill("memory", [
      ...kinds.map(([kind, bytes]) => {
        const made = line([KINDS[kind], gib(bytes), share(bytes), commas(bytes)]);
        made.firstChild.prepend(
          element("span", "", { className: `swatch kind-${kind}` }),
        );
        return made;
      }),
      line(["together", gib(need), share(need), commas(need)]),
    ]);
    const numbers = [
      ["parameters", book.total],
      ...(book.active === book.total
        ? []
        : [["of them active for a token", book.active]]),
      ["of them in embeddings", book.embedding],
      ...(trainable === null ? [] : [["trained by LoRA", trainable]]),
      ["operations of a forward pass", flops],
    ];
    fill(
      "numbers",
      numbers.map(([of, n]) => line([of, about(n), commas(n)])),
    );
    fill(
      "rows",
      book.rows.map((row, i) => {
        const { name, shape, copies, tied, stored } = row;
        const place = tied ? `tied to ${tied}` : commas(stored);
        return line([
          name,
          shape.map(commas).join(" × "),
          commas(copies),
          place,
          commas(sizes[i]),
        ]);
      }),
    );
    steps(calls);
  }

  function verdict(book, need, gpu) {
    const left = gpu === null ? 0n : gpu - need;
    const fit = left < 0n ? `${gib(-left)} too much for` : `leaves ${gib(left)} of`;
    const more = gpu === null ? "" : `: ${fit} ${gib(gpu)}`;
    at("verdict").textContent = `${book.architecture} takes ${gib(need)}${more}.`;
    at("verdict").classList.toggle("over", left < 0n);
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
    const words = kinds.map(([kind, bytes]) => `${KINDS[kind]} ${gib(bytes)}`);
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
        const i = signatures[name].indexOf(word.textContent);
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
