// The page of the calculator: its form, its results, and the link to a choice.
(() => {
  "use strict";
  const form = document.getElementById("calc-form");
  if (!form) return;
  const { at } = results;
  const controls = [...form.querySelectorAll("input, select, textarea")];
  const control = (name) => form.elements.namedItem(name);

  // The form: what is shown depends on what is chosen.
  function first(field) {
    if (field.localName !== "select") return field.defaultValue;
    const options = [...field.options];
    return (options.find((option) => option.defaultSelected) ?? options[0]).value;
  }

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
      lora: value("adapters") === "lora" ? adapters : null,
      gpu: value("gpu") === "none" ? null : value("gpu") || value("size"),
      overhead: estimates.sizeOf("overhead", value("overhead")),
      ...(train && {
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
    for (const field of controls) {
      if (!wanted.has(field.name)) field.value = first(field);
    }
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

  // Act, and note every formula that is used.
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
      act();
    } finally {
      Object.assign(formulas, kept);
    }
    return calls;
  }

  function update() {
    show();
    let refused = true;
    try {
      if (unknown.length) {
        reading.refuse(`the link asks for what is not here: ${unknown.join(", ")}`);
      }
      const asked = settings();
      const found = estimates.estimate(asked);
      const calls = watched(() => estimates.estimate({ ...asked, gpu: null }));
      offerHeads(found.book);
      results.show(found, calls, fragment);
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
