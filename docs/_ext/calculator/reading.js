// What a config is written in, as Python reads and writes it: integers are BigInt, other
// numbers Number, objects Map; and what is wrong is refused in Python's words.
const reading = (() => {
  "use strict";
  const LARGEST = 2 ** 24; // characters
  const DEEPEST = 500;

  class Refused extends Error {}
  const refuse = (message) => {
    throw new Refused(message);
  };

  // JSON with integers of any size, with NaN, and with no key twice.
  const SPACE = /[ \t\n\r]*/y;
  const STRING = /"[^"\\]*(?:\\.[^"\\]*)*"/sy;
  const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
  const WORD = /true|false|null|NaN|-?Infinity/y;
  const WORDS = new Map([
    ["true", true],
    ["false", false],
    ["null", null],
  ]);

  function parse(text) {
    if (text.length > LARGEST) refuse(`the config is larger than ${LARGEST} bytes`);
    let at = 0;
    const wrong = (what) => {
      const line = text.slice(0, at).split("\n").length;
      refuse(`the config is not JSON: ${what} in line ${line}; is it complete?`);
    };
    const eat = (pattern) => {
      pattern.lastIndex = at;
      const [found] = pattern.exec(text) ?? [];
      at += found?.length ?? 0;
      return found;
    };
    const peek = () => {
      eat(SPACE);
      return text[at];
    };
    const expect = (mark) => {
      if (peek() !== mark) wrong(`no ${mark}`);
      at++;
    };
    const list = (close, item) => {
      at++;
      if (peek() !== close) {
        do item();
        while (peek() === "," && ++at);
      }
      expect(close);
    };
    const string = () => {
      peek();
      const raw = eat(STRING) ?? wrong("no text in quotes");
      try {
        return JSON.parse(raw);
      } catch {
        return wrong(`a wrong sign in ${raw}`);
      }
    };
    const value = (depth) => {
      if (depth > DEEPEST) refuse("the config is nested too deeply to be a config");
      const mark = peek();
      if (mark === '"') return string();
      if (mark === "{") {
        const found = new Map();
        list("}", () => {
          const key = string();
          if (found.has(key)) {
            refuse(`the key ${repr(key)} stands twice in the config; keep one`);
          }
          expect(":");
          found.set(key, value(depth + 1));
        });
        return found;
      }
      if (mark === "[") {
        const found = [];
        list("]", () => found.push(value(depth + 1)));
        return found;
      }
      const number = eat(NUMBER);
      if (number) return /[.eE]/.test(number) ? Number(number) : BigInt(number);
      const word = eat(WORD) ?? wrong("no value");
      return WORDS.has(word) ? WORDS.get(word) : Number(word);
    };
    const whole = value(0);
    if (peek() !== undefined) wrong("something after the end");
    return whole;
  }

  // Values as Python writes them.
  function repr(value) {
    if (value === null) return "None";
    if (typeof value === "boolean") return value ? "True" : "False";
    if (typeof value === "number") return floating(value);
    if (typeof value === "string") return quoted(value);
    if (Array.isArray(value)) return `[${value.map(repr).join(", ")}]`;
    if (value instanceof Map) {
      return `{${[...value].map(([k, v]) => `${repr(k)}: ${repr(v)}`).join(", ")}}`;
    }
    return String(value);
  }

  function quoted(text) {
    const mark = text.includes("'") && !text.includes('"') ? '"' : "'";
    const escapes = { "\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\" };
    const escaped = text.replace(/[\n\r\t\\]/g, (c) => escapes[c]);
    return mark + (mark === "'" ? escaped.replaceAll("'", "\\'") : escaped) + mark;
  }

  function floating(value) {
    if (!Number.isFinite(value))
      return String(value).slice(0, -5).toLowerCase() || "nan";
    const [digits, power] = value.toExponential().split("e");
    if (power < -4 || power >= 16) {
      return `${digits}e${power[0]}${power.slice(1).padStart(2, "0")}`;
    }
    return Number.isInteger(value) ? `${value}.0` : String(value);
  }

  function typeOf(value) {
    if (value === null) return "NoneType";
    if (Array.isArray(value)) return "list";
    if (value instanceof Map) return "dict";
    return { boolean: "bool", bigint: "int", number: "float", string: "str" }[
      typeof value
    ];
  }

  // Python's ==, in which True is 1 and 1 is 1.0.
  function same(a, b) {
    if (Array.isArray(a) && Array.isArray(b)) {
      return a.length === b.length && a.every((item, i) => same(item, b[i]));
    }
    if (a instanceof Map && b instanceof Map) {
      return (
        a.size === b.size && [...a].every(([k, v]) => b.has(k) && same(v, b.get(k)))
      );
    }
    const numbers = ["boolean", "bigint", "number"];
    return numbers.includes(typeof a) && numbers.includes(typeof b) ? a == b : a === b;
  }

  // Checks of numbers.
  function flag(name, value) {
    if (typeof value === "boolean") return value;
    return refuse(
      `${name} must be True or False, got ${repr(value)} (${typeOf(value)})`,
    );
  }

  function whole(name, value, what, least) {
    if (typeof value !== "bigint") {
      const got = `${repr(value)} (${typeOf(value)})`;
      refuse(`${name} must be ${what}, got ${got}; round or convert it with int()`);
    }
    if (value < least) refuse(`${name} must be at least ${least}, got ${value}`);
    return value;
  }

  const positive = (name, value) => whole(name, value, "a positive integer", 1n);
  const count = (name, value) => whole(name, value, "an integer", 0n);

  function oneOf(name, value, allowed) {
    if (allowed.includes(value)) return value;
    return refuse(`${name} must be one of ${allowed.join(", ")}; got ${repr(value)}`);
  }

  function divides(name, part, wholeName, all) {
    if (all % part === 0n) return;
    const divisors = [];
    for (let n = 1n; n * n <= all; n++) if (all % n === 0n) divisors.push(n, all / n);
    divisors.sort((a, b) => (a < b ? -1 : 1));
    const near = [
      ...divisors.filter((n) => n < part).slice(-1),
      ...divisors.filter((n) => n > part).slice(0, 1),
    ];
    refuse(
      `${name}=${part} does not divide ${wholeName}=${all}; the nearest that ` +
        `${near.length === 1 ? "does is" : "do are"} ${near.join(" and ")}`,
    );
  }

  // '; did you mean ...' with the nearest names, as difflib finds them.
  function near(name, names) {
    const found = [...names]
      .map((other) => [
        (2 * matching(other, name)) / (other.length + name.length),
        other,
      ])
      .filter(([ratio]) => ratio >= 0.7)
      .sort(([r, a], [s, b]) => s - r || (a < b ? 1 : -1))
      .slice(0, 2);
    if (!found.length) return "";
    return `; did you mean ${found.map(([, other]) => repr(other)).join(" or ")}?`;
  }

  function matching(a, b) {
    let [size, i, j] = [0, 0, 0];
    let above = [];
    for (let x = 0; x < a.length; x++) {
      const lengths = [];
      for (let y = 0; y < b.length; y++) {
        lengths[y] = a[x] === b[y] ? (above[y - 1] ?? 0) + 1 : 0;
        if (lengths[y] > size) {
          [size, i, j] = [lengths[y], x + 1 - lengths[y], y + 1 - lengths[y]];
        }
      }
      above = lengths;
    }
    if (!size) return 0;
    const before = matching(a.slice(0, i), b.slice(0, j));
    return before + size + matching(a.slice(i + size), b.slice(j + size));
  }

  return {
    Refused,
    count,
    divides,
    flag,
    near,
    oneOf,
    parse,
    positive,
    refuse,
    repr,
    same,
    typeOf,
  };
})();
