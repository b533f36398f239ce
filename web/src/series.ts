/** Arithmetic on columns: smoothing, lookups between rounds and the x axis, finer pieces. */

import type { Look, Zoom } from "./store";
import type { Evaluation, Number, Rounds } from "./types";

/**
 * Local linear regression with a Gaussian kernel over entries, bandwidth h = w / (1 - w), and at
 * most w / 20 of all entries: unlike a moving average it neither lags nor bends away at steep
 * ends (Fan and Gijbels, Local Polynomial Modelling, 1996). `weight` w is 0 (no smoothing) to
 * 0.99. Unknown values stay unknown.
 */
export function smooth(values: readonly Number[], weight: number): Number[] {
  const bandwidth = Math.min(weight / (1 - weight), (values.length * weight) / 20);
  if (bandwidth < 0.25) return [...values];
  const reach = Math.ceil(bandwidth * 3);
  const kernel = Array.from({ length: reach + 1 }, (_, d) => Math.exp(-0.5 * (d / bandwidth) ** 2));
  return values.map((value, i) => (value === null ? null : localLine(values, i, kernel, reach)));
}

function localLine(values: readonly Number[], at: number, kernel: number[], reach: number): number {
  let [s0, s1, s2, t0, t1] = [0, 0, 0, 0, 0];
  const first = Math.max(0, at - reach);
  const last = Math.min(values.length - 1, at + reach);
  for (let j = first; j <= last; j += 1) {
    const y = values[j];
    if (y === null || y === undefined) continue;
    const d = j - at;
    const k = kernel[Math.abs(d)] as number;
    s0 += k;
    s1 += k * d;
    s2 += k * d * d;
    t0 += k * y;
    t1 += k * d * y;
  }
  const det = s0 * s2 - s1 * s1;
  return det > 1e-9 * s0 * s2 ? (s2 * t0 - s1 * t1) / det : t0 / s0;
}

/** Where each entry lies on the x axis. */
export function xs(rounds: Rounds, x: Look["x"]): number[] {
  if (x === "tokens") return rising(rounds.tokens);
  if (x === "time") return rising(rounds.at);
  return rounds.round;
}

/** A column that never falls: unknown entries repeat the one before, an early one the first. */
function rising(column: readonly Number[]): number[] {
  let last = column.find((value) => value !== null) ?? 0;
  return column.map((value) => {
    if (value !== null && value > last) last = value;
    return last;
  });
}

/** First index whose value is >= `value`; the length when there is none. */
export function lowerBound(column: readonly number[], value: number): number {
  let low = 0;
  let high = column.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((column[middle] as number) < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Index of the entry nearest to `value`; -1 when there is none. */
export function nearest(column: readonly number[], value: number): number {
  if (column.length === 0) return -1;
  const after = Math.min(lowerBound(column, value), column.length - 1);
  const before = Math.max(0, after - 1);
  const gap = (i: number): number => Math.abs((column[i] as number) - value);
  return gap(before) <= gap(after) ? before : after;
}

/** A round on the x axis `x`, between the entries around it. */
export function xOfRound(rounds: Rounds, x: Look["x"], round: number): number {
  if (x === "round" || rounds.round.length === 0) return round;
  const line = xs(rounds, x);
  const after = lowerBound(rounds.round, round);
  if (after === 0) return line[0] as number;
  if (after >= line.length) return line.at(-1) as number;
  const [r0, r1] = [rounds.round[after - 1] as number, rounds.round[after] as number];
  const [x0, x1] = [line[after - 1] as number, line[after] as number];
  return x0 + ((round - r0) / (r1 - r0)) * (x1 - x0);
}

/** Evaluations as points on the x axis; an evaluation of `n` rounds follows round n - 1. */
export function evaluationPoints(
  rounds: Rounds,
  evaluations: readonly Evaluation[],
  x: Look["x"],
  value: (e: Evaluation) => number,
): [number[], number[]] {
  const known = [...evaluations].sort((a, b) => a.round - b.round);
  const places = known.map((e) =>
    x === "time" && e.at !== null ? e.at : xOfRound(rounds, x, Math.max(0, e.round - 1)),
  );
  return [places, known.map(value)];
}

/** The columns as far as they lie in `zoom`, and one entry on either side. */
export function within(rounds: Rounds, zoom: Zoom | null): [number, number] {
  if (zoom === null) return [0, rounds.round.length];
  const first = lowerBound(rounds.round, zoom.from);
  const last = lowerBound(rounds.round, zoom.to + 1);
  return [Math.max(0, first - 1), Math.min(rounds.round.length, last + 1)];
}

/** Whether more rounds lie behind the zoomed part than its entries show. */
export function wantsDetail(rounds: Rounds, zoom: Zoom | null): boolean {
  return zoom !== null && rounds.stride > 1 && zoom.to - zoom.from > 1;
}

/** A zoom that keeps to what there is and to at least `least` rounds; all of it: null. */
export function clampZoom(zoom: Zoom, first: number, last: number, least = 4): Zoom | null {
  const width = Math.max(least, zoom.to - zoom.from);
  if (width >= last - first) return null;
  const from = Math.min(Math.max(first, zoom.from), last - width);
  return { from, to: from + width };
}
