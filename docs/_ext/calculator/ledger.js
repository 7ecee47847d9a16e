// The ledger of a config: its rows, and their sums, as in tfdoc/cost. Every formula comes
// from formulas.js. Needs formulas.js, reading.js, models.js and config.js.
const ledgers = (() => {
  "use strict";
  const { near, oneOf, positive, refuse, repr } = reading;
  const { evaluate, holds, layersWhere, range } = models;
  const BYTES = { fp32: 4n, bf16: 2n, fp16: 2n, fp8: 1n };
  const KINDS = ["linear", "conv1d", "router", "experts", "norm", "table", "raw"];
  const EMBEDDINGS = ["embed_tokens", "embed_positions", "embed_other"];
  const product = (numbers) => numbers.reduce((a, b) => a * b, 1n);
  const sum = (numbers) => numbers.reduce((a, b) => a + b, 0n);

  // One parameter in every layer that has it; see Row in tfdoc/cost/entries.py.
  function rowsOf({ table, head, values }) {
    const headRows = table.headRows[head];
    const prefix = headRows.length ? (table.prefixes[head] ?? table.base) : "";
    const base = prefix && `${prefix}.`;
    const build = { base, ties: table.ties[head] ?? {}, table, values };
    const outside = (rows, at) => rows.flatMap((row) => place(build, row, at, {}));
    return [
      ...outside(table.start, base),
      ...stacksOf(table, values).flatMap((stack) => stackRows(build, stack)),
      ...outside(table.end, base),
      ...outside(headRows, ""),
    ];
  }

  function stackRows(build, stack) {
    const { table, values } = build;
    const number = evaluate(stack.number, values);
    const where = { "": range(0, number), first: range(0, 1), later: range(1, number) };
    if (table.sparse?.length) {
      where.sparse = layersWhere(table.sparse, values, number);
      const skipped = new Set(where.sparse);
      where.dense = where[""].filter((i) => !skipped.has(i));
    }
    const name = build.base + stack.name;
    const runs = stack.runs ? evaluate(stack.runs, values) : 0n;
    return stack.rows
      .filter((row) => where[row.layers ?? ""].length)
      .flatMap((row) => {
        const layers = where[row.layers ?? ""];
        const { side } = stack;
        return place(build, row, `${name}.*.`, { stack: name, layers, runs, side });
      });
  }

  // A weight and its bias, in all the layers of its place.
  function place(build, row, at, { stack = null, layers = null, runs, side = "" }) {
    const { values } = build;
    if (!holds(row.when, values)) return [];
    const each = row.each ? evaluate(row.each, values) : 1n;
    const copies = each * BigInt(layers ? layers.length : 1);
    const kind = KINDS.find((k) => k in row);
    const head = "head" in row || "tie" in row;
    return parameters(row, kind, values).map(([end, shape, matmul]) => {
      const tied = tiedTo(build, row, end);
      const size = product(shape);
      return {
        component: row.part,
        stack,
        layers,
        each,
        copies,
        runs: runs || copies,
        side,
        name: at + row.name + end,
        shape,
        tied,
        kind,
        lora: matmul ? role(build, row, kind, head) : null,
        matmul,
        per: row.per ?? "",
        size,
        stored: tied ? 0n : size * copies,
        quantisable: Boolean(matmul) && !head && kind !== "router",
        head,
      };
    });
  }

  // [ending of the name, shape, inputs and outputs if it multiplies]
  function parameters(row, kind, values) {
    const dims = row[kind].map((dim) => evaluate(dim, values));
    const biased = row.bias && evaluate(row.bias, values);
    if (kind === "raw") return [["", dims, null]];
    if (kind === "table") return [[".weight", dims, null]];
    if (kind === "norm") {
      const ends = [".weight", ".bias"].filter((end) => values[`norm_${end.slice(1)}`]);
      return ends.map((end) => [end, dims, null]);
    }
    const [into, out, experts] = dims;
    const turned = kind === "experts" ? row.transposed : kind === "conv1d";
    const shape = turned ? [into, out] : [out, into];
    const [weight, bias] = kind === "experts" ? ["", "_bias"] : [".weight", ".bias"];
    const copies = kind === "experts" ? [experts] : [];
    return [
      [weight, [...copies, ...shape], [into, out]],
      ...(biased ? [[bias, [...copies, out], null]] : []),
    ];
  }

  function tiedTo({ base, ties, values }, row, end) {
    if (!row.tie || !(row.always || values.tied)) return null;
    const target = ties[row.name + end] ?? row.tie[end.replace(/^\./, "")] ?? null;
    return target && target.replaceAll("@", base);
  }

  function role({ table }, row, kind, head) {
    const mixture = kind === "router" || kind === "experts";
    if (head || (mixture && !table.lora_experts)) return null;
    return row.lora ?? (mixture ? kind : "linear");
  }

  // Which matrices LoRA adapts, and with how many times the rank; see adapters.py.
  const SETS = { qv: ["q", "v", "qkv"], qkvo: ["q", "k", "v", "o", "a", "qkv"] };
  const FUSED = {
    gate: ["router", ""],
    gate_proj: ["experts", "gate_up_proj"],
    up_proj: ["experts", "gate_up_proj"],
    w1: ["experts", "gate_up_proj"],
    w3: ["experts", "gate_up_proj"],
    down_proj: ["experts", "down_proj"],
    w2: ["experts", "down_proj"],
  };
  const moduleOf = (row) => row.name.replace(/\.weight$/, "");
  const leafOf = (name) => name.slice(name.lastIndexOf(".") + 1);

  function ranks(row) {
    if (row.kind !== "experts") return 1n;
    return row.shape[0] * (row.name.endsWith("gate_up_proj") ? 2n : 1n);
  }

  function adapted(rows, targets, architecture) {
    const able = rows.filter((row) => row.lora !== null);
    const fused = able.some((row) => row.kind === "experts");
    if (Object.hasOwn(SETS, targets)) {
      return able.filter((row) => SETS[targets].includes(row.lora)).map((r) => [r, 1n]);
    }
    if (targets === "all-linear") {
      const renamed = ({ kind, name }) =>
        (kind === "linear" || kind === "conv1d") && leafOf(moduleOf({ name })) in FUSED;
      return able
        .filter((row) => !(fused && renamed(row)))
        .map((row) => [row, ranks(row)]);
    }
    const names = targets.split(",");
    const found = new Map();
    for (const name of names) {
      const hits = able.filter((row) => matches(row, name.trim(), fused));
      if (!hits.length) {
        const modules = able.filter((row) => row.kind !== "experts").map(moduleOf);
        const leaves = [...new Set(modules.map(leafOf))].sort();
        const hint = near(name, leaves) || `; there are ${leaves.join(", ")}`;
        refuse(`targets=${repr(name)} names no linear layer of ${architecture}${hint}`);
      }
      hits.forEach((row) => found.set(row.name, row));
    }
    const joint = (row) => row.kind === "experts" && row.name.endsWith("gate_up_proj");
    if ([...found.values()].some(joint)) both(names.map((name) => leafOf(name.trim())));
    return [...found.values()].map((row) => [row, ranks(row)]);
  }

  function matches(row, name, fused) {
    const leaf = leafOf(name);
    if (fused && Object.hasOwn(FUSED, leaf)) {
      const [kind, end] = FUSED[leaf];
      return row.kind === kind && row.name.endsWith(end);
    }
    if (row.kind === "router" || row.kind === "experts") return false;
    return moduleOf(row) === name || moduleOf(row).endsWith(`.${name}`);
  }

  function both(leaves) {
    for (const pair of [
      ["gate_proj", "up_proj"],
      ["w1", "w3"],
    ]) {
      const there = pair.filter((leaf) => leaves.includes(leaf));
      if (there.length === 1) {
        const [missing] = pair.filter((leaf) => !leaves.includes(leaf));
        refuse(
          `targets=${repr(there[0])} without ${repr(missing)}: the experts hold them as ` +
            "one matrix; name both",
        );
      }
    }
  }

  // What weights occupy, what a pass multiplies, what it leaves in the cache; see work.py.
  function bytesOf(row, dtype, quant) {
    const width = BYTES[dtype];
    if (quant === "none" || !row.quantisable)
      return formulas.plain_bytes(row.stored, width);
    const one =
      quant === "int8"
        ? formulas.int8_bytes(row.size, row.matmul[0])
        : formulas.nf4_bytes(row.size);
    return one * row.copies;
  }

  function stacksOf(table, values) {
    return table.stacks.filter((stack) => holds(stack.when, values));
  }

  function cached(table, values, seq, source) {
    if (table.encoder && !values.causal) return 0n;
    const kept = stacksOf(table, values).filter((stack) => stack.side !== "encoder");
    return sum(
      kept.map((stack) => {
        const number = evaluate(stack.number, values);
        const windows = layersWhere(table.sliding ?? [], values, number).length;
        const across = stack.side === "decoder" && !values.alone;
        return formulas.cached_numbers(
          evaluate(stack.cached ?? "cached", values),
          number,
          BigInt(windows),
          seq,
          formulas.window_kept(seq, values.W),
          across ? source : 0n,
        );
      }),
    );
  }

  // How many rows a linear map is applied to, by what it is applied to.
  function tokensOf(batch, seq, source, positions) {
    const logits = batch * positions;
    return { token: batch * seq, source: batch * source, sequence: batch, logits };
  }

  function multiplications(rows, values, tokens) {
    const used = rows.filter(
      (row) => row.matmul && !(row.component === "cross_attention" && values.alone),
    );
    return sum(
      used.map(({ component, kind, matmul, per, runs, side }) => {
        const apart = side === "encoder" ? "source" : "token";
        const times = tokens[per || (component === "lm_head" ? "logits" : apart)];
        const chosen = kind === "experts" ? values.K : 1n;
        return formulas.linear_products(times, chosen, ...matmul, runs);
      }),
    );
  }

  function attention(table, values, seq, source) {
    return sum(
      stacksOf(table, values).map((stack) => {
        const length = stack.side === "encoder" ? source : seq;
        const across = stack.side === "decoder" && !values.alone;
        return formulas.attention_products(
          evaluate(stack.runs ?? stack.number, values),
          values[stack.heads ?? "H"],
          values[stack.dot ?? "dot"],
          values[stack.mix ?? "mix"],
          length,
          length + (across ? source : 0n),
        );
      }),
    );
  }

  class Ledger {
    constructor(config) {
      Object.assign(this, config);
      this.architecture = config.table.class + config.head;
      this.rows = rowsOf(config);
      this.byComponent = {};
      for (const { component, stored } of this.rows) {
        if (stored)
          this.byComponent[component] = (this.byComponent[component] ?? 0n) + stored;
      }
      this.total = sum(Object.values(this.byComponent));
      this.embedding = sum(EMBEDDINGS.map((name) => this.byComponent[name] ?? 0n));
      const experts = this.byComponent.moe_experts ?? 0n;
      this.active = formulas.active(this.total, experts, this.values.E, this.values.K);
    }

    bytes(dtype = "bf16", quant = "none") {
      oneOf("dtype", dtype, Object.keys(BYTES));
      oneOf("quant", quant, ["none", "int8", "nf4"]);
      return sum(this.rows.map((row) => bytesOf(row, dtype, quant)));
    }

    lora(r, targets = "all-linear") {
      positive("r", r);
      const pairs = adapted(this.rows, targets, this.architecture);
      return sum(
        pairs.map(
          ([row, times]) => formulas.adapter(r * times, ...row.matmul) * row.copies,
        ),
      );
    }

    kvCache(batch, seq, dtype = "bf16", source = null) {
      const width = BYTES[oneOf("dtype", dtype, Object.keys(BYTES))];
      const reads = this.sizes(batch, seq, source);
      return formulas.cache_bytes(
        batch,
        cached(this.table, this.values, seq, reads),
        width,
      );
    }

    flops(batch, seq, source = null, logits = "all") {
      oneOf("logits", logits, ["all", "last"]);
      const reads = this.sizes(batch, seq, source);
      const positions = logits === "all" ? seq : 1n;
      const tokens = tokensOf(batch, seq, reads, positions);
      const products = multiplications(this.rows, this.values, tokens);
      const pairs = attention(this.table, this.values, seq, reads);
      return formulas.operations(products, batch, pairs);
    }

    sizes(batch, seq, source) {
      const sides = stacksOf(this.table, this.values).map((stack) => stack.side);
      if (source !== null && sides.join() !== "encoder,decoder") {
        refuse(
          `source=${repr(source)} but ${this.architecture} has no encoder and decoder; ` +
            "give the length as seq",
        );
      }
      positive("batch", batch);
      positive("seq", seq);
      return source === null ? seq : positive("source", source);
    }
  }

  const ledger = (config, architecture) =>
    new Ledger(configs.read(config, architecture));

  return {
    ...{
      BYTES,
      Ledger,
      SETS,
      adapted,
      attention,
      bytesOf,
      ledger,
      multiplications,
      sum,
    },
    tokensOf,
  };
})();
