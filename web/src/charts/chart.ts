/** One chart: uPlot, with the page's colours, readout, keys, pinch and a zoom that all share. */

import uPlot from "uplot";
import { h, onTheme, reducedMotion, setText, token } from "../dom";
import { NONE } from "../format";
import { theme } from "../look";
import { clampZoom, nearest, xs } from "../series";
import type { Store, Zoom } from "../store";
import type { Number, Rounds } from "../types";

export interface Line {
  label: string;
  values: Number[];
  /** Name of a colour token, `--accent`. */
  colour: string;
  width?: number;
  /** Faint, behind: raw values. */
  faint?: boolean;
  /** Only points: values that are rare. */
  points?: boolean;
  fill?: boolean;
  /** Said in the readout; false: drawn only. */
  said?: boolean;
}

export interface Drawing {
  x: number[];
  lines: Line[];
  /** Between two of `lines`, by index: a faint band. */
  band?: [number, number, string];
  /** What x means when it is not the rounds of the shown columns. */
  own?: boolean;
}

export interface Kind {
  title: string;
  /** A value in the readout. */
  format: (value: Number) => string;
  /** A value on the axis, where lines are `step` apart. */
  axis: (value: number, step: number) => string;
  /** Keeps this value in sight. */
  include?: number;
  log?: boolean;
  compact?: boolean;
}

const SYNC = "farflung";

/** The columns that a chart shows now: finer ones when they are there. */
export function shownRounds(store: Store): Rounds {
  const { detail, zoom, rounds } = store.state;
  if (zoom === null || detail === null) return rounds;
  const covered = detail.from <= zoom.from && detail.to >= Math.min(zoom.to, rounds.to);
  return covered ? detail : rounds;
}

export class Chart {
  private plot: uPlot | null = null;
  private drawing: Drawing = { x: [], lines: [] };
  private shape = "";
  private readonly frame: HTMLElement;
  private readonly spoken: HTMLElement;
  private readonly ends: (() => void)[] = [];
  private readonly fingers = new Map<number, number>();
  private pinch: { gap: number; middle: number; min: number; max: number } | null = null;
  private log: boolean;

  constructor(
    private readonly el: HTMLElement,
    private readonly store: Store,
    private readonly kind: Kind,
    private readonly say: (text: string) => void,
  ) {
    this.log = kind.log ?? false;
    this.frame = h("div", {
      class: "chart",
      tabindex: 0,
      role: "group",
      "aria-roledescription": "chart",
      onkeydown: (event: KeyboardEvent) => this.key(event),
    });
    this.spoken = h("span", { class: "hidden-visually", "aria-live": "polite" });
    el.append(this.frame, this.spoken);
    const sizes = new ResizeObserver(() => this.resize());
    sizes.observe(this.frame);
    this.ends.push(() => sizes.disconnect(), onTheme(() => this.rebuild()));
    this.touch();
  }

  draw(drawing: Drawing, log = false): void {
    this.drawing = drawing;
    const shape = JSON.stringify([
      drawing.lines.map((l) => [l.label, l.colour]),
      drawing.band,
      log,
      this.store.state.look.x,
    ]);
    this.log = log;
    if (shape !== this.shape || this.plot === null) {
      this.shape = shape;
      this.rebuild();
    } else {
      this.plot.setData(this.data());
    }
    this.tell();
    this.describe();
  }

  destroy(): void {
    for (const end of this.ends) end();
    this.plot?.destroy();
    this.el.replaceChildren();
  }

  private data(): uPlot.AlignedData {
    return [this.drawing.x, ...this.drawing.lines.map((line) => line.values)];
  }

  private resize(): void {
    const { clientWidth: width, clientHeight: height } = this.frame;
    if (width === 0 || height === 0) return;
    if (this.plot === null) this.rebuild();
    else this.plot.setSize({ width, height });
  }

  private rebuild(): void {
    const { clientWidth: width, clientHeight: height } = this.frame;
    this.plot?.destroy();
    this.plot = null;
    if (width === 0 || height === 0 || this.shape === "") return;
    this.plot = new uPlot(this.options(width, height), this.data(), this.frame);
    this.pointer();
  }

