// Objects (JSON, a list) come by standard input; what is wrong with them goes, as a list of sentences, to standard output.
// Each twice: its package's own validation says what is missing or has a wrong value, the types what should not be there.
import { mkdtempSync, readFileSync, writeFileSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";

const PACKAGES = {
  "gateway.networking.k8s.io": "@kubernetes-models/gateway-api",
  "keda.sh": "@kubernetes-models/keda",
  "monitoring.coreos.com": "@kubernetes-models/prometheus-operator",
};

const objects = JSON.parse(readFileSync(0, "utf8"));
const problems = [];
const lines = [];

for (const [number, object] of objects.entries()) {
  const [group, version] = object.apiVersion.split("/");
  const name = `${object.kind} ${object.metadata?.name}`;
  const module = `${PACKAGES[group]}/${group}/${version}/${object.kind}`;
  const Model = (await import(module))[object.kind];
  try {
    new Model(object).validate();
  } catch (error) {
    problems.push(`${name}: ${error.message}`);
  }
  lines.push(`import type { I${object.kind} as T${number} } from "${module}"; export const o${number}: T${number} = ${JSON.stringify(object)};`);
}

const here = dirname(fileURLToPath(import.meta.url));
const folder = mkdtempSync(join(here, "typed-"));
try {
  const file = join(folder, "objects.ts");
  writeFileSync(file, lines.join("\n"));
  const program = ts.createProgram([file], {
    module: ts.ModuleKind.NodeNext,
    moduleResolution: ts.ModuleResolutionKind.NodeNext,
    noEmit: true,
    skipLibCheck: true,
    strict: true,
    types: [],
  });
  const source = program.getSourceFile(file);
  const found = [...program.getSyntacticDiagnostics(source), ...program.getSemanticDiagnostics(source)];
  for (const one of found) {
    const { line } = source.getLineAndCharacterOfPosition(one.start);
    const { kind, metadata } = objects[line];
    problems.push(`${kind} ${metadata?.name}: ${ts.flattenDiagnosticMessageText(one.messageText, " ")}`);
  }
} finally {
  rmSync(folder, { recursive: true });
}
process.stdout.write(JSON.stringify(problems));
