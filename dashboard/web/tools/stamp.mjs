// After the build: compresses each asset, names its version in index.html, and writes the stamp of the sources
// that `dashboard/src/tests.rs` compares, so that stale assets fail without Node.
import { createHash } from "node:crypto";
import { readFileSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { dirname, join, relative, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";

const web = join(dirname(fileURLToPath(import.meta.url)), "..");
const assets = join(web, "..", "assets");

/** What decides the built bytes. Keep in step with `SOURCES` in dashboard/src/tests.rs. */
const SOURCES = ["index.html", "package.json", "package-lock.json", "vite.config.ts", "tsconfig.json", "src", "public", "tools/stamp.mjs"];

function files(path) {
  if (!statSync(path).isDirectory()) return [path];
  return readdirSync(path).flatMap((name) => files(join(path, name)));
}

function sha256(bytes) {
  return createHash("sha256").update(bytes).digest("hex");
}

/** SHA-256 over the sorted lines "<sha256 of file>  <path>\n". */
function stampOfSources() {
  const lines = SOURCES.flatMap((name) => files(join(web, name)))
    .map((path) => [relative(web, path).split(sep).join("/"), sha256(readFileSync(path))])
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, hash]) => `${hash}  ${name}\n`);
  return sha256(lines.join(""));
}

function versioned(html) {
  return html.replace(/(src|href)="(\/app\.[a-z]+)"/g, (_all, attribute, path) =>
    `${attribute}="${path}?v=${sha256(readFileSync(join(assets, path))).slice(0, 16)}"`);
}

const index = join(assets, "index.html");
writeFileSync(index, versioned(readFileSync(index, "utf8")));
let gzipBytes = 0;
for (const path of files(assets).filter((name) => /\.(html|js|css|svg)$/.test(name))) {
  const plain = readFileSync(path);
  const gzip = gzipSync(plain, { level: 9 });
  writeFileSync(`${path}.gz`, gzip);
  writeFileSync(`${path}.br`, brotliCompressSync(plain, { params: { [constants.BROTLI_PARAM_QUALITY]: 11 } }));
  if (path.endsWith(".js")) gzipBytes += gzip.length;
}
writeFileSync(join(assets, "sources.sha256"), `${stampOfSources()}\n`);

const LIMIT_BYTES = 60 * 1024;
console.log(`JavaScript: ${gzipBytes} bytes gzip of ${LIMIT_BYTES}`);
if (gzipBytes > LIMIT_BYTES) {
  console.error("the JavaScript is over its budget");
  process.exit(1);
}
