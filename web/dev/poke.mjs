// Uses the page as a person would, and says what does not answer: node dev/poke.mjs
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";
import { writeReplay } from "./replay.mjs";
import { serve } from "./server.mjs";

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
const folder = mkdtempSync(join(tmpdir(), "poke-"));
const errors = [];
async function open(url, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  page.on("pageerror", (e) => errors.push(e.message));
  await page.goto(url);
  await page.waitForSelector(".panel");
  return page;
}
const zoomText = (page) => page.locator(".zoomed").first().textContent();
const checks = {
  async "a drag zooms all charts and asks for finer columns; keys and double-click"() {
    const long = await serve("long", { pace_ms: 0 });
    const page = await open(`${long.url}#/training`);
    await page.waitForSelector('[data-panel="loss"] .u-over');
    const box = await page.locator('[data-panel="loss"] .u-over').boundingBox();
    const finer = page.waitForRequest((r) => r.url().includes("rounds?from"));
    await page.mouse.move(box.x + box.width * 0.5, box.y + 50);
    await page.mouse.down();
    await page.mouse.move(box.x + box.width * 0.6, box.y + 60, { steps: 6 });
    await page.mouse.up();
    const asked = new URL((await finer).url()).searchParams;
    assert.ok(Number(asked.get("from")) > 44_000 && Number(asked.get("to")) < 66_000, String(asked));
    assert.match(await zoomText(page), /^\s*(49|50),\d{3} – (59|60|61),\d{3}/);
    await page.focus('[data-panel="speed"] .chart');
    await page.keyboard.press("+");
    await page.keyboard.press("End");
    await page.waitForTimeout(300);
    assert.match(await page.locator('[data-panel="loss"] .panel-note').textContent(), /round 5[0-9],\d{3}/, "cursors move together");
    await page.keyboard.press("0");
    await page.waitForTimeout(100);
    assert.ok(await page.locator(".zoomed").first().isHidden());
    await page.mouse.move(box.x + 100, box.y + 50);
    await page.mouse.dblclick(box.x + 100, box.y + 50);
    for (const x of ["Tokens", "Time", "Rounds"]) await page.getByRole("button", { name: x, exact: true }).click();
    await page.getByRole("button", { name: "Log", exact: true }).click();
    await page.waitForTimeout(200);
    long.close();
  },
  async "news arrive; a broken line is said, and mended"() {
    const four = await serve("four", { pace_ms: 0 });
    const page = await open(four.url);
    const done = page.locator(".done");
    assert.match(await done.textContent(), /50 of 120/);
    await page.waitForTimeout(300);
    const start = Date.now();
    four.advance();
    await page.waitForFunction(() => document.querySelector(".done").textContent.includes("51 of 120"));
    console.log(`  event to page: ${Date.now() - start} ms`);
    const port = new URL(four.url).port;
    four.close();
    await page.waitForSelector(".banner.warn:not([hidden])");
    assert.match(await page.locator(".banner.warn").textContent(), /Disconnected for/);
    assert.match(await page.locator(".contact").textContent(), /disconnected/);
    const again = await serve("four", { port: Number(port), pace_ms: 0 });
    again.advance();
    again.advance();
    await page.getByRole("button", { name: "Try now" }).click();
    await page.waitForFunction(() => document.querySelector(".done").textContent.includes("52 of 120"));
    assert.ok(await page.locator(".banner.warn").isHidden());
    again.close();
  },
  async "a replay plays, pauses and goes where the slider says, from a disk"() {
    writeReplay("finished", folder);
    const page = await open(pathToFileURL(join(folder, "index.html")).href);
    const rounds = () => page.locator(".done").textContent();
    assert.match(await rounds(), /240 of 240/);
    await page.locator(".replay-bar input").focus();
    await page.keyboard.press("Home");
    await page.waitForFunction(() => document.querySelector(".done").textContent.includes("4 of 240"));
    await page.keyboard.press("ArrowRight");
    await page.waitForFunction(() => document.querySelector(".done").textContent.includes("8 of 240"));
    await page.locator("#main").focus();
    await page.keyboard.press("Space");
    await page.waitForFunction(() => Number(document.querySelector(".done").textContent.match(/· (\d+) of/)[1]) > 12);
    await page.keyboard.press("Space");
    await page.waitForTimeout(600);
    const there = await rounds();
    await page.waitForTimeout(800);
    assert.equal(await rounds(), there, "it stands while paused");
    await page.keyboard.press("4");
    await page.waitForTimeout(100);
  },
  async "keys, theme, help, skip link, focus"() {
    const four = await serve("four", { pace_ms: 0 });
    const page = await open(four.url);
    await page.keyboard.press("Tab");
    assert.equal(await page.evaluate(() => document.activeElement.className), "skip");
    await page.keyboard.press("Enter");
    assert.equal(await page.evaluate(() => document.activeElement.id), "main");
    await page.keyboard.press("?");
    assert.ok(await page.locator("dialog.help").isVisible());
    await page.keyboard.press("Escape");
    await page.keyboard.press("d");
    assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), "dark");
    await page.reload();
    await page.waitForSelector(".panel");
    assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), "dark", "it is kept");
    four.close();
  },
  async "the log: filters, search, thousands of lines in few elements"() {
    const long = await serve("long", { pace_ms: 0 });
    const page = await open(`${long.url}#/log`);
    await page.getByRole("button", { name: "Trouble" }).click();
    await page.waitForSelector(".log-row.kind-trouble");
    assert.equal(await page.locator(".log-row:not(.kind-trouble)").count(), 0);
    await page.getByRole("searchbox").fill("abandoned");
    await page.waitForFunction(() => [...document.querySelectorAll(".log-row .log-text")].every((e) => e.textContent.includes("abandoned")));
    await page.getByRole("searchbox").fill("");
    await page.getByRole("button", { name: "All" }).click();
    for (let i = 0; i < 30; i += 1) {
      await page.evaluate(() => document.querySelector(".virtual").scrollBy(0, 4000));
      await page.waitForTimeout(60);
    }
    const words = await page.locator('[data-panel="log"] .panel-note').textContent();
    assert.ok(Number(words.replace(/\D/g, "")) > 1500, words);
    assert.ok((await page.locator(".log-row").count()) < 80);
    long.close();
  },
  async "touch: two fingers zoom"() {
    const four = await serve("finished", { pace_ms: 0 });
    const page = await open(four.url, { viewport: { width: 390, height: 844 }, hasTouch: true });
    await page.waitForSelector('[data-panel="loss"] .u-over');
    await page.locator('[data-panel="loss"] .u-over').scrollIntoViewIfNeeded();
    const box = await page.locator('[data-panel="loss"] .u-over').boundingBox();
    const client = await page.context().newCDPSession(page);
    const at = (a, b) => [a, b].map((x, id) => ({ x: box.x + box.width * x, y: box.y + 60, id }));
    await client.send("Input.dispatchTouchEvent", { type: "touchStart", touchPoints: at(0.4, 0.6) });
    for (let i = 1; i <= 6; i += 1) await client.send("Input.dispatchTouchEvent", { type: "touchMove", touchPoints: at(0.4 - i * 0.04, 0.6 + i * 0.04) });
    await client.send("Input.dispatchTouchEvent", { type: "touchEnd", touchPoints: [] });
    await page.waitForTimeout(200);
    const [from, to] = (await zoomText(page)).match(/\d+/g).map(Number);
    assert.ok(to - from > 50 && to - from < 110 && from > 40 && to < 200, `${from} – ${to}`);
    four.close();
  },
  async "nothing jumps while the page is built"() {
    const thousand = await serve("thousand", { pace_ms: 0 });
    const context = await browser.newContext({ viewport: { width: 1440, height: 900 } });
    const page = await context.newPage();
    await page.addInitScript(() => {
      window.shift = 0;
      new PerformanceObserver((l) => l.getEntries().forEach((e) => (window.shift += e.value))).observe({ type: "layout-shift", buffered: true });
    });
    await page.goto(thousand.url);
    await page.waitForSelector(".panel");
    await page.waitForTimeout(800);
    const [shift, paint] = await page.evaluate(() => [window.shift, performance.getEntriesByName("first-contentful-paint")[0]?.startTime]);
    console.log(`  layout shift ${shift.toFixed(4)}, first paint ${Math.round(paint)} ms`);
    assert.ok(shift < 0.01);
    thousand.close();
  },
  async "100,000 rounds from a disk open quickly"() {
    const out = join(folder, "long");
    writeReplay("long", out, 20);
    const context = await browser.newContext({ viewport: { width: 1440, height: 900 } });
    const page = await context.newPage();
    const start = Date.now();
    await page.goto(pathToFileURL(join(out, "index.html")).href);
    await page.waitForSelector('[data-panel="loss"] canvas');
    console.log(`  replay of 100,000 rounds: ${Date.now() - start} ms`);
  },
};
let failed = 0;
for (const [name, check] of Object.entries(checks)) {
  if (process.argv[2] !== undefined && !name.includes(process.argv[2])) continue;
  errors.length = 0;
  try {
    await check();
    assert.deepEqual(errors, []);
    console.log(`ok   ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAIL ${name}\n${error.message}\n${error.stack.split("\n").filter((l) => l.includes("poke")).join("\n")}`);
  }
}
await browser.close();
rmSync(folder, { recursive: true, force: true });
process.exit(failed === 0 ? 0 : 1);
