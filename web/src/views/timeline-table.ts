/** The timeline's lanes as a table: for who does not see the drawing, and for figures. */

import { h } from "../dom";
import { NONE, duration, percent } from "../format";
import type { Phase } from "../types";
import { PHASES } from "./timeline-draw";
import type { Chart, Lane } from "./lanes";

const ROWS = 100;

export class LaneTable {
  readonly element: HTMLDetailsElement;
  private readonly body = h("div", { class: "timeline-table" });
  private chart: Chart | null = null;

  constructor() {
    this.element = h("details", { class: "timeline-details" }, h("summary", {}, "As a table"), this.body);
    this.element.addEventListener("toggle", () => this.fill());
  }

  set(chart: Chart): void {
    this.chart = chart;
    if (this.element.open) this.fill();
  }

  private fill(): void {
    if (!this.chart || !this.element.open) return;
    const { lanes } = this.chart;
    const head = ["Peer", "Ready after", ...PHASES, "Computing", ""];
    const table = h(
      "table",
      {},
      h("thead", {}, h("tr", {}, ...head.map((name, i) => h("th", { scope: "col", class: i > 0 && "right" }, name)))),
      h("tbody", {}, ...lanes.slice(0, ROWS).map(row)),
    );
    const rest = lanes.length - ROWS;
    const words = h("p", { class: "muted" }, `The slowest ${ROWS} of ${lanes.length}.`);
    this.body.replaceChildren(table, ...(rest > 0 ? [words] : []));
  }
}

function row(lane: Lane): Node {
  const sums = secondsOf(lane);
  const out = lane.leftOut.map(({ why }) => `left out: ${why}`).join("; ");
  const cell = (text: string): Node => h("td", { class: "right" }, text);
  return h(
    "tr",
    {},
    h("th", { scope: "row", class: "ellipsis", title: lane.name }, lane.name),
    cell(Number.isFinite(lane.took) ? duration(lane.took) : NONE),
    ...PHASES.map((phase) => cell(sums.has(phase) ? duration(sums.get(phase)) : NONE)),
    cell(percent(lane.computing)),
    h("td", { class: "timeline-out" }, out),
  );
}

/** Seconds in each phase, in all rounds shown. */
export function secondsOf(lane: Lane): Map<Phase, number> {
  const sums = new Map<Phase, number>();
  for (const { phase, start, stop } of lane.spans) sums.set(phase, (sums.get(phase) ?? 0) + stop - start);
  return sums;
}
