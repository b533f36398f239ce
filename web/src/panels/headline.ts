/** The first thing that people see: which run, in which state, how far, how fast. */

import { h, setText } from "../dom";
import * as format from "../format";
import type { State, Store } from "../store";
import type { Head, RunState } from "../types";
import type { View } from "../view";

const STATES: { readonly [state in RunState]: readonly [string, string] } = {
  waiting: ["Waiting", "warn"],
  running: ["Running", "good"],
  paused: ["Paused", "warn"],
  finished: ["Finished", "good"],
  stopped: ["Not served", ""],
};

/** Done of wanted, 0..1; null while the goal is unknown. */
export function progress(head: Head): number | null {
  const [done, wanted] =
    head.rounds_wanted > 0
      ? [head.rounds, head.rounds_wanted]
      : [head.tokens, head.tokens_wanted ?? 0];
  return wanted > 0 ? Math.min(1, done / wanted) : null;
}

interface Figure {
  label: string;
  title: string;
  value(head: Head): string;
  under(head: Head): string;
}

const FIGURES: readonly Figure[] = [
  {
    label: "Tokens per second",
    title: "All peers together, over the newest rounds",
    value: (head) => format.short(head.tokens_per_s),
    under: (head) => `${format.short(head.tokens)} so far`,
  },
  {
    label: "Swarm TFLOP/s",
    title: "Model FLOPs: 6 per parameter and token, and attention's",
    value: (head) => format.short(head.tflops),
    under: (head) => `${format.short(head.parameters)} parameters`,
  },
  {
    label: "MFU",
    title: "Model FLOPs utilisation, over the peers whose device's peak is known",
    value: (head) => format.percent(head.mfu),
    under: () => "of the devices' peak",
  },
  {
    label: "Utilisation",
    title: "Computing over computing and waiting, newest rounds",
    value: (head) => format.percent(head.utilisation),
    under: () => "of the time computing",
  },
  {
    label: "Bytes saved",
    title: "Times fewer bytes than a bf16 ring all-reduce at every step would send",
    value: (head) => format.times(head.reduction),
    under: (head) => saved(head),
  },
  {
    label: "Peers",
    title: "Active now",
    value: (head) => format.count(head.peers_active),
    under: (head) =>
      head.map && head.regions > 0
        ? `in ${format.counted(head.regions, "region")}, ${format.count(head.peers_seen)} ever`
        : `${format.count(head.peers_seen)} ever`,
  },
  {
    label: "Loss",
    title: "Training loss of the newest round, nats per token",
    value: (head) => format.figure(head.loss),
    under: () => "nats per token",
  },
  {
    label: "Held-out",
    title: "Newest evaluation, bits per byte of held-out text",
    value: (head) => format.figure(head.bits_per_byte),
    under: () => "bits per byte",
  },
];

/** What was sent, and what data-parallel training would have sent for the same steps. */
function saved({ bytes_up, reduction }: Head): string {
  if (reduction === null) return "against data-parallel";
  return `${format.bytes(bytes_up)}, not ${format.bytes(bytes_up * reduction)}`;
}

/** `for 3 m`, with the moment it began; empty for states that hold no news. */
function since(head: Head, now: number): string {
  if (head.state === "finished" || head.state === "stopped") return `since ${format.date(head.since)}`;
  return `for ${format.duration(Math.max(1, Math.round(now - head.since)))}`;
}

export const headline: View = {
  title: "Headline",
  mount(el, { store, size }) {
    const parts = build(size === "page", size === "embed" ? "p" : "h1");
    el.append(parts.root);
    return store.watch(["head", "tick"], (state) => parts.show(state, store));
  },
};

function build(whole: boolean, tag: "h1" | "p"): { root: HTMLElement; show: (state: State, store: Store) => void } {
  const name = h(tag, { class: "run-name" });
  const pill = h("span", { class: "pill" });
  const reason = h("span", { class: "reason" });
  const when = h("span", { class: "muted num" });
  const done = h("span", { class: "num done" });
  const left = h("span", { class: "num left" });
  const fill = h("div", { class: "progress-fill" });
  const bar = h(
    "div",
    { class: "progress", role: "progressbar", "aria-label": "Rounds done", "aria-valuemin": 0, "aria-valuemax": 100 },
    fill,
  );
  const cells = FIGURES.map((figure) => ({
    figure,
    value: h("dd", { class: "figure-value num" }),
    under: h("dd", { class: "figure-under num" }),
  }));
  const root = h(
    "div",
    { class: `headline${whole ? "" : " brief"}` },
    h("div", { class: "headline-top" }, name, h("p", { class: "state" }, pill, reason, when)),
    h("div", { class: "headline-progress" }, h("div", { class: "progress-words" }, done, left), bar),
    whole &&
      h(
        "dl",
        { class: "figures" },
        ...cells.map(({ figure, value, under }) =>
          h("div", { class: "figure", title: figure.title }, h("dt", {}, figure.label), value, under),
        ),
      ),
  );
  const show = ({ head }: State, store: Store): void => {
    setText(name, head.name || "unnamed run");
    const [word, mood] = STATES[head.state];
    setText(pill, word);
    pill.className = `pill ${mood}`;
    setText(reason, head.reason);
    setText(when, since(head, store.now()));
    const share = progress(head);
    fill.style.width = `${(share ?? 0) * 100}%`;
    bar.setAttribute("aria-valuenow", String(Math.round((share ?? 0) * 100)));
    bar.classList.toggle("paused", head.state !== "running" && head.state !== "finished");
    setText(done, doneWords(head, share));
    setText(left, leftWords(head));
    for (const { figure, value, under } of cells) {
      setText(value, figure.value(head));
      setText(under, figure.under(head));
    }
  };
  return { root, show };
}

function doneWords(head: Head, share: number | null): string {
  const tokens =
    head.tokens_wanted === null
      ? `${format.short(head.tokens)} tokens`
      : `${format.short(head.tokens)} of ${format.short(head.tokens_wanted)} tokens`;
  const rounds = `${format.count(head.rounds)} of ${format.counted(head.rounds_wanted, "round")}`;
  return `${share === null ? "" : `${format.percent(share)} · `}${tokens} · ${rounds}`;
}

function leftWords(head: Head): string {
  if (head.state === "finished") return "done";
  if (head.eta_s === null) return "";
  return `${format.duration(head.eta_s)} left`;
}
