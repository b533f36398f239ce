import assert from "node:assert/strict";
import { test } from "node:test";
import * as format from "../src/format";

const said = (text: string): string => text.replaceAll("\u202f", " ");

test("unknown values are an en dash, whatever they count", () => {
  for (const say of [format.count, format.short, format.bytes, format.rate, format.percent, format.times, format.duration, format.clock, format.date]) {
    assert.equal(say(null), "–");
    assert.equal(say(undefined), "–");
    assert.equal(say(NaN), "–");
  }
  assert.equal(format.figure(null), "–");
  assert.equal(format.age(null, 5), "–");
});

test("short numbers keep three digits and never round up to a fourth", () => {
  const cases: [number, string][] = [
    [0, "0"], [7, "7"], [999, "999"], [1000, "1.00k"], [8123, "8.12k"], [99_950, "100k"], [999_499, "999k"],
    [999_999, "1.00M"], [31_400_000, "31.4M"], [1.2e9, "1.20B"], [2.05e12, "2.05T"], [-4500, "−4.50k"], [0.0421, "0.0421"],
  ];
  for (const [x, text] of cases) assert.equal(format.short(x), text, String(x));
});

test("bytes and rates count in thousands", () => {
  assert.equal(said(format.bytes(512)), "512 B");
  assert.equal(said(format.bytes(1.25e9)), "1.25 GB");
  assert.equal(said(format.rate(12_500_000)), "12.5 MB/s");
});

test("figures show what tells something", () => {
  const cases: [number, string][] = [[2.31449, "2.314"], [0, "0"], [0.00031, "0.00031"], [1.23e-7, "1.2e−7"], [123.456, "123.5"], [4567.8, "4568"], [-1.5, "−1.500"]];
  for (const [x, text] of cases) assert.equal(format.figure(x), text, String(x));
});

test("an axis has as many decimals as its lines need", () => {
  assert.equal(format.tick(2, 0.5), "2.0");
  assert.equal(format.tick(10, 2), "10");
  assert.equal(format.tick(1.25, 0.05), "1.25");
  assert.equal(format.tick(1.75, 0.25), "1.75");
  assert.equal(format.tick(0, 0.5), "0");
  assert.equal(format.tick(1_500_000, 500_000), "1.5M");
  assert.equal(format.tick(2_000_000, 500_000), "2M");
});

test("durations have two units at most", () => {
  const cases: [number, string][] = [
    [0, "0 s"], [0.25, "250 ms"], [0.9999, "1.0 s"], [4.21, "4.2 s"], [9.97, "10 s"], [59.7, "1 m"], [200, "3 m 20 s"],
    [7500, "2 h 5 m"], [7199, "1 h 59 m"], [532_800, "6 d 4 h"], [86400 * 400, "400 d"], [-3, "0 s"],
  ];
  for (const [x, text] of cases) assert.equal(said(format.duration(x)), text, String(x));
});

test("ages and shares", () => {
  assert.equal(format.age(100, 101), "now");
  assert.equal(format.age(100, 90), "now"); // a clock that is behind
  assert.equal(said(format.age(100, 112)), "12 s ago");
  assert.equal(said(format.age(0, 7300)), "2 h ago");
  assert.equal(said(format.percent(0.413)), "41 %");
  assert.equal(said(format.percent(0.0131)), "1.3 %");
  assert.equal(said(format.percent(1)), "100 %");
  assert.equal(format.times(12), "12×");
  assert.equal(format.times(1180), "1,180×");
  assert.equal(format.counted(1, "peer"), "1 peer");
  assert.equal(format.counted(1200, "peer"), "1,200 peers");
});
