// The table of model types: its inheritance, its expressions, its conditions, as in
// tfdoc/cost/tables.py. Needs tables.js and formulas.js.
const models = (() => {
  "use strict";
  const MERGED = [
    "keys",
    "let",
    "aliases",
    "aliased",
    "heads",
    "prefixes",
    "only",
    "ties",
  ];
  const table = tables.models;
  const COMMON = new Set(table.neutral);
  const known = new Map();

  // A type with all it inherits; its rows are spelt out.
  function model(type) {
    if (!known.has(type)) known.set(type, spelt(table.types[type]));
    return known.get(type);
  }

  function spelt(own) {
    const base = own.like ? model(own.like) : {};
    const full = { ...base, ...own };
    for (const field of MERGED) {
      // Own definitions first: those inherited may rest on them.
      const first = field === "let" ? own[field] : {};
      const merged = { ...first, ...base[field], ...own[field] };
      full[field] = Object.fromEntries(
        Object.entries(merged).filter(([, value]) => value !== null),
      );
    }
    full.listed = new Set([...(base.listed ?? COMMON), ...(own.neutral ?? [])]);
    const sized = [...Object.keys(full.keys), ...Object.keys(full.only)];
    full.neutral = new Set([...full.listed].filter((key) => !sized.includes(key)));
    if (own.stacks) {
      full.stacks = own.stacks.map((stack) => ({
        ...stack,
        rows: stack.rows.flatMap((group) => table.groups[group]),
      }));
    }
    full.headRows = Object.fromEntries(
      Object.entries(full.heads).map(([head, groups]) => [
        head,
        groups.flatMap((group) => table.heads[group]),
      ]),
    );
    return full;
  }

  const number = (name, values) =>
    /^-?\d+$/.test(name) ? BigInt(name) : BigInt(values[name]);

  // The value of a sum of products, or of the first one that holds.
  function evaluate(expression, values) {
    if (typeof expression !== "string") {
      const [, then] = expression.find(([condition]) => holds(condition, values));
      return evaluate(then, values);
    }
    let total = 0n;
    for (const term of expression.split("+")) {
      let product = 1n;
      for (const factor of term.split("*")) {
        const [top, bottom] = factor.split(/\/+/);
        product *= number(top, values);
        if (bottom) product = integers.floor(product, number(bottom, values));
      }
      total += product;
    }
    return total;
  }

  const truth = (value) => (Array.isArray(value) ? value.length > 0 : Boolean(value));

  // Whether a condition holds; the empty one always does.
  function holds(condition, values) {
    return (condition ? condition.split("&") : []).every((part) => {
      const [name, other] = part.replace(/^!+/, "").split("=");
      const value = other
        ? !Array.isArray(values[name]) &&
          number(name, values) === evaluate(other, values)
        : truth(values[name]);
      return value !== part.startsWith("!");
    });
  }

  const whole = (value) => (typeof value === "bigint" ? Number(value) : value);
  const VERBS = {
    all: () => true,
    none: () => false,
    from: (i, first) => i >= first,
    every: (i, step) => (i + 1) % step === 0,
    "not every": (i, step) => (i + 1) % step !== 0,
    "every but": (i, step, out) => (i + 1) % step === 0 && !(out || []).includes(i),
    "even before": (i, end) => i % 2 === 0 && i < end,
    listed: (i, layers) => layers.includes(i),
    zero: (i, marks) => !marks[i],
    nonzero: (i, marks) => Boolean(marks[i]),
    named: (i, kinds) => kinds[i] !== "full_attention",
  };

  // The layers that the first rule which applies picks.
  function layersWhere(rules, values, number) {
    const [, verb, ...symbols] = rules.find(([c]) => holds(c, values)) ?? ["", "none"];
    const at = symbols
      .map((name) => values[name])
      .map((value) => (Array.isArray(value) ? value.map(whole) : whole(value)));
    return range(0, number).filter((i) => VERBS[verb](i, ...at));
  }

  function range(start, stop) {
    const length = Math.max(0, Number(stop) - start);
    return Array.from({ length }, (_, i) => start + i);
  }

  return { COMMON, evaluate, holds, layersWhere, model, range };
})();
