import assert from "node:assert/strict";
import { test } from "node:test";
import { clampZoom, evaluationPoints, lowerBound, nearest, smooth, wantsDetail, within, xOfRound, xs } from "../src/series";
import type { Evaluation, Rounds } from "../src/types";

function columns(n: number, stride = 1): Rounds {
  const all = Array.from({ length: n }, (_, i) => i);
  const same = all.map(() => 1);
  return {
    from: 0, to: n * stride, stride, round: all.map((i) => i * stride + stride - 1), at: all.map((i) => (i === 2 ? null : 100 + 10 * i)),
    loss: same, loss_min: same, loss_max: same, lr: same, grad_norm: same, tokens: all.map((i) => 1000 * (i + 1)),
    tokens_per_s: same, peers: same, took_s: same, utilisation: same, bytes_up: same, abandoned: same,
  };
}

test("a straight line stays a straight line to its ends", () => {
  const line = Array.from({ length: 200 }, (_, i) => 3 - 0.01 * i);
  smooth(line, 0.95).forEach((y, i) => assert.ok(Math.abs((y as number) - (line[i] as number)) < 1e-9));
});

test("smoothing calms noise, keeps gaps, and 0 changes nothing", () => {
  const noisy = Array.from({ length: 400 }, (_, i) => 2 + (i % 2 === 0 ? 0.5 : -0.5));
  const calm = smooth(noisy, 0.9) as number[];
  assert.ok(calm.slice(30, -30).every((y) => Math.abs(y - 2) < 0.01));
  assert.deepEqual(smooth([1, null, 3], 0.9)[1], null);
  assert.deepEqual(smooth([1, 5, 3], 0), [1, 5, 3]);
  assert.deepEqual(smooth([], 0.9), []);
  assert.deepEqual(smooth([null, 4, null], 0.9), [null, 4, null]);
});

test("places in a column", () => {
  assert.equal(lowerBound([1, 3, 5], 3), 1);
  assert.equal(lowerBound([1, 3, 5], 6), 3);
  assert.equal(nearest([1, 3, 9], 7), 2);
  assert.equal(nearest([1, 3, 9], 4), 1);
  assert.equal(nearest([], 4), -1);
});

test("an axis of time never runs backwards, though times are unknown", () => {
  assert.deepEqual(xs(columns(4), "time"), [100, 110, 110, 130]);
});

test("a round lies between its neighbours on any axis", () => {
  assert.equal(xOfRound(columns(3, 10), "tokens", 14), 1500);
  assert.equal(xOfRound(columns(3, 10), "tokens", 0), 1000);
  assert.equal(xOfRound(columns(3, 10), "tokens", 99), 3000);
  assert.equal(xOfRound(columns(0), "tokens", 7), 7);
});

test("evaluations are put in order, at the round before their count", () => {
  const one = (round: number): Evaluation => ({ round, at: null, bits_per_byte: round / 10, nats_per_token: 1, by: "", samples: [] });
  assert.deepEqual(evaluationPoints(columns(9), [one(6), one(3)], "round", (e) => e.bits_per_byte), [[2, 5], [0.3, 0.6]]);
});

test("a zoom keeps inside, and all of it is none", () => {
  assert.equal(clampZoom({ from: -5, to: 200 }, 0, 99), null);
  assert.deepEqual(clampZoom({ from: 90, to: 120 }, 0, 99), { from: 69, to: 99 });
  assert.deepEqual(clampZoom({ from: 50, to: 50 }, 0, 99), { from: 50, to: 54 });
  assert.deepEqual(within(columns(10), { from: 3, to: 5 }), [2, 7]);
  assert.equal(wantsDetail(columns(10), { from: 3, to: 5 }), false);
  assert.equal(wantsDetail(columns(10, 4), { from: 3, to: 9 }), true);
});
