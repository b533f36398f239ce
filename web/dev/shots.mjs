// Pictures of every page, and what must never happen: errors, requests to elsewhere, overflow.
//   node dev/shots.mjs [--only NAME] [--out shots] [--chromium /usr/bin/chromium]
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";
import { writeReplay } from "./replay.mjs";
import { serve } from "./server.mjs";

const option = (name, otherwise) => {
  const i = process.argv.indexOf(`--${name}`);
  return i < 0 ? otherwise : process.argv[i + 1];
};
const out = option("out", "shots");
const only = option("only", "");
const wide = { width: 1440, height: 900 };
const phone = { width: 390, height: 844 };
const narrow = { width: 360, height: 740 };
const desk = { width: 1920, height: 1080 };

// name, scenario (or replay:scenario), address, viewport, dark, whole page
const SHOTS = [
  ["overview", "four", "", wide, false, true],
  ["overview-dark", "four", "", wide, true, true],
  ["overview-phone", "four", "", phone, false, true],
  ["overview-phone-dark", "four", "", phone, true, true],
  ["overview-narrow", "four", "", narrow, false, true],
  ["overview-desk", "thousand", "", desk, true, true],
  ["overview-thousand", "thousand", "", wide, false, true],
  ["overview-long", "long", "", wide, false, false],
  ["training", "long", "#/training", wide, false, true],
  ["training-dark", "thousand", "#/training", wide, true, true],
  ["training-phone", "four", "#/training", phone, false, true],
  ["samples", "four", "#/samples", wide, false, true],
  ["samples-phone", "four", "#/samples", phone, true, true],
  ["log", "thousand", "#/log", wide, false, false],
  ["log-phone", "four", "#/log", phone, false, false],
  ["about", "four", "#/about", wide, false, true],
  ["about-phone", "four", "#/about", phone, false, true],
  ["fresh", "fresh", "", wide, false, true],
  ["fresh-phone", "fresh", "", phone, true, true],
  ["paused", "paused", "", wide, true, false],
  ["drift", "drift", "", wide, false, false],
  ["hostile", "hostile", "", wide, false, true],
  ["hostile-phone", "hostile", "", phone, false, true],
  ["stopped", "stopped", "", phone, false, false],
  ["replay", "replay:finished", "", wide, false, false],
  ["replay-phone", "replay:finished", "", phone, true, false],
  ["embed", "four", "?embed=loss,speed", { width: 800, height: 400 }, false, false],
  ["embed-dark", "four", "?embed=headline,loss&theme=dark", { width: 800, height: 500 }, false, false],
  ["map", "four", "#/map", wide, false, true],
  ["map-thousand", "thousand", "#/map", wide, true, true],
  ["timeline", "thousand", "#/timeline", wide, false, true],
  ["links", "four", "#/links", wide, false, true],
  ["peers", "thousand", "#/peers", wide, false, false],
  ["peers-phone", "four", "#/peers", phone, false, false],
];

const profile = mkdtempSync(join(tmpdir(), "shots-"));
const browser = await chromium.launch({
  executablePath: option("chromium", "/usr/bin/chromium"),
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
let wrong = 0;
const complain = (name, words) => {
  wrong += 1;
  console.error(`${name}: ${words}`);
};
mkdirSync(out, { recursive: true });
const servers = new Map();
for (const [name, scenario, address, viewport, dark, whole] of SHOTS) {
  if (only !== "" && !name.match(only)) continue;
  let home;
  if (scenario.startsWith("replay:")) {
    const folder = join(profile, scenario.slice(7));
    writeReplay(scenario.slice(7), folder);
    home = pathToFileURL(join(folder, "index.html")).href;
  } else {
    if (!servers.has(scenario)) servers.set(scenario, await serve(scenario, { pace_ms: 0 }));
    home = servers.get(scenario).url;
  }
  const context = await browser.newContext({ viewport, colorScheme: dark ? "dark" : "light", hasTouch: viewport.width < 500, reducedMotion: "reduce" });
  const page = await context.newPage();
  page.on("console", (m) => m.type() === "error" && complain(name, `console: ${m.text()}`));
  page.on("pageerror", (e) => complain(name, `page: ${e.message}`));
  page.on("request", (r) => {
    const inside = scenario.startsWith("replay:") ? r.url().startsWith("file:") : r.url().startsWith(home);
    if (!inside && !r.url().startsWith("data:")) complain(name, `request to ${r.url()}`);
  });
  await page.goto(home + address);
  await page.waitForSelector(".panel");
  await page.evaluate(() => document.fonts.ready);
  await page.waitForTimeout(350);
  const over = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  if (over > 0) complain(name, `wider than the window by ${over} px`);
  await page.screenshot({ path: join(out, `${name}.png`), fullPage: whole });
  await context.close();
}
await browser.close();
for (const server of servers.values()) server.close();
rmSync(profile, { recursive: true, force: true });
console.log(`${wrong} complaints; pictures in ${out}/`);
process.exit(wrong === 0 ? 0 : 1);
