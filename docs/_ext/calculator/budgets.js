// What one step needs, what fits a GPU, and what would help, as in tfdoc/cost/budget.py,
// memory.py, advice.py and explained.py. Needs formulas.js, tables.js and ledger.js.
const budgets = (() => {
  "use strict";
  const { repr } = reading;
  const { evaluate, holds, layersWhere } = models;
  const { BYTES, SETS, adapted, attention, multiplications, sum, tokensOf } = ledgers;
  const KINDS = ["activations", "gradients", "logits", "temporaries", "kv_cache"];
  const MOST = 2n ** 40n;
  const whole = (kinds) => sum(Object.values(kinds));
  const commas = (number) => String(number).replace(/\B(?=(\d{3})+$)/g, ",");

  // How many layers there are of each kind; a window wider than the sequence hides nothing.
  function counted(table, values, seq) {
    const number = values.L;
    const layers = (rules) => BigInt(layersWhere(rules ?? [], values, number).length);
    const slides = values.W > 0n && seq >= values.W ? layers(table.sliding) : 0n;
    const sparse = layers(table.sparse);
    return { slides, full: number - slides, sparse, dense: number - sparse };
  }

  // Stacks that a head does not build have no layers.
  function gone(table, values) {
    const stacks = table.stacks.filter((stack) => !holds(stack.when ?? "", values));
    return Object.fromEntries(stacks.map((stack) => [stack.number, 0n]));
  }

  function tableOf(modelType) {
    const table = tables.memory[modelType];
    return (
      table ?? reading.refuse(`memory of model_type=${repr(modelType)} is not known`)
    );
  }

  // The number of the form of every setting that a model can be run in.
  function formsOf(modelType, numbers) {
    const { settings, variants } = tableOf(modelType);
    const [, forms] = variants.find(([where]) => holds(where, numbers));
    const named = settings.map((name, i) => [name, forms[i]]);
    return Object.fromEntries(named.filter(([, form]) => form !== null));
  }

  // The moments of a form: a name, and the expression of each kind there is.
  function expressions(modelType, form) {
    const table = tableOf(modelType);
    return table.forms[form].map((moment) => {
      const [name, ...places] = table.moments[moment];
      const kinds = KINDS.map((kind, i) => [kind, places[i]]).filter(([, at]) => at);
      return [
        name,
        Object.fromEntries(kinds.map(([k, at]) => [k, table.expressions[at]])),
      ];
    });
  }

  function moments(modelType, form, numbers) {
    const least0 = (number) => (number < 0n ? 0n : number);
    const bytes = ([kind, text]) => [kind, least0(evaluate(text, numbers))];
    return expressions(modelType, form).map(([name, kinds]) => [
      name,
      Object.fromEntries(Object.entries(kinds).map(bytes)),
    ]);
  }

  class Budget {
    constructor(book, settings) {
      Object.assign(this, { book, settings, s: settings });
      this.width = settings.precision === "bf16" ? 2n : 4n;
      this.adapters = settings.r
        ? adapted(book.rows, settings.targets, book.architecture)
        : [];
    }

    other(changed) {
      return new Budget(this.book, { ...this.settings, ...changed });
    }

    all(kinds) {
      const rest = KINDS.map((kind) => [kind, kinds[kind] ?? 0n]);
      return {
        weights: this.weights,
        optimizer: this.optimizer,
        ...Object.fromEntries(rest),
      };
    }

    // All kinds at a moment that the table knows in part.
    whole(kinds) {
      const { s } = this;
      const found = this.all(kinds);
      if (s.train && s.accumulate > 1n) {
        const largest = formulas.plain_bytes(this.largest, this.width);
        found.gradients = formulas.accumulated(
          found.gradients,
          this.gradients,
          largest,
        );
      }
      if (s.quant !== "none") {
        found.temporaries += formulas.plain_bytes(this.largestQuantised, this.width);
      }
      if (!s.train) {
        const natural = s.precision === "amp" ? 2n : this.width;
        found.kv_cache =
          formulas.cache_in(found.kv_cache, BYTES[s.kv_dtype], natural) + this.waiting;
      }
      return found;
    }

    // The adapters as the linear maps that they cost as much as.
    adapterRows() {
      return this.adapters.map(([row, ranks]) => {
        const each = row.kind === "experts" ? ranks / row.shape[0] : ranks;
        const [inputs, outputs] = row.matmul;
        return { ...row, matmul: [this.s.r * each, inputs + outputs] };
      });
    }
  }

  // Each is computed when it is first asked for.
  const SUMS = {
    adapterNumbers: ({ book, s }) => (s.r ? book.lora(s.r, s.targets) : 0n),
    trainable: ({ adapterNumbers, book, s }) =>
      s.train ? adapterNumbers || book.total : 0n,
    weights: ({ adapterNumbers, book, s, width }) => {
      const stored = book.bytes(width === 2n ? "bf16" : "fp32", s.quant);
      return formulas.weight_bytes(stored, adapterNumbers, width);
    },
    gradients: ({ trainable, width }) => formulas.gradient_bytes(trainable, width),
    optimizer: ({ s, trainable, trained, width }) => {
      if (!s.train || s.optim === "sgd" || s.optim === "none") return 0n;
      if (s.optim === "adamw") return formulas.adamw_bytes(trainable, width);
      return sum(
        trained.map(([numbers, copies]) => formulas.adamw8bit_bytes(numbers) * copies),
      );
    },
    // Numbers of a weight, and how many of its kind there are.
    trained: ({ adapters, book, s }) =>
      adapters.length
        ? adapters.flatMap(([row, ranks]) =>
            row.matmul.map((side) => [s.r * ranks * side, row.copies]),
          )
        : book.rows.filter((row) => row.stored).map((row) => [row.size, row.copies]),
    largest: ({ trained }) => integers.max(...trained.map(([numbers]) => numbers)),
    largestQuantised: ({ book }) =>
      integers.max(
        0n,
        ...book.rows.filter((row) => row.quantisable).map((row) => row.size),
      ),
    isLm: ({ book }) =>
      book.rows.some((row) => row.component === "lm_head" && row.head),
    // The smallest set of targets that holds those chosen.
    adapted: ({ adapters, book }) => {
      const names = (pairs) => pairs.map(([row]) => row.name);
      const chosen = names(adapters);
      const holder = Object.keys(SETS).find((set) => {
        const within = names(adapted(book.rows, set, book.architecture));
        return chosen.every((name) => within.includes(name));
      });
      return holder ?? "all-linear";
    },
    // The key of the table of coefficients.
    setting: (budget) => {
      const { s } = budget;
      const words = [s.train ? "train" : "infer", s.precision, s.attn];
      if (s.checkpointing) words.push("checkpointing");
      if (s.train && s.r) words.push(budget.adapted);
      if (s.last && budget.isLm) words.push("last");
      return words.join(" ");
    },
    // The symbols of the expressions.
    numbers: ({ book, isLm, s }) => {
      const { batch, seq } = s;
      const found = {
        ...book.values,
        ...gone(book.table, book.values),
        ...counted(book.table, book.values, seq),
        ...{ batch, seq, tokens: batch * seq, pairs: batch * seq * seq, rank: s.r },
        lm: isLm,
      };
      if (!s.train || s.r) found.tied = true; // matters to full training only
      if (s.train && s.r && !isLm) Object.assign(found, { lm: true, V: 0n }); // of no entries
      return found;
    },
    forms: ({ book, numbers }) => formsOf(book.modelType, numbers),
    known: ({ book, forms, numbers, setting }) =>
      moments(book.modelType, forms[setting], numbers),
    // The moments that can be the peak, with the bytes of all that is allocated.
    moments: (budget) => {
      const { gradients, known, s } = budget;
      const found = known
        .filter(([name]) => name !== "kept")
        .map(([name, kinds]) => [name, budget.whole(kinds)]);
      if (s.train && s.optim !== "none") {
        const temporaries = s.optim === "adamw" ? gradients : 0n;
        found.push(["step", budget.all({ gradients, temporaries })]);
      }
      return found;
    },
    peak: ({ moments }) =>
      integers.max(
        ...moments.map(([, kinds]) =>
          formulas.allocated(...signatures.allocated.map((kind) => kinds[kind])),
        ),
      ),
    kv_cache: ({ book, s }) =>
      s.train ? 0n : book.kvCache(s.requests, s.seq, s.kv_dtype),
    // The caches of requests that are not in this batch.
    waiting: ({ book, s }) => {
      const more = s.requests - s.batch;
      return more ? book.kvCache(more, s.seq, s.kv_dtype) : 0n;
    },
    activations: ({ known }) =>
      sum(known.filter(([name]) => name === "kept").map(([, kinds]) => whole(kinds))),
    logits: ({ book, isLm, s }) =>
      formulas.logits_bytes(
        s.last ? s.batch : s.batch * s.seq,
        isLm ? book.values.V : 0n,
        s.precision === "fp32" ? 4n : 2n,
      ),
    forward: ({ book, s }) => book.flops(s.batch, s.seq, null, s.last ? "last" : "all"),
    training_step: (budget) => {
      const { book, s } = budget;
      if (!s.train) return 0n;
      const tokens = tokensOf(s.batch, s.seq, s.seq, s.seq);
      const products = (rows) => multiplications(rows, book.values, tokens);
      const linear = products(book.rows);
      const pairs = attention(book.table, book.values, s.seq, s.seq);
      const fused = s.attn === "sdpa" ? 1n : 0n;
      const dots = s.batch * pairs;
      const adapters = products(budget.adapterRows());
      const backward = s.r
        ? formulas.adapted_operations(linear, dots, fused, adapters)
        : formulas.backward_operations(linear, dots, fused);
      const forward = formulas.operations(linear + adapters, s.batch, pairs);
      const layers = products(book.rows.filter((row) => row.stack));
      const again = s.checkpointing
        ? formulas.operations(layers + adapters, s.batch, pairs)
        : 0n;
      return formulas.step_operations(s.accumulate, forward, backward, again);
    },
  };
  for (const [name, compute] of Object.entries(SUMS)) {
    Object.defineProperty(Budget.prototype, name, {
      get() {
        const value = compute(this);
        Object.defineProperty(this, name, { value });
        return value;
      },
    });
  }

  // The largest batch or seq that leaves the peak in the room, with all else as it is.
  function largest(budget, name, room) {
    const { book, s } = budget;
    const at = (value) => {
      const requests = name === "batch" ? s.requests - s.batch + value : s.requests;
      return budget.other({ requests, [name]: value }).peak;
    };
    let [least, most] = [0n, MOST];
    if (name === "seq" && book.table.positions) {
      most = evaluate(book.table.positions, book.values);
    }
    if (at(most) <= room) return most;
    while (most - least > 1n) {
      const middle = (least + most) / 2n;
      if (at(middle) <= room) least = middle;
      else most = middle;
    }
    return least;
  }

  // What one change would make of the peak, where it lowers it, the best first.
  function levers(budget) {
    const lower = changes(budget.s)
      .map(([name, changed]) => [name, budget.other(changed)])
      .filter(([, other]) => other.setting in other.forms)
      .map(([name, other]) => [name, other.peak])
      .filter(([, peak]) => peak < budget.peak);
    lower.sort(([, a], [, b]) => (a < b ? -1 : a > b ? 1 : 0));
    return Object.fromEntries(lower);
  }

  function changes(s) {
    const found = [];
    if (s.batch > 1n) {
      const batch = s.batch / 2n;
      found.push([
        `--batch ${batch}`,
        { batch, requests: batch + s.requests - s.batch },
      ]);
    }
    if (s.seq > 1n) found.push([`--seq ${s.seq / 2n}`, { seq: s.seq / 2n }]);
    if (s.precision !== "bf16") found.push(["--precision bf16", { precision: "bf16" }]);
    found.push(["--attn sdpa", { attn: "sdpa" }]);
    if (s.train) {
      const adapters = { r: 16n, targets: "all-linear" };
      found.push(["--checkpointing", { checkpointing: true }]);
      found.push(["--optim adamw8bit", { optim: "adamw8bit" }]);
      if (!s.r) found.push(["--lora 16", adapters]);
      const name = s.r ? "--quant nf4" : "--lora 16 --quant nf4";
      found.push([name, { ...(s.r ? {} : adapters), quant: "nf4" }]);
    } else {
      found.push(["--quant nf4", { quant: "nf4" }]);
      found.push(["--kv-dtype fp8", { kv_dtype: "fp8" }]);
      found.push(["--logits last", { last: true }]);
      if (s.requests > s.batch) {
        found.push([`--requests ${s.batch}`, { requests: s.batch }]);
      }
    }
    return found;
  }

  // The formulas of an estimate: name, formula, and the formula in numbers.
  const OPTIMS = {
    adamw: "2 × trainable × bytes",
    adamw8bit: "2 × trainable + scales of 4 bytes for 256 each",
  };
  const pretty = (text) =>
    text.replaceAll("+-", " - ").replaceAll("+", " + ").replaceAll("*", "·");

  function filled(text, numbers) {
    const spelt = text.replace(/[A-Za-z]\w*/g, (symbol) => numbers[symbol]);
    return `${pretty(spelt)} = ${commas(evaluate(text, numbers))}`;
  }

  function explained(budget) {
    const { book, s, trainable, weights, width } = budget;
    const found = [];
    if (s.quant === "none") {
      const every = commas(book.total + budget.adapterNumbers);
      found.push([
        "weights",
        "parameters × bytes",
        `${every} × ${width} = ${commas(weights)}`,
      ]);
    } else {
      found.push([
        "weights",
        `matrices in ${s.quant}, all else × bytes`,
        commas(weights),
      ]);
    }
    if (s.train) {
      const trained = `${commas(trainable)} × ${width}`;
      const gradients = `${trained} = ${commas(budget.gradients)}`;
      found.push(["gradients", "trainable × bytes", gradients]);
      if (OPTIMS[s.optim]) {
        const state = commas(budget.optimizer);
        const said = s.optim === "adamw" ? `2 × ${trained} = ${state}` : state;
        found.push(["optimizer", OPTIMS[s.optim], said]);
      }
    } else {
      const kept = "requests × kept numbers × bytes";
      found.push(["kv_cache", kept, commas(budget.kv_cache)]);
    }
    const form = budget.forms[budget.setting];
    for (const [name, kinds] of expressions(book.modelType, form)) {
      for (const [kind, text] of Object.entries(kinds)) {
        const label = name === "kept" ? "kept activations" : `${name}: ${kind}`;
        found.push([label, pretty(text), filled(text, budget.numbers)]);
      }
    }
    found.push(["forward", "2 × multiply-adds", commas(budget.forward)]);
    if (s.train) {
      const all = "forward, backward, again";
      found.push(["training step", all, commas(budget.training_step)]);
    }
    return found;
  }

  return { Budget, MOST, commas, explained, largest, levers, whole };
})();
