/** What the round timeline shows, as plain values: lanes, tracks, shares, ranges. Nothing draws. */

import type { Phase, Timeline } from "../types";

export interface Span {
  phase: Phase;
  start: number; // seconds after the axis' zero
  stop: number;
  round: number;
  track: number; // spans that overlap lie on different tracks of their lane,
  tracks: number; // which has so many at that time
}

export interface Lane {
  node: string;
  name: string;
  spans: Span[]; // by start
  ready: { round: number; at: number }[];
  leftOut: { round: number; why: string }[];
  took: number; // seconds until ready, of the newest round shown; Infinity: never ready
  computing: number | null; // 0..1, training over all of its spans' time
}

export interface Chart {
  lanes: Lane[]; // the slowest first
  rounds: { round: number; fragment: number; start: number; stop: number; outcome: Timeline["outcome"]; attempts: number }[];
  stop: number; // seconds; the axis begins at 0
  zero: number; // unix seconds of the axis' zero
  more: number; // peers that the server left out
}

/** Lanes of some rounds on one axis that begins when the first of them was opened. */
export function chart(timelines: readonly Timeline[]): Chart {
  const sorted = [...timelines].sort((a, b) => a.round - b.round);
  const zero = sorted[0]?.opened ?? 0;
  const lanes = new Map<string, Lane>();
  const rounds: Chart["rounds"] = [];
  let end = 0;
  for (const timeline of sorted) {
    const shift = timeline.opened - zero;
    let last = shift;
    for (const peer of timeline.peers) {
      let lane = lanes.get(peer.node);
      if (!lane) lanes.set(peer.node, (lane = empty(peer.node, peer.name)));
      lane.name = peer.name;
      for (const span of spansOf(timeline, peer.spans, shift)) {
        lane.spans.push(span);
        last = Math.max(last, span.stop);
      }
      if (peer.ready !== null) lane.ready.push({ round: timeline.round, at: peer.ready + shift });
      if (peer.left_out) lane.leftOut.push({ round: timeline.round, why: peer.left_out });
      lane.took = peer.ready ?? Infinity;
    }
    const resolved = timeline.resolved === null ? last : timeline.resolved - zero;
    end = Math.max(end, last, resolved);
    const { round, fragment, outcome, attempts } = timeline;
    rounds.push({ round, fragment, start: shift, stop: Math.max(resolved, shift), outcome, attempts });
  }
  const all = [...lanes.values()];
  for (const lane of all) {
    lane.spans.sort((a, b) => a.start - b.start);
    pack(lane.spans);
    lane.computing = computing(lane.spans);
  }
  all.sort(slower);
  return { lanes: all, rounds, stop: end || 1, zero, more: Math.max(0, ...sorted.map((t) => t.more)) };
}

function empty(node: string, name: string): Lane {
  return { node, name, spans: [], ready: [], leftOut: [], took: Infinity, computing: null };
}

function spansOf(timeline: Timeline, flat: readonly number[], shift: number): Span[] {
  const spans: Span[] = [];
  for (let i = 0; i + 2 < flat.length; i += 3) {
    const phase = timeline.phases[flat[i]!];
    const start = flat[i + 1]! + shift;
    const stop = flat[i + 2]! + shift;
    if (phase && stop > start) spans.push({ phase, start, stop, round: timeline.round, track: 0, tracks: 1 });
  }
  return spans;
}

/** Late ones first; of those that were never ready, who has worked longest comes first. */
function slower(a: Lane, b: Lane): number {
  if (a.took !== b.took) return b.took - a.took;
  const [x, y] = [trained(a), trained(b)];
  return y - x || (a.name < b.name ? -1 : a.name > b.name ? 1 : 0);
}

function trained(lane: Lane): number {
  let sum = 0;
  for (const span of lane.spans) if (span.phase === "train") sum += span.stop - span.start;
  return sum;
}

/**
 * Puts each span on the lowest track that is free when it starts. Spans that touch none at the same
 * time have their lane for themselves: `tracks` is counted for each group of overlapping spans.
 */
