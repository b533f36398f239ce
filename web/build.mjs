// Builds the page into src/farflung/window/static. The same sources give the same bytes:
// `--check` builds aside and compares with what is committed; `--tests` builds the unit tests.
import { build } from "esbuild";
import { readdirSync, readFileSync, mkdirSync, writeFileSync, rmSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const home = join(here, "../src/farflung/window/static");
const limit = 250 * 1024; // bytes, gzipped, all files together

async function pieces() {
  const shared = {
    bundle: true,
    minify: true,
    write: false,
    format: "iife",
    target: ["chrome105", "firefox110", "safari16"],
    charset: "utf8",
    legalComments: "none",
    absWorkingDir: here,
    outdir: "build",
    external: ["*.woff2"],
    define: { "process.env.NODE_ENV": '"production"' },
  };
  const app = await build({ ...shared, entryPoints: { app: "src/main.ts" } });
  const theme = await build({ ...shared, entryPoints: { theme: "src/theme.ts" } });
  const files = new Map();
  for (const file of [...app.outputFiles, ...theme.outputFiles]) {
    files.set(file.path.split("/").at(-1), Buffer.from(file.contents));
  }
  for (const name of ["index.html", "icon.svg"]) files.set(name, readFileSync(join(here, name)));
  const font = (path) => readFileSync(join(here, "node_modules", path));
  const serif = "@fontsource/source-serif-4";
  files.set("inter.woff2", font("@fontsource-variable/inter/files/inter-latin-wght-normal.woff2"));
  files.set("serif.woff2", font(`${serif}/files/source-serif-4-latin-400-normal.woff2`));
  // For pictures that are drawn without a browser (window/land.py); the page has it in app.js.
  files.set("world.json", readFileSync(join(here, "map/world.json")));
  files.set("licenses.txt", Buffer.from(licenses()));
  return new Map([...files].sort());
}

/** The licences of what is bundled, as their authors ask. */
function licenses() {
  const names = [
    ["uplot", "LICENSE"],
    ["d3-geo", "LICENSE"],
    ["d3-array", "LICENSE"],
    ["internmap", "LICENSE"],
    ["topojson-client", "LICENSE"],
    ["world-atlas", "LICENSE"],
    ["@fontsource-variable/inter", "LICENSE"],
    ["@fontsource/source-serif-4", "LICENSE"],
  ];
  return names
    .map(([name, file]) => {
      const text = readFileSync(join(here, "node_modules", name, file), "utf8");
      const { version } = JSON.parse(
        readFileSync(join(here, "node_modules", name, "package.json"), "utf8"),
      );
      return `== ${name} ${version}\n\n${text.replaceAll("\r\n", "\n").trim()}\n`;
    })
    .join("\n");
}

function weigh(files) {
  let total = 0;
  for (const [name, bytes] of files) {
    const zipped = name.endsWith(".woff2") ? bytes.length : gzipSync(bytes, { level: 9 }).length;
    total += zipped;
    const kb = (n) => `${(n / 1024).toFixed(1)} KB`.padStart(9);
    console.log(`${name.padEnd(14)}${kb(bytes.length)}${kb(zipped)} gzipped`);
  }
  console.log(`${"all".padEnd(14)}${"".padStart(9)}${(total / 1024).toFixed(1).padStart(6)} KB`);
  if (total > limit) throw new Error(`the page weighs ${total} bytes gzipped; limit ${limit}`);
}

function check(files) {
  const there = readdirSync(home).sort();
  const wrong = [];
  for (const name of new Set([...there, ...files.keys()])) {
    if (!files.has(name)) wrong.push(`${name}: committed, but not built`);
    else if (!there.includes(name)) wrong.push(`${name}: built, but not committed`);
    else if (!readFileSync(join(home, name)).equals(files.get(name))) wrong.push(`${name}: differs`);
  }
  if (wrong.length > 0) {
    console.error(`src/farflung/window/static is not what web/ builds: run make web\n${wrong.join("\n")}`);
    process.exit(1);
  }
  console.log("src/farflung/window/static is what web/ builds");
}

async function tests() {
  const names = readdirSync(join(here, "tests")).filter((n) => n.endsWith(".test.ts"));
  rmSync(join(here, "build/tests"), { recursive: true, force: true });
  await build({
    bundle: true,
    platform: "node",
    format: "esm",
    absWorkingDir: here,
    entryPoints: names.map((n) => `tests/${n}`),
    outdir: "build/tests",
    loader: { ".css": "empty" },
    logLevel: "warning",
  });
}

if (process.argv.includes("--tests")) {
  await tests();
} else {
  const files = await pieces();
  weigh(files);
  if (process.argv.includes("--check")) check(files);
  else {
    mkdirSync(home, { recursive: true });
    for (const name of readdirSync(home)) if (!files.has(name)) rmSync(join(home, name));
    for (const [name, bytes] of files) writeFileSync(join(home, name), bytes);
  }
}