  private options(width: number, height: number): uPlot.Options {
    const ink = token("--ink-3");
    const rule = token("--rule");
    const { compact } = this.kind;
    const x = this.store.state.look.x;
    const font = `${compact ? 10 : 11}px ${token("--sans")}`;
    const axis = { stroke: ink, font, ticks: { show: false }, border: { show: false } };
    const mode = x === "time" ? "time" : "number";
    return {
      width,
      height,
      padding: [8, 10, 0, 0],
      legend: { show: false },
      cursor: {
        y: false,
        sync: { key: `${SYNC}:${x}`, setSeries: false, scales: ["x", null] },
        drag: { x: true, y: false, setScale: false },
        bind: { dblclick: () => () => (this.zoom(null), null) },
        points: { size: 7, width: 2, fill: token("--paper") },
        focus: { prox: -1 },
      },
      select: { show: true, left: 0, top: 0, width: 0, height: 0 },
      scales: {
        x: { time: mode === "time", range: () => this.span() },
        y: { distr: this.log ? 3 : 1, range: (_u, low, high) => this.height(low, high) },
      },
      axes: [
        {
          ...axis,
          grid: { show: false },
          size: compact ? 22 : 26,
          gap: 4,
          space: compact ? 64 : 80,
          ...(mode === "number" ? { values: (_u, splits) => splits.map(wholes) } : {}),
        },
        {
          ...axis,
          grid: { stroke: rule, width: 1 },
          size: (_u, values) => Math.max(30, ...(values ?? []).map((v) => (v ?? "").length * 6.4 + 12)),
          gap: 6,
          space: compact ? 26 : 36,
          values: (_u, splits, _i, _space, step) =>
            splits.map((v) => (v === null ? "" : this.kind.axis(v, this.log ? v : step))),
          ...(this.log ? { filter: (_u: uPlot, splits: number[]) => thinned(splits) } : {}),
        },
      ],
      series: [{}, ...this.drawing.lines.map((line) => series(line))],
      ...(this.drawing.band === undefined
        ? {}
        : {
            bands: [
              {
                series: [this.drawing.band[0] + 1, this.drawing.band[1] + 1] as [number, number],
                fill: faded(token(this.drawing.band[2]), 0.14),
              },
            ],
          }),
      hooks: {
        setCursor: [() => this.tell()],
        setSelect: [(u) => this.selected(u)],
      },
    };
  }

  /** Both ends of the x axis: the zoomed part, or all. */
  private span(): [number, number] {
    const { zoom, look } = this.store.state;
    const columns = this.store.state.rounds;
    const line = xs(columns, look.x);
    const first = line[0];
    const last = line.at(-1);
    if (first === undefined || last === undefined) return [0, 1];
    if (zoom === null) {
      const own = this.drawing.own ? this.drawing.x : line;
      const low = Math.min(first, own[0] ?? first);
      const high = Math.max(last, own.at(-1) ?? last);
      return high > low ? [low, high] : [low - 1, high + 1];
    }
    const place = (round: number): number => {
      if (look.x === "round") return round;
      const shown = shownRounds(this.store);
      const i = nearest(shown.round, round);
      return xs(shown, look.x)[i] ?? 0;
    };
    const [low, high] = [place(zoom.from), place(zoom.to)];
    return high > low ? [low, high] : [low - 1, high + 1];
  }

  private height(low: Number, high: Number): [number, number] {
    let a = low ?? 0;
    let b = high ?? 1;
    const { include } = this.kind;
    if (include !== undefined && !this.log) {
      a = Math.min(a, include);
      b = Math.max(b, include);
    }
    if (this.log) {
      a = Math.max(a, 1e-9);
      b = Math.max(b, a * 1.02);
      const room = (Math.log(b) - Math.log(a)) * 0.06;
      return [a * Math.exp(-room), b * Math.exp(room)];
    }
    if (b <= a) return a === 0 ? [0, 1] : [a - Math.abs(a) * 0.1, b + Math.abs(b) * 0.1];
    const room = (b - a) * 0.07;
    return [a === include ? a : a - room, b + room];
  }

  /** The round at x, by the columns that are shown. */
  private roundAt(x: number): number {
    if (this.store.state.look.x === "round") return Math.round(x);
    const shown = shownRounds(this.store);
    return shown.round[nearest(xs(shown, this.store.state.look.x), x)] ?? 0;
  }

  private selected(u: uPlot): void {
    const { left, width } = u.select;
    if (width < 6) return;
    const from = this.roundAt(u.posToVal(left, "x"));
    const to = this.roundAt(u.posToVal(left + width, "x"));
    u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    this.zoom({ from, to });
  }

