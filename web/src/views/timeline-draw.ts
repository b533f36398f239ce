/** Paints the round timeline: an axis with what all did, and the lanes that are in sight. */

import { count, duration, percent } from "../format";
import type { Phase } from "../types";
import { clipped, tokens } from "./kit";
import { isStraggler, medianReady, quantiles, shares, tickStep, type Chart, type Lane, type Range, type Span } from "./lanes";

export const PHASES: readonly Phase[] = [
  "train", "wait", "encode", "send", "reduce", "receive", "vote", "merge",
];
export const AXIS = 24; // pixels
export const BAND = 54;
export const NAMES = 18; // the rounds' names, where there are several

export interface Frame {
  chart: Chart;
  range: Range;
  width: number;
  left: number; // where the plot begins
  right: number; // where it ends
  lane: number; // height of a lane
}

/** Pixels above the lanes. */
export function headHeight(chart: Chart, band: boolean): number {
  return AXIS + (chart.rounds.length > 1 ? NAMES : 0) + (band ? BAND : 0);
}

/** Few lanes may be tall. */
export function laneHeight(lanes: number): number {
  return lanes <= 6 ? 34 : lanes <= 12 ? 28 : 22;
}

export type Palette = ReturnType<typeof palette>;

export function palette() {
  return tokens(
    "--ink", "--ink-2", "--ink-3", "--rule", "--rule-2", "--paper", "--sunken", "--warn", "--bad",
    "--accent", "--focus", "--sans",
    "--phase-train", "--phase-wait", "--phase-encode", "--phase-send", "--phase-reduce",
    "--phase-receive", "--phase-vote", "--phase-merge",
  );
}

export function colourOf(colours: Palette, phase: Phase): string {
  return colours[`--phase-${phase}`];
}

export function toX({ range, left, right }: Frame, seconds: number): number {
  return left + ((seconds - range.from) / (range.to - range.from)) * (right - left);
}

export function toSeconds({ range, left, right }: Frame, x: number): number {
  return range.from + ((x - left) / (right - left)) * (range.to - range.from);
}

/** Seconds above, the names of rounds where there are several, then the band of shares. */
export function drawHead(
  context: CanvasRenderingContext2D,
  frame: Frame,
  colours: Palette,
  band: boolean,
): void {
  const { left, right } = frame;
  const height = headHeight(frame.chart, band);
  const several = frame.chart.rounds.length > 1;
  if (band) drawBand(context, frame, colours, several ? AXIS + NAMES - 6 : AXIS);
  context.font = `11px ${colours["--sans"]}`;
  context.textBaseline = "middle";
  const step = tickStep(frame.range.to - frame.range.from, (right - left) / 80);
  for (let t = Math.ceil(frame.range.from / step) * step; t <= frame.range.to + step * 1e-6; t += step) {
    const x = Math.round(toX(frame, t)) + 0.5;
    if (x > right + 1) break;
    line(context, x, AXIS - 5, x, height, colours["--rule"]);
    context.fillStyle = colours["--ink-3"];
    context.textAlign = x > right - 20 ? "right" : x < left + 12 ? "left" : "center";
    context.fillText(t === 0 ? "0" : duration(t), x > right - 20 ? right : x, AXIS / 2 - 1);
  }
  context.textAlign = "right";
  context.fillText("computing", frame.width, AXIS / 2 - 1);
  if (several) drawNames(context, frame, colours);
}

function drawNames(context: CanvasRenderingContext2D, frame: Frame, colours: Palette): void {
  context.textAlign = "left";
  const { rounds } = frame.chart;
  rounds.forEach((round, i) => {
    const from = Math.max(frame.left, toX(frame, round.start));
    const to = Math.min(frame.right, toX(frame, rounds[i + 1]?.start ?? frame.chart.stop));
    if (to - from < 30) return;
    const failed = round.outcome === "abandoned";
    const text = `round ${count(round.round)}${round.outcome === "committed" ? "" : `, ${round.outcome}`}`;
    context.font = `600 11px ${colours["--sans"]}`;
    context.fillStyle = failed ? colours["--bad"] : colours["--ink-2"];
    context.fillText(clipped(context, text, to - from - 6), from + 4, AXIS + NAMES / 2 - 1);
    line(context, Math.round(from) + 0.5, AXIS, Math.round(from) + 0.5, AXIS + NAMES, colours["--ink-3"]);
  });
}

