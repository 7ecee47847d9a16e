// Ask the calculator. Usage: node ledgers.cjs <script> < cases > answers
// A case is {config, architecture, asks: [[method, ...arguments]]} or {estimate: settings};
// whole numbers come and go as {"whole": "123"}.
const { readFileSync } = require("node:fs");
const { runInThisContext } = require("node:vm");

const script = readFileSync(process.argv[2], "utf8");
const { estimates, ledgers } = runInThisContext(`${script}; ({ estimates, ledgers })`);

const revive = (_, value) => (value?.whole ? BigInt(value.whole) : value);
const write = (_, value) => (typeof value === "bigint" ? { whole: `${value}` } : value);

function attempt(act) {
  try {
    return act();
  } catch (error) {
    return { [error.constructor.name]: error.message };
  }
}

function answer({ config, architecture, asks, estimate }) {
  if (estimate) return attempt(() => estimates.estimate(estimate));
  return attempt(() => {
    const book = ledgers.ledger(config, architecture ?? undefined);
    const { total, active, embedding, byComponent, rows, used, neutral, leftOut } =
      book;
    return {
      architecture: book.architecture,
      total,
      active,
      embedding,
      byComponent,
      used,
      neutral,
      leftOut,
      rows: rows.map((row) => [
        row.component,
        row.stack,
        row.name,
        row.shape,
        row.tied,
        row.lora,
        row.matmul,
        row.copies,
        row.runs,
        row.side,
        row.per,
        row.quantisable,
      ]),
      asks: asks.map(([method, ...rest]) => attempt(() => book[method](...rest))),
    };
  });
}

const cases = JSON.parse(readFileSync(0, "utf8"), revive);
process.stdout.write(JSON.stringify(cases.map(answer), write));
