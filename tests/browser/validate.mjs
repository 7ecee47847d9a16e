// Check HTML files against the HTML standard; print the faults as JSON.
// Usage: node validate.mjs <node_modules> <file>...
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import path from "node:path";

const [modules, ...files] = process.argv.slice(2);
const home = createRequire(path.resolve(modules, "index.js"));
const library = await import(pathToFileURL(home.resolve("html-validate")));
const { HtmlValidate, StaticConfigLoader } = library.default ?? library;

// The library, not its command line: that one needs a newer Node.
const config = { root: true, extends: ["html-validate:standard"] };
const validator = new HtmlValidate(new StaticConfigLoader(config));
const faults = {};
for (const file of files) {
  const report = await validator.validateFile(file);
  faults[file] = report.results.flatMap(({ messages }) =>
    messages.map(({ line, ruleId, message }) => `line ${line}: ${ruleId}: ${message}`),
  );
}
process.stdout.write(JSON.stringify(faults));
