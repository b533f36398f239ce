/** What the round timeline says: its note, its tips, its legend. */

import { h } from "../dom";
import { counted, duration, percent } from "../format";
import type { Timeline } from "../types";
import { tipLines } from "./kit";
import { medianReady, type Chart, type Lane, type Span } from "./lanes";
import { PHASES } from "./timeline-draw";
import { secondsOf } from "./timeline-table";

export function sentence(newest: Timeline, made: Chart): string {
  const parts: string[] = [];
  const took = newest.resolved === null ? null : newest.resolved - newest.opened;
  const tries = newest.attempts > 1 ? `, ${counted(newest.attempts, "attempt")}` : "";
  if (newest.outcome === "open") parts.push("open");
  else parts.push(`${newest.outcome === "abandoned" ? "abandoned after" : "committed in"} ${duration(took)}${tries}`);
  const median = medianReady(made.lanes);
  const slowest = made.lanes.find(({ took }) => Number.isFinite(took));
  if (slowest && median !== null && made.lanes.length > 2) {
    // The median of the slowest alone would mislead.
    const late = made.more > 0 ? `ready after ${duration(slowest.took)}` : `${duration(slowest.took - median)} after the median`;
    parts.push(`slowest: ${slowest.name.slice(0, 24)}, ${late}`);
  }
  const out = newest.peers.filter(({ left_out }) => left_out).length;
  if (out > 0) parts.push(`${out} left out`);
  return parts.join(" · ");
}

/** The spans under the pointer: where several overlap, all of them. */
export function under(lane: Lane, seconds: number, slack: number): Span[] {
  return lane.spans.filter(({ start, stop }) => start - slack <= seconds && seconds <= stop + slack);
}

export function words(lane: Lane, spans: readonly Span[]): Node[] {
  const lines: [string, string][] = spans.map((span) => [
    span.phase,
    `${duration(span.stop - span.start)} (${span.start.toFixed(1)} – ${span.stop.toFixed(1)} s)`,
  ]);
  if (spans.length === 0) {
    for (const phase of PHASES) {
      const sum = secondsOf(lane).get(phase);
      if (sum !== undefined) lines.push([phase, duration(sum)]);
    }
  }
  if (Number.isFinite(lane.took)) lines.push(["ready after", duration(lane.took)]);
  lines.push(["computing", percent(lane.computing)]);
  for (const { why } of lane.leftOut) lines.push(["left out", why]);
  return tipLines(lane.name, lines);
}

export function spokenLane(lane: Lane): string {
  const sums = [...secondsOf(lane)].map(([phase, sum]) => `${phase} ${duration(sum)}`);
  const ready = Number.isFinite(lane.took) ? `ready after ${duration(lane.took)}` : "never ready";
  const out = lane.leftOut.map(({ why }) => `left out: ${why}`);
  return [lane.name, ready, ...sums, ...out].join(", ");
}

export function legend(): HTMLElement {
  const item = (phase: string, word: string): HTMLElement =>
    h("li", {}, h("span", { class: `timeline-swatch phase-${phase}` }), word);
  return h(
    "ul",
    { class: "timeline-legend", "aria-label": "Phases" },
    ...PHASES.map((phase) => item(phase, phase)),
    h("li", {}, h("span", { class: "timeline-tick" }), "ready"),
  );
}