  private zoom(zoom: Zoom | null): void {
    const { rounds } = this.store.state;
    const first = rounds.round[0] ?? 0;
    const last = rounds.round.at(-1) ?? 0;
    const next = zoom === null ? null : clampZoom(zoom, first, last);
    this.store.change({ zoom: next, ...(next === null ? { detail: null } : {}) });
  }

  private current(): Zoom {
    const { rounds, zoom } = this.store.state;
    return zoom ?? { from: rounds.round[0] ?? 0, to: rounds.round.at(-1) ?? 1 };
  }

  /** Zooms by `factor` (< 1: in) and keeps `round` where it is. */
  private scale(factor: number, round: number): void {
    const { from, to } = this.current();
    this.zoom({
      from: Math.round(round - (round - from) * factor),
      to: Math.round(round + (to - round) * factor),
    });
  }

  private pan(share: number): void {
    const { zoom } = this.store.state;
    if (zoom === null) return;
    const by = Math.round((zoom.to - zoom.from) * share);
    this.zoom({ from: zoom.from + by, to: zoom.to + by });
  }

  private key(event: KeyboardEvent): void {
    const { plot } = this;
    if (plot === null || event.ctrlKey || event.metaKey || event.altKey) return;
    const x = this.drawing.x;
    const [low, high] = this.span();
    const at = plot.cursor.idx ?? null;
    const round = at === null ? (this.current().from + this.current().to) / 2 : this.roundAt(x[at] ?? 0);
    const step = event.shiftKey ? 10 : 1;
    const move = (i: number): void => {
      const to = Math.min(Math.max(0, i), x.length - 1);
      const value = Math.min(Math.max(x[to] ?? low, low), high);
      plot.setCursor({ left: plot.valToPos(value, "x"), top: 10 });
      setText(this.spoken, this.readout(to));
    };
    const actions: { [key: string]: () => void } = {
      ArrowLeft: () => move((at ?? x.length) - step),
      ArrowRight: () => move((at ?? -1) + step),
      Home: () => move(nearest(x, low)),
      End: () => move(nearest(x, high)),
      PageUp: () => this.pan(-0.5),
      PageDown: () => this.pan(0.5),
      "+": () => this.scale(0.5, round),
      "=": () => this.scale(0.5, round),
      "-": () => this.scale(2, round),
      "0": () => this.zoom(null),
      Escape: () => {
        if (this.store.state.zoom !== null) this.zoom(null);
        else plot.setCursor({ left: -10, top: -10 });
      },
    };
    const action = actions[event.key];
    if (action === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    action();
  }

  /** Trackpads: pinch zooms, sideways pans. A plain wheel scrolls the page. */
  private pointer(): void {
    const over = this.plot?.over;
    over?.addEventListener(
      "wheel",
      (event) => {
        if (event.ctrlKey) {
          event.preventDefault();
          const x = this.plot?.posToVal(event.offsetX, "x") ?? 0;
          this.scale(Math.exp(event.deltaY * 0.01), this.roundAt(x));
        } else if (Math.abs(event.deltaX) > Math.abs(event.deltaY) && this.store.state.zoom) {
          event.preventDefault();
          this.pan(event.deltaX / over.clientWidth);
        }
      },
      { passive: false },
    );
  }

  /** One finger moves the cursor, two zoom and pan; up and down scrolls the page. */
  private touch(): void {
    const { frame, fingers } = this;
    const place = (event: PointerEvent): number =>
      event.clientX - (this.plot?.over.getBoundingClientRect().left ?? 0);
    const two = (): [number, number] | null => {
      const [a, b] = [...fingers.values()];
      return a === undefined || b === undefined ? null : [Math.min(a, b), Math.max(a, b)];
    };
    frame.addEventListener("pointerdown", (event) => {
      if (event.pointerType !== "touch" || this.plot === null) return;
      fingers.set(event.pointerId, place(event));
      const pair = two();
      if (pair !== null) {
        const [min, max] = this.span();
        this.pinch = { gap: pair[1] - pair[0], middle: (pair[0] + pair[1]) / 2, min, max };
      }
    });
    frame.addEventListener("pointermove", (event) => {
      const { plot, pinch } = this;
      if (event.pointerType !== "touch" || plot === null || !fingers.has(event.pointerId)) return;
      fingers.set(event.pointerId, place(event));
      const pair = two();
      if (pair === null || pinch === null) {
        plot.setCursor({ left: place(event), top: 10 });
        return;
      }
      const width = plot.over.clientWidth;
      const perPixel = (pinch.max - pinch.min) / width;
      const factor = Math.max(20, pinch.gap) / Math.max(20, pair[1] - pair[0]);
      const centre = pinch.min + pinch.middle * perPixel;
      const middle = (pair[0] + pair[1]) / 2;
      const min = centre - middle * perPixel * factor;
      const max = min + width * perPixel * factor;
      this.zoom({ from: this.roundAt(min), to: this.roundAt(max) });
    });
    const up = (event: PointerEvent): void => {
      fingers.delete(event.pointerId);
      if (fingers.size < 2) this.pinch = null;
    };
    frame.addEventListener("pointerup", up);
    frame.addEventListener("pointercancel", up);
  }

  /** The readout: where the cursor is, else the newest. */
  private tell(): void {
    const at = this.plot?.cursor.idx ?? null;
    const off = (this.plot?.cursor.left ?? -1) < 0;
    this.say(this.readout(at === null || off ? this.drawing.x.length - 1 : at, at === null || off));
  }

  private readout(at: number, newest = false): string {
    const said = this.drawing.lines.filter((line) => line.said !== false);
    const values = said.map((line) => {
      const value = newest ? lastKnown(line.values) : (line.values[at] ?? null);
      const text = this.kind.format(value);
      return said.length > 1 ? `${line.label} ${text}` : text;
    });
    const x = this.drawing.x[at];
    if (x === undefined) return "";
    return newest ? values.join(" · ") : `${this.where(at, x)} · ${values.join(" · ")}`;
  }

  private where(at: number, x: number): string {
    if (this.drawing.own) return `round ${wholes(this.roundAt(x))}`;
    const round = shownRounds(this.store).round[at];
    return `round ${round === undefined ? NONE : round.toLocaleString("en-US")}`;
  }

  private describe(): void {
    const line = this.drawing.lines.find((one) => one.said !== false);
    const known = (line?.values ?? []).filter((v): v is number => v !== null);
    const words =
      known.length === 0
        ? "no values yet"
        : `from ${this.kind.format(known[0] ?? null)} to ${this.kind.format(known.at(-1) ?? null)}`;
    this.frame.setAttribute(
      "aria-label",
      `${this.kind.title}: ${words}. Arrow keys read values, plus and minus zoom, 0 shows all.`,
    );
    this.frame.classList.toggle("still", reducedMotion());
  }
}

function lastKnown(values: readonly Number[]): Number {
  for (let i = values.length - 1; i >= 0; i -= 1) {
    const value = values[i];
    if (value !== null && value !== undefined) return value;
  }
  return null;
}

function series(line: Line): uPlot.Series {
  const colour = token(line.colour);
  const stroke = line.faint ? faded(colour, theme() === "dark" ? 0.5 : 0.36) : colour;
  if (line.points) {
    return {
      label: line.label,
      stroke: colour,
      width: 0,
      paths: () => null,
      points: { show: true, size: 6, width: 1.5, stroke: colour, fill: token("--paper") },
    };
  }
  return {
    label: line.label,
    stroke,
    width: line.width ?? 1.5,
    points: { show: false },
    spanGaps: true,
    ...(line.said === false && line.faint ? { points: { show: false } } : {}),
    ...(line.fill ? { fill: faded(colour, 0.1) } : {}),
  };
}

/** `#rrggbb` with an alpha. */
export function faded(colour: string, alpha: number): string {
  const byte = Math.round(alpha * 255)
    .toString(16)
    .padStart(2, "0");
  return /^#[0-9a-f]{6}$/i.test(colour) ? `${colour}${byte}` : colour;
}

/** Rounds and tokens on an axis: `0`, `250`, `12k`, `1.5B`. */
export function wholes(value: number): string {
  const steps: [number, string][] = [
    [1e12, "T"],
    [1e9, "B"],
    [1e6, "M"],
    [1e4, "k"],
  ];
  for (const [size, unit] of steps) {
    if (Math.abs(value) >= size) {
      const by = unit === "k" ? 1000 : size;
      return `${globalThis.Number((value / by).toPrecision(4))}${unit}`;
    }
  }
  return globalThis.Number.isInteger(value) ? value.toLocaleString("en-US") : "";
}

/** On a log axis: the 1, 2 and 5 of every decade, all when there are few. */
function thinned(splits: number[]): (number | null)[] {
  return splits.map((v) => {
    const lead = v / 10 ** Math.floor(Math.log10(v) + 1e-9);
    return splits.length < 8 || [1, 2, 3, 5].some((n) => Math.abs(lead - n) < 1e-6) ? v : null;
  });
}
