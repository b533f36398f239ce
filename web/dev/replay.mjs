// A static replay with fixture data: node dev/replay.mjs SCENARIO OUT
import { cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import * as fixtures from "./fixtures.mjs";

const home = join(dirname(fileURLToPath(import.meta.url)), "../../src/farflung/window/static");

/** Writes page and data of `scenario` into `out`, as `farflung report --html` does. */
export function writeReplay(scenario, out, count = 60) {
  const run = fixtures.run(scenario);
  const end = run.spec.rounds;
  mkdirSync(join(out, "data"), { recursive: true });
  cpSync(home, out, { recursive: true });
  const page = readFileSync(join(home, "index.html"), "utf8");
  writeFileSync(join(out, "index.html"), page.replace('content="auto"', 'content="replay"'));
  const n = Math.min(count, end);
  const moments = Array.from({ length: n }, (_, i) => Math.max(1, Math.round(((i + 1) * end) / n))).map((now, i) => {
    const file = `data/moment-${String(i).padStart(3, "0")}.js`;
    const value = fixtures.moment(run, now);
    writeFileSync(join(out, file), `farflung_moment(${i}, ${JSON.stringify(value)});\n`);
    return { round: now - 1, at: value.head.at, file };
  });
  const frame = fixtures.frame(run, end);
  writeFileSync(join(out, "data/run.js"), `farflung(${JSON.stringify({ version: 1, frame, moments })});\n`);
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) writeReplay(process.argv[2], process.argv[3]);
