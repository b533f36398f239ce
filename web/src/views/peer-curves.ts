/** Four small curves of a peer's own rounds. One cursor goes through all of them. */

import uPlot from "uplot";
import { h, onTheme, setText, token } from "../dom";
import { bytes, count, duration, figure, short } from "../format";
import { smooth } from "../series";
import type { Number, PeerPage } from "../types";
import { onWidth } from "./kit";

interface Curve {
  key: "loss" | "tokens_per_s" | "wait_s" | "bytes_up";
  title: string;
  colour: string;
  format: (value: Number) => string;
  weight: number; // of the past, in the smoothed line; 0: raw only
  zero: boolean; // the axis begins at 0
}

const CURVES: readonly Curve[] = [
  { key: "loss", title: "Loss", colour: "--accent", format: (x) => figure(x), weight: 0.8, zero: false },
  { key: "tokens_per_s", title: "Tokens per second", colour: "--cat-1", format: (x) => short(x), weight: 0.8, zero: true },
  { key: "wait_s", title: "Waited in a round", colour: "--cat-2", format: (x) => duration(x), weight: 0.8, zero: true },
  { key: "bytes_up", title: "Sent in a round", colour: "--cat-4", format: (x) => bytes(x), weight: 0.8, zero: true },
];
const HEIGHT = 132;

export class Curves {
  readonly element = h("section", { class: "peer-curves", "aria-label": "Its own curves" });
  private readonly boxes = CURVES.map((curve) => {
    const value = h("span", { class: "num" });
    const plot = h("div", { class: "peer-plot" });
    const box = h("figure", { class: "peer-curve" }, h("figcaption", {}, h("span", {}, curve.title), value), plot);
    return { curve, box, value, plot };
  });
  private plots: (uPlot | null)[] = CURVES.map(() => null);
  private rounds: PeerPage["rounds"] | null = null;
  private replay = false;
  private width = 0;
  private readonly ends: (() => void)[];
  private readonly words = h("p", { class: "muted view-foot" });

  constructor() {
    this.element.append(...this.boxes.map(({ box }) => box), this.words);
    this.ends = [
      onWidth(this.boxes[0]!.plot, (width) => {
        this.width = width;
        this.build();
      }),
      onTheme(() => this.build()),
    ];
  }

  stop(): void {
    this.ends.forEach((end) => end());
    this.plots.forEach((plot) => plot?.destroy());
  }

  set(rounds: PeerPage["rounds"] | null, replay: boolean): void {
    if (rounds === this.rounds) return;
    this.rounds = rounds;
    this.replay = replay;
    this.build();
  }

  private build(): void {
    const missing = this.replay
      ? "A replay keeps no curves of single peers."
      : "Its curves begin with its second round.";
    const some = (this.rounds?.round.length ?? 0) > 1;
    for (const { box } of this.boxes) box.hidden = !some;
    setText(this.words, this.rounds && !some ? missing : "");
    this.plots.forEach((plot) => plot?.destroy());
    this.plots = this.boxes.map(({ curve, plot, box }) => {
      const known = this.rounds?.[curve.key].some((value) => value !== null) ?? false;
      box.hidden = !some || !known;
      return known && some && this.width > 0 ? this.plot(curve, plot) : null;
    });
    this.tell(null);
  }

  private plot(curve: Curve, parent: HTMLElement): uPlot {
    const { rounds } = this;
    const raw = rounds?.[curve.key] ?? [];
    const data: uPlot.AlignedData = [rounds?.round ?? [], raw, smooth(raw, curve.weight)];
    return new uPlot(this.options(curve), data, parent);
  }

  private options({ colour, format, zero }: Curve): uPlot.Options {
    const font = `10px ${token("--sans")}`;
    const axis = { stroke: token("--ink-3"), font, ticks: { show: false }, border: { show: false } };
    return {
      width: this.width,
      height: HEIGHT,
      padding: [6, 6, 0, 0],
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, sync: { key: "farflung:peer" }, points: { size: 6 } },
      scales: {
        x: { time: false },
        y: { range: (_plot, low, high) => (zero ? [0, Math.max(high, 1e-9) * 1.08] : [low, high === low ? low + 1 : high]) },
      },
      axes: [
        { ...axis, grid: { show: false }, size: 20, gap: 3, space: 70, values: (_plot, at) => at.map((x) => (globalThis.Number.isInteger(x) ? count(x) : "")) },
        { ...axis, grid: { stroke: token("--rule"), width: 1 }, size: 52, gap: 5, space: 34, values: (_plot, at) => at.map((x) => round(format(x))) },
      ],
      series: [
        {},
        { stroke: faint(token(colour)), width: 1, points: { show: false } },
        { stroke: token(colour), width: 1.75, points: { show: false } },
      ],
      hooks: { setCursor: [(plot) => this.tell(plot.cursor.idx ?? null)] },
    };
  }

  /** The values at the cursor, else the newest. */
  private tell(at: number | null): void {
    const { rounds } = this;
    for (const { curve, value } of this.boxes) {
      const column = rounds?.[curve.key] ?? [];
      const shown = at === null ? [...column].reverse().find((one) => one !== null) : column[at];
      const where = at === null ? "" : `round ${count(rounds?.round[at])}: `;
      setText(value, where + curve.format(shown ?? null));
    }
  }
}

/** On an axis: `5 MB` for `5.00 MB`, `7.5` for `7.500`. */
function round(text: string): string {
  return text.replace(/(\.\d*?)0+(?!\d)/, "$1").replace(/\.(?!\d)/, "");
}

/** A colour of a token ("#rrggbb"), mostly transparent. */
function faint(colour: string): string {
  return /^#[0-9a-f]{6}$/i.test(colour) ? `${colour}4d` : colour;
}
