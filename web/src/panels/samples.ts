/** What the model says at the same prompts, as it learns: a reading list. */

import { h, segmented } from "../dom";
import * as format from "../format";
import type { Evaluation } from "../types";
import type { Place, View } from "../view";

const PANEL_SAMPLES = 2;

export const samples: View = {
  title: "What it writes",
  mount(el, place) {
    return place.size === "page" ? page(el, place) : newest(el, place);
  },
};

function nothing(): HTMLElement {
  return h(
    "div",
    { class: "empty" },
    h("strong", {}, "Nothing written yet."),
    h("span", {}, "An evaluation measures the model on held-out text every few rounds, and writes on from fixed prompts."),
  );
}

function sample({ prompt, text }: { prompt: string; text: string }): HTMLElement {
  return h("p", { class: "sample" }, h("span", { class: "sample-prompt" }, prompt), text);
}

function newest(el: HTMLElement, { store, note, size }: Place): () => void {
  const end = store.watch(["evaluations"], ({ evaluations }) => {
    const last = evaluations.at(-1);
    if (last === undefined || last.samples.length === 0) {
      el.replaceChildren(nothing());
      note("");
      return;
    }
    note(`after round ${format.count(last.round)} · ${format.figure(last.bits_per_byte)} bits per byte`);
    const most = size === "embed" ? last.samples.length : PANEL_SAMPLES;
    el.replaceChildren(h("div", { class: "samples few" }, ...last.samples.slice(0, most).map(sample)));
  });
  return () => {
    end();
    el.replaceChildren();
  };
}

/** All of them: by round with a list to walk through, or one prompt through all rounds. */
function page(el: HTMLElement, { store, tools, note }: Place): () => void {
  let way: "round" | "prompt" = "round";
  let chosen: number | null = null; // round; null: the newest, whichever it is
  let prompt = 0;
  const list = h("ul", { class: "eval-list", role: "listbox", "aria-label": "Evaluations", tabindex: 0 });
  const text = h("div", { class: "samples", "aria-live": "polite" });
  const root = h("div", { class: "samples-page" }, list, text);
  el.append(root);
  tools.append(
    segmented("Order", [["round", "By round"], ["prompt", "By prompt"]], way, (to) => {
      way = to;
      draw();
    }),
  );
  const choose = (i: number): void => {
    const rows = way === "round" ? [...store.state.evaluations].reverse() : prompts(store.state.evaluations);
    const at = Math.min(Math.max(0, i), rows.length - 1);
    if (way === "round") chosen = at === 0 ? null : ((rows[at] as Evaluation | undefined)?.round ?? null);
    else prompt = at;
    draw();
    list.querySelector('[aria-selected="true"]')?.scrollIntoView({ block: "nearest" });
  };
  let at = 0;
  list.addEventListener("keydown", (event) => {
    const moves: { [key: string]: number } = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: 1e9 };
    const to = moves[event.key];
    if (to === undefined) return;
    event.preventDefault();
    choose(to);
  });
  const draw = (): void => {
    const { evaluations } = store.state;
    root.classList.toggle("bare", evaluations.length === 0);
    note(evaluations.length === 0 ? "" : format.counted(evaluations.length, "evaluation"));
    if (evaluations.length === 0) {
      text.replaceChildren(nothing());
      list.replaceChildren();
      return;
    }
    if (way === "round") at = drawRounds(list, text, evaluations, chosen, choose, store.now());
    else at = drawPrompts(list, text, evaluations, prompt, choose);
  };
  const end = store.watch(["evaluations"], draw);
  return () => {
    end();
    el.replaceChildren();
    tools.replaceChildren();
  };
}

function option(on: boolean, choose: () => void, ...children: (Node | string)[]): HTMLElement {
  return h("li", { role: "option", "aria-selected": String(on), onclick: choose }, ...children);
}

function drawRounds(
  list: HTMLElement,
  text: HTMLElement,
  evaluations: Evaluation[],
  chosen: number | null,
  choose: (i: number) => void,
  now: number,
): number {
  const rows = [...evaluations].reverse();
  const at = Math.max(0, chosen === null ? 0 : rows.findIndex((e) => e.round === chosen));
  list.replaceChildren(
    ...rows.map((e, i) =>
      option(
        i === at,
        () => choose(i),
        h("span", { class: "num" }, `Round ${format.count(e.round)}`),
        h("span", { class: "num eval-score" }, format.figure(e.bits_per_byte)),
        h("span", { class: "muted num" }, format.age(e.at, now)),
      ),
    ),
  );
  const one = rows[at];
  if (one !== undefined) {
    const by = one.by === "" ? "" : `, measured by ${one.by}`;
    text.replaceChildren(
      h(
        "p",
        { class: "samples-caption num" },
        `After round ${format.count(one.round)}: ${format.figure(one.bits_per_byte)} bits per byte, ` +
          `${format.figure(one.nats_per_token)} nats per token${by}.`,
      ),
      ...one.samples.map(sample),
      ...(one.samples.length === 0 ? [h("p", { class: "muted" }, "It wrote nothing this time.")] : []),
    );
  }
  return at;
}

function prompts(evaluations: Evaluation[]): string[] {
  return [...new Set(evaluations.flatMap((e) => e.samples.map((one) => one.prompt)))];
}

function drawPrompts(
  list: HTMLElement,
  text: HTMLElement,
  evaluations: Evaluation[],
  chosen: number,
  choose: (i: number) => void,
): number {
  const all = prompts(evaluations);
  const at = Math.min(chosen, Math.max(0, all.length - 1));
  list.replaceChildren(
    ...all.map((words, i) => option(i === at, () => choose(i), h("span", { class: "eval-prompt" }, words))),
  );
  const said = [...evaluations].reverse().flatMap((e) => {
    const one = e.samples.find((s) => s.prompt === all[at]);
    return one === undefined ? [] : [{ round: e.round, score: e.bits_per_byte, text: one.text }];
  });
  text.replaceChildren(
    h("p", { class: "sample sample-prompt" }, all[at] ?? ""),
    ...said.map((one) =>
      h(
        "div",
        { class: "sample-step" },
        h("p", { class: "muted num" }, `Round ${format.count(one.round)} · ${format.figure(one.score)}`),
        h("p", { class: "sample" }, `…${one.text}`),
      ),
    ),
  );
  return at;
}
