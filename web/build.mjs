// Builds the islands into dist/: modules and styles named by their content, packed copies beside them, and manifest.json,
// which `ui::Assets` reads. Nothing is loaded from another host, so everything that a page needs is in this folder.
import { createHash } from "node:crypto";
import { mkdir, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";
import { build } from "esbuild";

const out = "dist";
const islands = ["map", "chart", "live", "board"];
await rm(out, { recursive: true, force: true });
await mkdir(out, { recursive: true });

// MapLibre starts its worker from a file of its own; it must have an address that the page knows.
const worker = await readFile("node_modules/maplibre-gl/dist/maplibre-gl-worker.mjs");
const workerName = `map-worker-${createHash("sha256").update(worker).digest("hex").slice(0, 8)}.mjs`;
await writeFile(`${out}/${workerName}`, worker.toString().replace(/\n\/\/# sourceMappingURL=.*$/, "\n"));

const result = await build({
  entryPoints: islands.map((name) => `src/${name}/index.ts`),
  outdir: out,
  bundle: true,
  splitting: true,
  format: "esm",
  target: ["es2022"],
  minify: true,
  metafile: true,
  legalComments: "none",
  entryNames: "[dir]-[hash]",
  chunkNames: "chunk-[name]-[hash]",
  outbase: "src",
  define: { MAP_WORKER: JSON.stringify(workerName) },
  logLevel: "warning",
});

// `src/map/index.ts` becomes `map-<hash>.js`: flat, because addresses under /assets/ have one level.
const manifest = { islands: {}, files: [] };
for (const [path, info] of Object.entries(result.metafile.outputs)) {
  const name = path.slice(out.length + 1);
  const entry = info.entryPoint?.match(/^src\/(\w+)\/index\.ts$/)?.[1];
  if (entry) {
    const css = info.cssBundle?.slice(out.length + 1);
    manifest.islands[entry] = css ? { js: name, css } : { js: name };
  }
}
await writeFile(`${out}/LICENSES.txt`, await licenses());
manifest.files = (await readdir(out)).sort();
for (const name of manifest.files) {
  if (name.includes("/")) throw new Error(`${name} is not flat`);
  const bytes = await readFile(`${out}/${name}`);
  if (bytes.length < 512) continue;
  const brotli = { params: { [constants.BROTLI_PARAM_QUALITY]: 11, [constants.BROTLI_PARAM_SIZE_HINT]: bytes.length } };
  const packed = brotliCompressSync(bytes, brotli);
  await writeFile(`${out}/${name}.br`, packed);
  await writeFile(`${out}/${name}.gz`, gzipSync(bytes, { level: 9 }));
  console.log(`${name.padEnd(32)} ${String(bytes.length).padStart(9)} B ${String(packed.length).padStart(8)} B over the wire`);
}
await writeFile(`${out}/manifest.json`, `${JSON.stringify(manifest, null, 2)}\n`);

/** What the licences of the bundled packages ask for: their notices, beside the code. */
async function licenses() {
  const used = new Set(Object.keys(result.metafile.inputs).map((p) => p.match(/node_modules\/((?:@[^/]+\/)?[^/]+)/)?.[1]).filter(Boolean));
  let text = "";
  for (const name of [...used].sort()) {
    const files = await readdir(`node_modules/${name}`);
    const file = files.find((f) => /^licen[cs]e/i.test(f));
    const body = file ? await readFile(`node_modules/${name}/${file}`, "utf8") : "See the package.\n";
    text += `==== ${name} ====\n${body}\n`;
  }
  return text;
}
