/** The charts of a run, each a view. */

import { segmented, h } from "../dom";
import { bytes, count, duration, figure, percent, short, tick } from "../format";
import { keepLook } from "../look";
import { evaluationPoints, smooth, xs } from "../series";
import type { Look, State, Store } from "../store";
import type { Number, Rounds } from "../types";
import type { Place, View } from "../view";
import { Chart, shownRounds, type Drawing, type Kind, type Line } from "./chart";

interface Tools {
  elements: HTMLElement[];
  end: () => void;
}

interface Spec {
  kind: Kind;
  /** A heading and a sentence, while there is nothing to draw. */
  empty: readonly [string, string];
  draw(rounds: Rounds, state: State): Drawing;
  /** Switches in the heading. */
  tools?: (place: Place) => Tools;
  log?: boolean;
}

const CHANGES = ["rounds", "detail", "zoom", "look", "evaluations"] as const;

function chartView(title: string, spec: Spec): View {
  return {
    title,
    mount(el, place) {
      const { store } = place;
      const kind = { ...spec.kind, compact: place.size === "panel" && spec.tools === undefined };
      const empty = h(
        "div",
        { class: "empty" },
        spec.empty[0] !== "" && h("strong", {}, spec.empty[0]),
        h("span", {}, spec.empty[1]),
      );
      const box = h("div", { class: "chart-box" });
      el.append(box, empty);
      const chart = new Chart(box, store, kind, (text) => place.note(text));
      const tools = place.size === "embed" ? undefined : spec.tools?.(place);
      place.tools.append(...(tools?.elements ?? []));
      const end = store.watch(CHANGES, (state) => {
        const drawing = spec.draw(shownRounds(store), state);
        const none = !drawing.lines.some((l) => l.values.some((v) => v !== null));
        empty.hidden = !none;
        box.classList.toggle("blank", none);
        chart.draw(drawing, spec.log === true && state.look.log);
      });
      return () => {
        end();
        tools?.end();
        chart.destroy();
        el.replaceChildren();
        place.tools.replaceChildren();
      };
    },
  };
}

/** A raw line, faint, and its smoothed one; with a single entry, only the raw one. */
function smoothed(label: string, values: Number[], colour: string, look: Look): Line[] {
  if (look.smoothing === 0) return [{ label, values, colour, width: 1.75 }];
  return [
    { label: "raw", values, colour, faint: true, width: 1, said: false },
    { label, values: smooth(values, look.smoothing), colour, width: 2 },
  ];
}

const loss = chartView("Loss", {
  kind: { title: "Training loss", format: (v) => figure(v), axis: tick },
  empty: ["No round yet.", "The first point comes with the first round that is committed."],
  log: true,
  tools: chartTools,
  draw(rounds, { look, evaluations }) {
    const x = xs(rounds, look.x);
    const lines = smoothed("loss", rounds.loss, "--accent", look);
    const drawing: Drawing = { x, lines };
    if (rounds.stride > 1) {
      const at = lines.length;
      lines.push(
        { label: "max", values: rounds.loss_max, colour: "--accent", faint: true, width: 0, said: false },
        { label: "min", values: rounds.loss_min, colour: "--accent", faint: true, width: 0, said: false },
      );
      drawing.band = [at, at + 1, "--accent"];
    }
    if (evaluations.length > 0) lines.push(heldOut(rounds, x, evaluations, look));
    return drawing;
  },
});

/** Held-out loss at the entries nearest to its evaluations. */
function heldOut(rounds: Rounds, x: number[], evaluations: State["evaluations"], look: Look): Line {
  const [places, values] = evaluationPoints(rounds, evaluations, look.x, (e) => e.nats_per_token);
  const column: Number[] = x.map(() => null);
  const first = x[0] ?? 0;
  const last = x.at(-1) ?? 0;
  places.forEach((place, i) => {
    if (place < first || place > last) return;
    let at = 0;
    for (let j = 0; j < x.length; j += 1) {
      if (Math.abs((x[j] as number) - place) < Math.abs((x[at] as number) - place)) at = j;
    }
    column[at] = values[i] ?? null;
  });
  return { label: "held-out", values: column, colour: "--cat-2", points: true };
}

const bpb = chartView("Held-out bits per byte", {
  kind: { title: "Held-out bits per byte", format: (v) => figure(v), axis: tick },
  empty: ["", "No evaluation yet: they come every few rounds, where the run asks for them."],
  draw(rounds, { look, evaluations }) {
    const [x, values] = evaluationPoints(rounds, evaluations, look.x, (e) => e.bits_per_byte);
    return {
      x,
      own: true,
      lines: [
        { label: "held-out", values, colour: "--cat-2", width: 1.75 },
        { label: "points", values, colour: "--cat-2", points: true, said: false },
      ],
    };
  },
});

