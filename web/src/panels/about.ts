/** What this run is: settings, sources of text, lineage, and the hashes that prove it. */

import { h, setText } from "../dom";
import * as format from "../format";
import type { Head } from "../types";
import type { Place, View } from "../view";

function terms(rows: readonly (readonly [string, Node | string])[]): HTMLElement {
  return h(
    "dl",
    { class: "terms" },
    ...rows.flatMap(([term, value]) => [h("dt", {}, term), h("dd", { class: "num" }, value)]),
  );
}

/** A hash that a click copies. */
function copyable(value: string, what: string): HTMLElement {
  if (value === "") return h("span", { class: "muted" }, format.NONE);
  const done = h("span", { class: "copied", "aria-live": "polite" });
  return h(
    "span",
    { class: "copyable" },
    h("code", { class: "mono" }, value),
    h(
      "button",
      {
        type: "button",
        class: "button",
        "aria-label": `Copy ${what}`,
        onclick: () => {
          void copy(value).then((ok) => {
            setText(done, ok ? "copied" : "select it and press Ctrl-C");
            setTimeout(() => setText(done, ""), 2000);
          });
        },
      },
      "Copy",
    ),
    done,
  );
}

async function copy(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false; // no secure context: the text can still be selected
  }
}

const COLOURS = 8;

function mixture({ sources, tokens }: Head): HTMLElement {
  if (sources.length === 0) {
    return h("div", { class: "empty" }, h("span", {}, "The run has not told its sources."));
  }
  const bar = h("div", { class: "mixture-bar", role: "presentation" });
  sources.forEach((source, i) => {
    const part = h("span", { class: `cat-${(i % COLOURS) + 1}`, title: source.name });
    part.style.flexGrow = String(Math.max(0.002, source.share));
    bar.append(part);
  });
  const rows = sources.map((source, i) =>
    h(
      "tr",
      {},
      h("td", { class: "wide" }, h("span", { class: `swatch cat-${(i % COLOURS) + 1}` }), source.name),
      h("td", { class: "right" }, format.percent(source.share)),
      h("td", { class: "right" }, format.short(source.samples)),
      h("td", { class: "right" }, source.epochs.toFixed(2)),
    ),
  );
  const heads = ["Source", "Share", "Samples", "Epochs"];
  return h(
    "div",
    { class: "mixture" },
    bar,
    h(
      "table",
      {},
      h("thead", {}, h("tr", {}, ...heads.map((t, i) => h("th", { scope: "col", class: i > 0 ? "right" : "" }, t)))),
      h("tbody", {}, ...rows),
    ),
    h("p", { class: "muted small" }, `${format.short(tokens)} tokens are credited, every sample once per epoch.`),
  );
}

function settings(head: Head): HTMLElement {
  const known = Object.entries(head.settings);
  if (known.length === 0) return h("div", { class: "empty" }, h("span", {}, "No settings are told."));
  return terms(
    known.map(([name, value]) => [
      name.replaceAll("_", " "),
      typeof value === "number" && Number.isInteger(value) ? format.count(value) : String(value),
    ]),
  );
}

function identity(head: Head): HTMLElement {
  return terms([
    ["Run", copyable(head.run, "the run's id")],
    ["State root", copyable(head.state_root, "the state root")],
    [
      "Agreement",
      `${format.count(head.agreements)} reports equal the journal's root, ${format.count(head.disagreements)} ` +
        (head.disagreements === 1 ? "differs" : "differ"),
    ],
    ["Began with", head.descent || "fresh weights"],
    ["Parameters", format.count(head.parameters)],
    ["First round", format.date(head.started)],
    ["Rounds", `${format.count(head.rounds)} committed, ${format.count(head.abandoned)} abandoned`],
    ["Contributions rejected", format.count(head.rejected)],
    ["Coordinator's term", format.count(head.term)],
    ["Archived up to", head.archived < 0 ? "nothing yet" : `round ${format.count(head.archived)}`],
    ...(head.uploading === "" ? [] : [["Uploading", head.uploading] as const]),
    ...(head.keeper_disk === "" ? [] : [["Keeper's disk", head.keeper_disk] as const]),
  ]);
}

/** What `identity` shows, and nothing that changes more often: a redraw takes the focus away. */
const identityKey = (head: Head): unknown => [
  head.run,
  head.state_root,
  head.agreements,
  head.disagreements,
  head.rounds,
  head.abandoned,
  head.rejected,
  head.term,
  head.archived,
  head.uploading,
  head.keeper_disk,
];

/** A view that is drawn anew when what it shows has changed. */
function drawn(title: string, key: (head: Head) => unknown, draw: (head: Head) => HTMLElement): View {
  return {
    title,
    mount(el: HTMLElement, { store }: Place) {
      let seen = "";
      const end = store.watch(["head"], ({ head }) => {
        const now = JSON.stringify(key(head));
        if (now === seen) return;
        seen = now;
        el.replaceChildren(draw(head));
      });
      return () => {
        end();
        el.replaceChildren();
      };
    },
  };
}

export const sources = drawn("What it reads", (head) => [head.sources, head.tokens], mixture);
export const setup = drawn("Settings", (head) => head.settings, settings);
export const about = drawn("This run", identityKey, identity);
