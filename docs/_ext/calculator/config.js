// Reading a Hugging Face config: every key is used, neutral or refused by name, as in
// tfdoc/cost/configs.py. Needs tables.js, reading.js and models.js.
const configs = (() => {
  "use strict";
  const { count, divides, flag, near, parse, positive, refuse, repr, same, typeOf } =
    reading;
  const MOST = 10n ** 9n; // of any width or number of entries
  const MOST_LAYERS = 10n ** 5n;
  const ATTENTION = ["full_attention", "sliding_attention", "chunked_attention"];
  const KINDS = Object.fromEntries(
    Object.entries(tables.models.kinds).flatMap(([kind, symbols]) =>
      symbols.map((symbol) => [symbol, kind]),
    ),
  );
  const has = (object, key) => Object.hasOwn(object, key);

  function read(config, architecture) {
    let given = mapping(config);
    let leftOut = [];
    if (given.has("text_config")) [given, leftOut] = textModel(given);
    const modelType = typeNamed(given);
    const table = models.model(modelType);
    const head = headOf(architecture ?? declared(given, table), table, modelType);
    const plain = plainNames(given, table);
    const neutral = sortedOut(plain, table, modelType);
    const used = [...plain.keys()].filter((key) => !neutral.includes(key)).sort();
    const values = valuesOf(plain, table, head);
    return { modelType, table, head, values, used, neutral: neutral.sort(), leftOut };
  }

  function mapping(config) {
    if (config instanceof Map) return new Map(config);
    const name = config.trim().toLowerCase();
    if (has(tables.presets, name)) return new Map(Object.entries(tables.presets[name]));
    if (/^[a-z]/.test(name)) {
      refuse(
        `config=${repr(config)} is no preset${near(name, Object.keys(tables.presets))}`,
      );
    }
    const given = parse(config);
    if (given instanceof Map) return given;
    return refuse(`the config must hold an object, got ${typeOf(given)}`);
  }

  function textModel(given) {
    const inner = given.get("text_config");
    if (!(inner instanceof Map))
      refuse(`text_config must be an object, got ${repr(inner)}`);
    const text = new Map(inner);
    text.delete("architectures");
    const tied = "tie_word_embeddings";
    if (given.has(tied) && !text.has(tied)) text.set(tied, given.get(tied));
    const heard = [...models.COMMON, "text_config", "architectures", tied];
    return [text, [...given.keys()].filter((key) => !heard.includes(key)).sort()];
  }

  function typeNamed(given) {
    if (!given.has("model_type")) {
      refuse(
        "config has no model_type; add the one of its transformers class, such as 'llama'",
      );
    }
    const name = given.get("model_type");
    if (typeof name !== "string")
      refuse(`model_type must be a string, got ${repr(name)}`);
    const types = Object.keys(tables.models.types);
    if (!types.includes(name)) {
      const hint = near(name, types) || `; known are ${types.sort().join(", ")}`;
      refuse(`model_type=${repr(name)} is not known${hint}`);
    }
    return name;
  }

  function declared(given, table) {
    const listed = given.get("architectures") ?? null;
    if (listed === null) return table.default ?? Object.keys(table.heads)[0];
    if (!Array.isArray(listed) || listed.length !== 1) {
      const how = "must list one class; choose with architecture=";
      refuse(`architectures=${repr(listed)} ${how}`);
    }
    return listed[0];
  }

  function headOf(name, table, modelType) {
    if (typeof name !== "string")
      refuse(`architecture must be a string, got ${repr(name)}`);
    const stem = table.class;
    const full = name.toLowerCase().startsWith(stem.toLowerCase());
    const suffix = full ? name.slice(stem.length) : name;
    const head = has(table.aliased, suffix) ? table.aliased[suffix] : suffix;
    if (!has(table.heads, head)) {
      const known = Object.keys(table.heads).map((end) => stem + end);
      refuse(
        `architecture=${repr(name)} is no class of model_type=${repr(modelType)}; its ` +
          `classes are ${known.join(", ")}`,
      );
    }
    return head;
  }

  // Every alias under the name that transformers keeps.
  function plainNames(given, table) {
    const plain = new Map(given);
    for (const [alias, name] of Object.entries(table.aliases)) {
      if (!plain.has(alias)) continue;
      const value = plain.get(alias);
      plain.delete(alias);
      if (!plain.has(name)) plain.set(name, value);
      const kept = plain.get(name);
      if (!same(kept, value)) {
        const both = `${alias}=${repr(value)} and ${name}=${repr(kept)}`;
        refuse(`${both} are one setting; keep one`);
      }
    }
    const named = plain.get("id2label") ?? null;
    plain.delete("id2label");
    if (named !== null) {
      if (!(named instanceof Map))
        refuse(`id2label must be an object, got ${repr(named)}`);
      const size = BigInt(named.size);
      if (!plain.has("num_labels")) plain.set("num_labels", size);
      const labels = plain.get("num_labels");
      if (!same(labels, size)) {
        refuse(`num_labels=${repr(labels)} but id2label names ${size}`);
      }
    }
    return plain;
  }

  // The keys that change no size; one that is not known is refused.
  function sortedOut(given, table, modelType) {
    const neutral = [];
    for (const [key, value] of given) {
      if (has(table.only, key)) {
        const allowed = table.only[key];
        if (!allowed.some((a) => typeOf(a) === typeOf(value) && same(a, value))) {
          refuse(
            `${key}=${repr(value)} is not covered for model_type=${repr(modelType)}, ` +
              `only ${allowed.map(repr).join(" or ")}`,
          );
        }
      } else if (table.neutral.has(key)) {
        neutral.push(key);
      } else if (!has(table.keys, key) && key !== "architectures") {
        const sizes = [table.keys, table.aliases, table.only].flatMap(Object.keys);
        const hint = near(key, new Set(sizes)) || near(key, table.neutral);
        const fix = hint || "; remove it if it changes no size";
        refuse(
          `${key}=${repr(value)} is not known for model_type=${repr(modelType)}${fix}`,
        );
      }
    }
    return neutral;
  }

  // Every symbol of the type: read, taken by default, then derived.
  function valuesOf(given, table, head) {
    const alone = [...(table.decoder_only ?? []), ...(table.encoder_only ?? [])];
    const values = {
      pooler: (table.pooled ?? []).includes(head),
      alone: alone.includes(head),
      W: 0n,
      K: 1n,
      E: 1n,
    };
    const names = {};
    const later = [];
    for (const [key, [symbol, preset, ...ifNull]] of Object.entries(table.keys)) {
      names[symbol] = key;
      const value = given.has(key) ? given.get(key) : preset;
      if (value === null && ifNull.length) later.push([symbol, ifNull[0]]);
      else values[symbol] = checked(key, value, KINDS[symbol]);
    }
    for (const [symbol, expression] of [...later, ...Object.entries(table.let)]) {
      const [, top, bottom] = /^([^/]*)\/([^/].*)$/.exec(expression) ?? [];
      if (typeof expression === "string" && bottom) {
        divides(names[bottom], values[bottom], names[top], values[top]);
      }
      values[symbol] = models.evaluate(expression, values);
    }
    agree(values, names);
    return values;
  }

  function agree(values, names) {
    if (names.G && names.H) divides(names.G, values.G, names.H, values.H);
    if (names.E && values.K > values.E) {
      refuse(`${names.K}=${values.K} must be at most ${names.E}=${values.E}`);
    }
    for (const symbol of ["kinds", "no_rope_list"]) {
      const listed = values[symbol];
      if (listed?.length && BigInt(listed.length) !== values.L) {
        refuse(
          `${names[symbol]} has ${listed.length} entries but ${names.L}=${values.L}; ` +
            "give one for each layer",
        );
      }
    }
  }

  function checked(key, value, kind) {
    if (kind === "flag") return flag(key, value);
    if (kind === "activation") {
      if (typeof value === "string") return value.startsWith("gated");
      refuse(`${key} must be a string such as 'gated-gelu', got ${repr(value)}`);
    }
    if (kind === "indices" || kind === "layer types") {
      if (!Array.isArray(value)) refuse(`${key} must be a list, got ${repr(value)}`);
      for (const item of value) {
        if (kind === "indices") count(`${key}'s entries`, item);
        else if (!ATTENTION.includes(item)) {
          const known = ATTENTION.map(repr).join(", ");
          refuse(`${key} must hold ${known}, got ${repr(item)}`);
        }
      }
      return value;
    }
    const size = (kind === "count" ? count : positive)(key, value);
    const most = kind === "layers" ? MOST_LAYERS : MOST;
    if (size > most) refuse(`${key}=${size} is too large; at most ${most} is counted`);
    return size;
  }

  return { read };
})();
