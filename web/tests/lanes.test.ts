import assert from "node:assert/strict";
import { test } from "node:test";
import type { Phase, Timeline } from "../src/types";
import { chart, computing, isStraggler, medianReady, pack, pan, quantiles, shares, tickStep, zoom, type Span } from "../src/views/lanes";

const PHASES: Phase[] = ["train", "wait", "encode", "send", "reduce", "receive", "vote", "merge"];

function round(n: number, opened: number, peers: Timeline["peers"], resolved: number | null = opened + 20): Timeline {
  return { round: n, fragment: 0, opened, resolved, outcome: resolved === null ? "open" : "committed", attempts: 1, phases: PHASES, peers, more: 0 };
}

function member(node: string, spans: number[], ready: number | null, left_out = ""): Timeline["peers"][number] {
  return { node, name: node, spans, ready, left_out };
}

function span(start: number, stop: number, phase: Phase = "send"): Span {
  return { phase, start, stop, round: 0, track: 0, tracks: 1 };
}

test("lanes come with the slowest first; who was never ready is slower than all", () => {
  const made = chart([round(3, 100, [
    member("fast", [0, 0, 8], 8), member("slow", [0, 0, 14], 14), member("lost", [0, 0, 19], null, "silent"),
  ])]);
  assert.deepEqual(made.lanes.map(({ node }) => node), ["lost", "slow", "fast"]);
  assert.equal(made.stop, 20);
  assert.equal(medianReady(made.lanes), 11);
});

test("rounds side by side share one axis that begins with the first", () => {
  const made = chart([round(4, 130, [member("a", [0, 0, 5], 5)]), round(3, 100, [member("a", [0, 1, 9], 9)])]);
  assert.deepEqual(made.lanes[0]?.spans.map(({ start, stop, round: of }) => [of, start, stop]), [[3, 1, 9], [4, 30, 35]]);
  assert.deepEqual(made.lanes[0]?.ready, [{ round: 3, at: 9 }, { round: 4, at: 35 }]);
  assert.deepEqual(made.rounds.map(({ start, stop }) => [start, stop]), [[0, 20], [30, 50]]);
});

test("an unknown phase or a span without length is left out", () => {
  const made = chart([round(0, 0, [member("a", [99, 0, 4, 0, 5, 5, 0, 0, 3], 3)])]);
  assert.deepEqual(made.lanes[0]?.spans.map(({ start, stop }) => [start, stop]), [[0, 3]]);
});

test("spans that overlap lie on tracks of their own, others have the whole lane", () => {
  const spans = [span(0, 4, "train"), span(4, 8), span(5, 9, "reduce"), span(8, 10, "receive"), span(12, 13, "vote")];
  pack(spans);
  assert.deepEqual(spans.map(({ track, tracks }) => [track, tracks]), [[0, 1], [0, 2], [1, 2], [0, 2], [0, 1]]);
});

test("no two spans on one track ever overlap", () => {
  const spans = Array.from({ length: 200 }, (_, i) => span((i * 7) % 50, ((i * 7) % 50) + 1 + (i % 9)));
  spans.sort((a, b) => a.start - b.start);
  pack(spans);
  for (const a of spans) {
    for (const b of spans) {
      if (a !== b && a.track === b.track) assert.ok(a.stop <= b.start + 1e-6 || b.stop <= a.start + 1e-6);
    }
    assert.ok(a.track < a.tracks);
  }
});

test("the computing share counts overlaps once", () => {
  assert.equal(computing([span(0, 6, "train"), span(6, 8), span(6, 8, "reduce"), span(8, 10, "wait")]), 0.6);
  assert.equal(computing([]), null);
});

test("shares of phases add up to the lanes that did something", () => {
  const made = chart([round(0, 0, [member("a", [0, 0, 10, 1, 10, 20], 10), member("b", [0, 0, 5, 1, 5, 20], 5)])]);
  const [train, wait] = shares(made.lanes, PHASES, 0, 20, 4);
  assert.deepEqual([...train!], [1, 0.5, 0, 0]);
  assert.deepEqual([...wait!], [0, 0.5, 1, 1]);
});

test("quantiles are linear and pass over what is not finite", () => {
  assert.deepEqual(quantiles([4, 1, 3, 2, Infinity], [0, 0.5, 1]), [1, 2.5, 4]);
  assert.deepEqual(quantiles([], [0.5]), []);
});

test("a straggler is later than 1.3 times the median, or left out", () => {
  const made = chart([round(0, 0, [member("a", [0, 0, 10], 10), member("b", [0, 0, 11], 11), member("c", [0, 0, 15], 15), member("d", [0, 0, 9], null, "silent")])]);
  const median = medianReady(made.lanes);
  assert.deepEqual(made.lanes.filter((lane) => isStraggler(lane, 4, median)).map(({ node }) => node), ["d", "c"]);
});

test("zoom keeps the point under the pointer, and both zoom and pan keep to what there is", () => {
  const near = zoom({ from: 0, to: 100 }, 0.5, 40, 100);
  assert.deepEqual(near, { from: 20, to: 70 });
  assert.deepEqual(zoom(near, 100, 40, 100), { from: 0, to: 100 });
  assert.deepEqual(pan(near, 50, 100), { from: 50, to: 100 });
  assert.deepEqual(pan(near, -50, 100), { from: 0, to: 50 });
  assert.equal(zoom({ from: 0, to: 1 }, 1e-9, 0.5, 100).to > zoom({ from: 0, to: 1 }, 1e-9, 0.5, 100).from, true);
});

test("ticks stand at round seconds and minutes", () => {
  assert.equal(tickStep(72, 8), 10);
  assert.equal(tickStep(3600, 8), 600);
  assert.ok(Math.abs(tickStep(0.4, 8) - 0.05) < 1e-12);
  for (const seconds of [0.01, 0.3, 2, 17, 88, 1000, 1e5, 1e7]) assert.ok(seconds / tickStep(seconds, 8) <= 8.01);
});