export function pack(spans: readonly Span[], slack = 1e-6): void {
  let group: Span[] = [];
  let free: number[] = [];
  const close = (): void => {
    for (const span of group) span.tracks = free.length;
    [group, free] = [[], []];
  };
  for (const span of spans) {
    if (free.every((until) => until <= span.start + slack)) close();
    let track = free.findIndex((until) => until <= span.start + slack);
    if (track < 0) track = free.length;
    free[track] = span.stop;
    span.track = track;
    group.push(span);
  }
  close();
}

/** Training over everything that a peer told of its time; overlaps count once. */
export function computing(spans: readonly Span[]): number | null {
  const all = union(spans);
  return all > 0 ? union(spans.filter((span) => span.phase === "train")) / all : null;
}

/** Seconds that at least one of the spans covers; they are ordered by start. */
function union(spans: readonly Span[]): number {
  let covered = 0;
  let until = -Infinity;
  for (const { start, stop } of spans) {
    if (stop <= until) continue;
    covered += stop - Math.max(start, until);
    until = stop;
  }
  return covered;
}

/**
 * What share of the lanes is in each phase at each of `bins` moments: one row a phase. A lane that
 * is in several phases at once counts for the one on its lowest track.
 */
export function shares(
  lanes: readonly Lane[],
  phases: readonly Phase[],
  from: number,
  to: number,
  bins: number,
): Float32Array[] {
  const rows = phases.map(() => new Float32Array(bins));
  const index = new Map(phases.map((phase, i) => [phase, i]));
  const width = (to - from) / bins;
  const taken = new Uint8Array(bins);
  for (const lane of lanes) {
    taken.fill(0);
    for (const span of lane.spans) {
      const row = rows[index.get(span.phase) ?? -1];
      if (!row) continue;
      const first = Math.max(0, Math.ceil((span.start - from) / width - 0.5));
      const last = Math.min(bins - 1, Math.ceil((span.stop - from) / width - 0.5) - 1);
      for (let bin = first; bin <= last; bin++) {
        if (taken[bin]) continue;
        taken[bin] = 1;
        row[bin]! += 1 / lanes.length;
      }
    }
  }
  return rows;
}

/** Linear quantiles of values, which need not be sorted; [] of none. */
export function quantiles(values: readonly number[], at: readonly number[]): number[] {
  const sorted = values.filter(Number.isFinite).sort((a, b) => a - b);
  if (sorted.length === 0) return [];
  return at.map((q) => {
    const place = q * (sorted.length - 1);
    const low = Math.floor(place);
    const high = Math.min(sorted.length - 1, low + 1);
    return sorted[low]! + (sorted[high]! - sorted[low]!) * (place - low);
  });
}

export interface Range {
  from: number;
  to: number;
}

/** Zoom by `factor` (< 1: closer) around `at`, within 0..stop and not below `least` seconds. */
export function zoom(range: Range, factor: number, at: number, stop: number, least = 0.05): Range {
  const width = Math.min(stop, Math.max(Math.min(least, stop), (range.to - range.from) * factor));
  const share = (at - range.from) / (range.to - range.from);
  return bounded({ from: at - share * width, to: at - share * width + width }, stop);
}

export function pan(range: Range, by: number, stop: number): Range {
  return bounded({ from: range.from + by, to: range.to + by }, stop);
}

function bounded(range: Range, stop: number): Range {
  const width = Math.min(stop, range.to - range.from);
  const from = Math.min(Math.max(0, range.from), stop - width);
  return { from, to: from + width };
}

const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400];

/** Seconds between ticks, so that at most `most` fit on `seconds`. */
export function tickStep(seconds: number, most: number): number {
  const wanted = seconds / Math.max(1, most);
  if (wanted >= 1) return STEPS.find((step) => step >= wanted) ?? Math.ceil(wanted / 86400) * 86400;
  const power = 10 ** Math.floor(Math.log10(wanted));
  return [1, 2, 5, 10].map((unit) => unit * power).find((step) => step >= wanted * 0.999) ?? power * 10;
}

/** Who keeps the others waiting: later than 1.3 times the median, or left out. */
export function isStraggler(lane: Lane, lanes: number, median: number | null): boolean {
  if (lane.leftOut.length > 0) return true;
  return lanes > 2 && median !== null && Number.isFinite(lane.took) && lane.took > 1.3 * median;
}

export function medianReady(lanes: readonly Lane[]): number | null {
  return quantiles(lanes.map((lane) => lane.took), [0.5])[0] ?? null;
}
