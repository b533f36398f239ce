/** The event log: one sentence a line, newest first; filters, search, as far back as it goes. */

import { h } from "../dom";
import * as format from "../format";
import { sought } from "../replay";
import type { Line, LineKind } from "../types";
import type { Place, View } from "../view";
import { VirtualList } from "../virtual";

const KINDS: readonly (readonly [LineKind, string])[] = [
  ["round", "Rounds"],
  ["peer", "Peers"],
  ["trouble", "Trouble"],
  ["state", "State"],
  ["evaluation", "Evaluations"],
  ["note", "Notes"],
];
const PANEL_LINES = 40;
const CALM_MS = 200;
const PAGE = 200;

export const log: View = {
  title: "Event log",
  mount(el, place) {
    return place.size === "page" ? page(el, place) : panel(el, place);
  },
};

function row(line: Line): HTMLElement {
  return h(
    "div",
    { class: `log-row kind-${line.kind}` },
    h("time", { class: "num", title: format.date(line.at) }, format.clock(line.at)),
    h("span", { class: "log-dot", title: line.kind }),
    h("span", { class: "log-text" }, line.text),
  );
}

function nothing(words: string): HTMLElement {
  return h("div", { class: "empty" }, h("span", {}, words));
}

function panel(el: HTMLElement, { store }: Place): () => void {
  const list = h("div", { class: "log-short", role: "list", tabindex: 0, "aria-label": "Newest events" });
  const known = new Map<number, HTMLElement>();
  el.append(list);
  const end = store.watch(["lines"], ({ lines }) => {
    const shown = lines.slice(0, PANEL_LINES);
    if (shown.length === 0) {
      list.replaceChildren(nothing("Nothing has happened yet."));
      return;
    }
    const rows = shown.map((line) => {
      const there = known.get(line.serial) ?? row(line);
      there.setAttribute("role", "listitem");
      known.set(line.serial, there);
      return there;
    });
    const serials = new Set(shown.map((line) => line.serial));
    for (const serial of known.keys()) if (!serials.has(serial)) known.delete(serial);
    list.replaceChildren(...rows);
  });
  return () => {
    end();
    el.replaceChildren();
  };
}

function page(el: HTMLElement, place: Place): () => void {
  const { store, note, tools } = place;
  let kind: LineKind | undefined = KINDS.find(([k]) => k === place.rest[0])?.[0];
  let words = "";
  let older: Line[] = []; // beyond what the store keeps, for this filter
  let ended = false;
  let asking = false;
  let turn = 0;

  const search = h("input", {
    type: "search",
    class: "field",
    placeholder: "Search",
    "aria-label": "Search the log",
    oninput: () => {
      clearTimeout(timer);
      timer = window.setTimeout(() => {
        words = search.value.trim();
        anew();
      }, CALM_MS);
    },
  });
  let timer = 0;
  const chips = h("div", { class: "chips", role: "group", "aria-label": "Kinds" });
  const buttons = [["", "All"] as const, ...KINDS].map(([value, label]) => {
    const button = h("button", { type: "button", class: `chip kind-${value || "all"}` }, label);
    button.addEventListener("click", () => {
      kind = value === "" ? undefined : value;
      anew();
    });
    chips.append(button);
    return [value, button] as const;
  });
  tools.append(search);

  const list = new VirtualList<Line>("Events", {
    key: (line) => line.serial,
    row,
    guess: 32,
    more: () => void fetchOlder(),
  });
  const empty = nothing("");
  empty.hidden = true;
  el.append(chips, list.el, empty);

  const query = () => ({ ...(kind === undefined ? {} : { kind }), ...(words === "" ? {} : { q: words }) });
  const lines = (): Line[] => {
    const near = sought(store.state.lines, { ...query(), limit: Infinity });
    const oldest = store.state.lines.at(-1)?.serial ?? Infinity;
    return [...near, ...older.filter((line) => line.serial < oldest)];
  };
  const draw = (keepPlace = true): void => {
    const found = lines();
    list.set(found, keepPlace);
    empty.hidden = found.length > 0 || asking;
    list.el.hidden = found.length === 0;
    empty.firstChild!.textContent =
      words === "" && kind === undefined ? "Nothing has happened yet." : "No event is like that.";
    note(`${format.count(found.length)}${ended ? "" : "+"} ${found.length === 1 ? "event" : "events"}`);
  };
  const anew = (): void => {
    turn += 1;
    older = [];
    ended = false;
    asking = false;
    for (const [value, button] of buttons) {
      button.setAttribute("aria-pressed", String(value === (kind ?? "")));
    }
    draw(false);
    void fetchOlder();
  };
  const fetchOlder = async (): Promise<void> => {
    if (asking || ended) return;
    asking = true;
    const mine = turn;
    const oldest = Math.min(
      older.at(-1)?.serial ?? Infinity,
      store.state.lines.at(-1)?.serial ?? Infinity,
    );
    try {
      const before = Number.isFinite(oldest) ? { before: oldest } : {};
      const found = await store.source.lines({ ...query(), ...before, limit: PAGE });
      if (mine !== turn) return;
      older = [...older, ...found];
      ended = found.length < PAGE;
    } catch {
      ended = false;
    }
    asking = false;
    draw();
  };
  anew();
  const end = store.watch(["lines"], () => draw());
  return () => {
    end();
    clearTimeout(timer);
    turn += 1;
    list.destroy();
    el.replaceChildren();
    tools.replaceChildren();
  };
}