function plain(
  title: string,
  kind: Omit<Kind, "title">,
  column: (rounds: Rounds) => Number[],
  options: { colour: string; fill?: boolean; smooth?: boolean; empty?: string },
): View {
  return chartView(title, {
    kind: { title, ...kind },
    empty: ["", options.empty ?? "Comes with the first rounds."],
    draw(rounds, { look }) {
      const values = column(rounds);
      const fill = options.fill ?? false;
      const lines = options.smooth
        ? smoothed(title.toLowerCase(), values, options.colour, look)
        : [{ label: title.toLowerCase(), values, colour: options.colour, width: 1.75, fill }];
      return { x: xs(rounds, look.x), lines };
    },
  });
}

const percentTick = (v: number, step: number): string => `${tick(v * 100, step * 100)}\u202f%`;
const rate = (v: number): string => (v === 0 ? "0" : short(v).replace(/\.0+(?=\D|$)/, ""));

export const charts: { readonly [name: string]: View } = {
  loss,
  bpb,
  lr: plain("Learning rate", { format: (v) => (v === null ? "–" : `${percent(v)} of peak`), axis: percentTick, include: 0 }, (r) => r.lr, {
    colour: "--cat-4",
    empty: "Peers tell it with their first rounds.",
  }),
  grad: plain("Gradient norm", { format: (v) => figure(v), axis: tick }, (r) => r.grad_norm, {
    colour: "--cat-6",
    smooth: true,
    empty: "Peers tell it with their first rounds.",
  }),
  speed: plain("Tokens per second", { format: (v) => `${short(v)}/s`, axis: rate, include: 0 }, (r) => r.tokens_per_s, {
    colour: "--cat-1",
    smooth: true,
  }),
  swarm: plain("Peers in a round", { format: (v) => count(v), axis: (v) => (Number.isInteger(v) ? count(v) : ""), include: 0 }, (r) => r.peers, {
    colour: "--cat-3",
    fill: true,
  }),
  use: plain("Compute utilisation", { format: (v) => percent(v), axis: percentTick }, (r) => r.utilisation, {
    colour: "--cat-5",
    smooth: true,
  }),
  bytes: plain("Bytes sent a round, busiest peer", { format: (v) => bytes(v), axis: (v) => bytes(v).replace(/\.\d+/, ""), include: 0 }, (r) => r.bytes_up, {
    colour: "--cat-7",
    fill: true,
  }),
  took: plain("Duration of a round", { format: (v) => duration(v), axis: (v) => duration(v), include: 0 }, (r) => r.took_s, {
    colour: "--cat-8",
    smooth: true,
  }),
};

/** x axis, smoothing, log, and the way back from a zoom. */
function chartTools({ store }: { store: Store }): Tools {
  const change = (part: Partial<Look>): void => {
    const look = { ...store.state.look, ...part };
    keepLook(look);
    store.change({ look });
  };
  const { look } = store.state;
  const out = h("output", { class: "num" }, look.smoothing.toFixed(2));
  const slider = h("input", {
    type: "range",
    min: 0,
    max: 0.99,
    step: 0.01,
    value: look.smoothing,
    "aria-label": "Smoothing",
    oninput: () => {
      out.textContent = Number(slider.value).toFixed(2);
      change({ smoothing: Number(slider.value) });
    },
  });
  const reset = h("button", {
    type: "button",
    class: "button zoomed",
    onclick: () => store.change({ zoom: null, detail: null }),
  });
  const show = (): void => {
    const { zoom } = store.state;
    reset.hidden = zoom === null;
    if (zoom !== null) reset.textContent = `${count(zoom.from)} – ${count(zoom.to)}  ×`;
    reset.setAttribute("aria-label", "Show all rounds");
  };
  const end = store.watch(["zoom"], show);
  const elements = [
    reset,
    h("label", { class: "smoothing", title: "How much the strong line leans on the past" }, h("span", {}, "Smoothing"), slider, out),
    segmented("Scale", [["linear", "Linear"], ["log", "Log"]], look.log ? "log" : "linear", (v) => change({ log: v === "log" })),
    segmented("Horizontal axis", [["round", "Rounds"], ["tokens", "Tokens"], ["time", "Time"]], look.x, (x) => change({ x })),
  ];
  return { elements, end };
}
