import assert from "node:assert/strict";
import { test } from "node:test";
import type { Links, Region } from "../src/types";
import { edges, isLight, matrix, ramp, scale } from "../src/views/matrix";

const REGIONS: Region[] = [
  { key: "FRA", city: "Frankfurt", country: "DE", lat: 50, lon: 8.5 },
  { key: "SFO", city: "San Francisco", country: "US", lat: 37.6, lon: -122.4 },
];
const pair = (from: number, to: number, bytes_per_s: number | null, active = true) =>
  ({ from, to, bytes_per_s, rtt_s: 0.1, loss: 0, bytes: 10, active });
const LINKS: Links = {
  round: 5,
  more: 0,
  nodes: [
    { node: "a", name: "ada", region: "FRA" },
    { node: "b", name: "bob", region: "SFO" },
    { node: "c", name: "cay", region: "FRA" },
    { node: "d", name: "dan", region: "" },
  ],
  pairs: [pair(0, 1, 1e6), pair(2, 1, 3e6, false), pair(1, 0, null), pair(0, 2, 9e6), pair(3, 0, 5e5)],
  owners: [{ node: 0, share: 0.5 }, { node: 2, share: 0.25 }, { node: 1, share: 0.25 }],
};

test("rows run from west to east, who did not say where comes last", () => {
  const made = matrix(LINKS, "node", "bandwidth", REGIONS);
  assert.deepEqual(made.labels.map(({ name }) => name), ["bob", "ada", "cay", "dan"]);
  assert.equal(made.cells[1 * 4 + 0]?.value, 1e6);
  assert.deepEqual(made.owners, [0.25, 0.5, 0.25, 0]);
});

test("by region, a cell is the mean of its measured pairs and owners add up", () => {
  const made = matrix(LINKS, "region", "bandwidth", REGIONS);
  assert.deepEqual(made.labels.map(({ name, peers }) => [name, peers]), [["San Francisco", 1], ["Frankfurt", 2], ["place not said", 1]]);
  const cell = made.cells[1 * 3 + 0];
  assert.deepEqual([cell?.value, cell?.pairs, cell?.bytes, cell?.active], [2e6, 2, 20, true]);
  assert.deepEqual(made.owners, [0.25, 0.75, 0]);
});

test("a pair that moved bytes without a measure is there, and not measured", () => {
  const cell = matrix(LINKS, "node", "bandwidth", REGIONS).cells[0 * 4 + 1];
  assert.equal(cell?.pairs, 0);
  assert.equal(cell?.bytes, 10);
});

test("the scale is logarithmic for bandwidth, from zero for loss, and none without measures", () => {
  const made = matrix(LINKS, "node", "bandwidth", REGIONS);
  const found = scale(made.cells, "bandwidth")!;
  assert.equal(found.at(found.low / 10), 0);
  assert.equal(found.at(found.high * 10), 1);
  assert.ok(Math.abs(found.at(Math.sqrt(found.low * found.high)) - 0.5) < 1e-9);
  const loss = scale(matrix(LINKS, "node", "loss", REGIONS).cells, "loss")!;
  assert.deepEqual([loss.low, loss.high, loss.at(0), loss.at(0.005)], [0, 0.01, 0, 0.5]);
  assert.equal(scale([null], "rtt"), null);
});

test("the list has the worst first", () => {
  const made = matrix(LINKS, "node", "bandwidth", REGIONS);
  assert.deepEqual(edges(made, "bandwidth").map(({ cell }) => cell.value), [5e5, 1e6, 3e6, 9e6]);
});

test("colours lie between their stops, and words on them are readable", () => {
  assert.equal(ramp(["#000000", "#ffffff"], 0.5), "rgb(128,128,128)");
  assert.equal(ramp(["#000000", "#102030", "#ffffff"], -1), "rgb(0,0,0)");
  assert.equal(ramp(["#000000", "#102030", "#ffffff"], 2), "rgb(255,255,255)");
  assert.deepEqual([isLight("rgb(255,255,255)"), isLight("rgb(11,98,94)")], [true, false]);
});