/** What share of the lanes did what, as stacked areas; above it when the middle 80 % were ready. */
function drawBand(
  context: CanvasRenderingContext2D,
  frame: Frame,
  colours: Palette,
  top: number,
): void {
  const { chart, range, left, right } = frame;
  const bins = Math.max(1, Math.floor((right - left) / 2));
  const rows = shares(chart.lanes, PHASES, range.from, range.to, bins);
  const bottom = top + BAND - 8;
  const tall = BAND - 20;
  const below = new Float32Array(bins);
  PHASES.forEach((phase, p) => {
    const row = rows[p]!;
    context.fillStyle = colourOf(colours, phase);
    context.beginPath();
    context.moveTo(left, bottom - below[0]! * tall);
    for (let i = 0; i < bins; i++) context.lineTo(left + 2 * i + 1, bottom - (below[i]! + row[i]!) * tall);
    for (let i = bins - 1; i >= 0; i--) context.lineTo(left + 2 * i + 1, bottom - below[i]! * tall);
    context.fill();
    for (let i = 0; i < bins; i++) below[i]! += row[i]!;
  });
  line(context, left, bottom + 0.5, right, bottom + 0.5, colours["--rule-2"]);
  context.font = `11px ${colours["--sans"]}`;
  context.textBaseline = "middle";
  context.textAlign = "left";
  context.fillStyle = colours["--ink-2"];
  const sent = chart.lanes.length;
  const text = chart.more > 0 ? `slowest ${sent}` : `all ${sent}`;
  context.fillText(clipped(context, text, left - 10), 0, bottom - tall / 2);
  if (chart.rounds.length === 1) drawReady(context, frame, colours);
}

function drawReady(context: CanvasRenderingContext2D, frame: Frame, colours: Palette): void {
  const [low, half, high] = quantiles(frame.chart.lanes.map(({ took }) => took), [0.1, 0.5, 0.9]);
  if (low === undefined || half === undefined || high === undefined) return;
  const y = AXIS + 5.5;
  const [a, b] = [low, high].map((t) => Math.min(frame.right, Math.max(frame.left, toX(frame, t))));
  line(context, a!, y, b!, y, colours["--ink-2"], 3);
  const x = toX(frame, half);
  if (x < frame.left || x > frame.right) return;
  context.fillStyle = colours["--ink"];
  context.beginPath();
  context.arc(x, y, 3.5, 0, 2 * Math.PI);
  context.fill();
}

export function drawLanes(
  context: CanvasRenderingContext2D,
  frame: Frame,
  colours: Palette,
  view: { lanes: readonly Lane[]; top: number; height: number; marked: number },
): void {
  const { chart } = frame;
  grid(context, frame, colours, view.height);
  const median = chart.rounds.length === 1 ? medianReady(chart.lanes) : null;
  const slowest = chart.lanes.find(({ took }) => Number.isFinite(took));
  const first = Math.max(0, Math.floor(view.top / frame.lane));
  const last = Math.min(view.lanes.length, Math.ceil((view.top + view.height) / frame.lane));
  for (let i = first; i < last; i++) {
    const lane = view.lanes[i]!;
    const y = i * frame.lane - view.top;
    const late = isStraggler(lane, chart.lanes.length, median);
    if (i === view.marked) {
      context.fillStyle = colours["--sunken"];
      context.fillRect(0, y, frame.width, frame.lane);
    }
    drawSides(context, frame, colours, lane, y, late && i < 8);
    drawSpans(context, frame, colours, lane, y);
    drawLate(context, frame, colours, lane, y, lane === slowest ? median : null);
  }
}

function grid(context: CanvasRenderingContext2D, frame: Frame, colours: Palette, height: number): void {
  const { left, right, range, chart } = frame;
  const step = tickStep(range.to - range.from, (right - left) / 80);
  for (let t = Math.ceil(range.from / step) * step; t <= range.to; t += step) {
    const x = Math.round(toX(frame, t)) + 0.5;
    line(context, x, 0, x, height, colours["--rule"]);
  }
  if (chart.rounds.length < 2) return;
  for (const round of chart.rounds) {
    const x = Math.round(toX(frame, round.start)) + 0.5;
    if (x >= left && x <= right) line(context, x, 0, x, height, colours["--ink-3"]);
  }
}

function drawSides(
  context: CanvasRenderingContext2D,
  { left, right, width, lane: tall }: Frame,
  colours: Palette,
  lane: Lane,
  y: number,
  late: boolean,
): void {
  context.textBaseline = "middle";
  context.textAlign = "left";
  context.font = `${late ? "600 " : ""}12px ${colours["--sans"]}`;
  context.fillStyle = late ? colours["--ink"] : colours["--ink-2"];
  context.fillText(clipped(context, lane.name, left - 12), 0, y + tall / 2);
  if (lane.computing === null) return;
  context.font = `12px ${colours["--sans"]}`;
  context.textAlign = "right";
  context.fillText(percent(lane.computing), width, y + tall / 2);
  const bar = width - right - 54;
  if (bar < 12) return;
  context.fillStyle = colours["--phase-wait"];
  context.fillRect(right + 10, y + tall / 2 - 1.5, bar, 3);
  context.fillStyle = colours["--phase-train"];
  context.fillRect(right + 10, y + tall / 2 - 1.5, bar * lane.computing, 3);
}

/** Work fills its lane; waiting is a thin line in it. What is narrower than a pixel is still seen. */
function drawSpans(
  context: CanvasRenderingContext2D,
  frame: Frame,
  colours: Palette,
  lane: Lane,
  y: number,
): void {
  const { left, right } = frame;
  const out = new Set(lane.leftOut.map(({ round }) => round));
  for (const span of lane.spans) {
    const a = Math.max(left, toX(frame, span.start));
    const b = Math.min(right, Math.max(toX(frame, span.stop), a + 0.6));
    if (b <= left || a >= right) continue;
    const [top, height] = boxOf(span, frame.lane);
    context.globalAlpha = out.has(span.round) ? 0.45 : 1;
    context.fillStyle = colourOf(colours, span.phase);
    const wide = b - a;
    context.beginPath();
    context.roundRect(a, y + top, wide > 3 ? wide - 0.6 : wide, height, wide > 6 && height > 5 ? 2 : 0);
    context.fill();
  }
  context.globalAlpha = 1;
}

function boxOf(span: Span, lane: number): [number, number] {
  const edge = lane > 24 ? 5 : 3;
  const tall = (lane - 2 * edge) / span.tracks;
  const top = edge + span.track * tall;
  if (span.phase === "wait") return [top + tall / 2 - 1, 2];
  return [top, span.tracks > 1 ? tall - 0.6 : tall];
}

/** When it was ready, by how much the slowest was late (`median` is given), and why one was left out. */
function drawLate(
  context: CanvasRenderingContext2D,
  frame: Frame,
  colours: Palette,
  lane: Lane,
  y: number,
  median: number | null,
): void {
  const { left, right } = frame;
  const end = lane.spans.reduce((last, span) => Math.max(last, span.stop), 0);
  context.textBaseline = "middle";
  context.textAlign = "left";
  context.font = `600 11px ${colours["--sans"]}`;
  for (const { at } of lane.ready) {
    const x = toX(frame, at);
    if (x < left || x > right) continue;
    context.fillStyle = median !== null ? colours["--bad"] : colours["--ink"];
    context.fillRect(x - 1, y + 1, 2, frame.lane - 2);
  }
  const why = lane.leftOut.at(-1)?.why;
  if (why && frame.chart.rounds.length === 1) {
    tag(context, frame, colours, `left out: ${why}`, Math.max(left, toX(frame, end)) + 8, y);
  } else if (median !== null && lane.took - median > 0.02 * frame.chart.stop) {
    const late = frame.chart.more > 0 ? "" : `, ${duration(lane.took - median)} after the median`;
    onBar(context, frame, colours, lane, y, `slowest${late}`);
  }
}

/** Words at the end of the last bar of training, if they fit there. */
function onBar(
  context: CanvasRenderingContext2D,
  frame: Frame,
  colours: Palette,
  lane: Lane,
  y: number,
  text: string,
): void {
  const bar = lane.spans.filter(({ phase, stop }) => phase === "train" && stop <= lane.took + 1e-6).at(-1);
  if (!bar) return;
  const from = Math.max(frame.left, toX(frame, bar.start));
  const to = Math.min(frame.right, toX(frame, bar.stop));
  if (context.measureText(text).width + 16 > to - from) return;
  context.fillStyle = colours["--paper"];
  context.textAlign = "right";
  context.fillText(text, to - 8, y + frame.lane / 2 + 0.5);
}

/** Words on a plate of the page's colour, so that bars under them do not disturb. */
function tag(
  context: CanvasRenderingContext2D,
  { right, lane }: Frame,
  colours: Palette,
  text: string,
  wanted: number,
  y: number,
): void {
  const width = context.measureText(text).width;
  const x = Math.max(0, Math.min(wanted, right - width - 8));
  const fitting = clipped(context, text, right - x - 8);
  context.fillStyle = colours["--paper"];
  context.globalAlpha = 0.92;
  context.beginPath();
  context.roundRect(x, y + 3, context.measureText(fitting).width + 8, lane - 6, 3);
  context.fill();
  context.globalAlpha = 1;
  context.fillStyle = colours["--bad"];
  context.fillText(fitting, x + 4, y + lane / 2 + 0.5);
}

export function line(
  context: CanvasRenderingContext2D,
  x: number,
  y: number,
  x2: number,
  y2: number,
  colour: string,
  width = 1,
): void {
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.beginPath();
  context.moveTo(x, y);
  context.lineTo(x2, y2);
  context.stroke();
}
