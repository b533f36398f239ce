/** The peers' table: a leaderboard that can be searched, filtered and sorted, 1,000 rows and more. */

import { h, setAttribute } from "../dom";
import { count, counted, short } from "../format";
import type { State } from "../store";
import type { Peer, PeerState } from "../types";
import type { Place, View } from "../view";
import { STATE_WORDS, oncePerPicture, onWidth, peerAddress, placeName, speed } from "./kit";
import { cells, chosen, phoneRow, template, type Column } from "./peers-columns";
import { isHere, matching, ranked, sorted, visible, type Key, type Order, type Row, type Wanted } from "./ranking";
import "./kit.css";
import "./peers.css";

const PANEL_ROWS = 8;
const PANEL_CARDS = 6;
const ROW = 38;
const PHONE_ROW = 58;

export const peers: View = {
  title: "Peers",
  mount(el, place) {
    const table = new PeerTable(el, place);
    const end = place.store.watch(["peers", "regions"], (state) => table.take(state));
    return () => {
      end();
      table.stop();
    };
  },
};

class PeerTable {
  private readonly head = h("div", { class: "peers-head", role: "row" });
  private readonly body = h("div", { class: "peers-body", role: "rowgroup" });
  private readonly table = h(
    "div",
    { class: "peers-table", role: "table", "aria-label": "Peers" },
    h("div", { class: "peers-headgroup", role: "rowgroup" }, this.head),
    this.body,
  );
  private readonly box = h("div", { class: "peers-box", tabindex: -1 }, this.table);
  private readonly none = h("div", { class: "empty" });
  private readonly redraw = oncePerPicture(() => this.draw());
  private readonly unsize: () => void;
  private readonly drawn = new Map<number, { row: Row; element: HTMLElement }>();
  private state: State | null = null;
  private rows: Row[] = [];
  private order: Order = { key: "rank", down: false };
  private wanted: Wanted = { word: "", state: "", role: "" };
  private columns: Column[] = [];
  private width = 0;
  private controls: HTMLElement[] = [];

  constructor(el: HTMLElement, private readonly place: Place) {
    el.classList.add("peers", `peers-${place.size}`);
    el.append(this.box, this.none);
    if (this.whole) this.offer();
    this.unsize = onWidth(el, (width) => {
      this.width = width;
      this.drawn.clear();
      this.body.replaceChildren();
      this.headline();
      this.make();
      this.draw();
    });
    this.box.addEventListener("scroll", () => this.redraw());
    this.body.addEventListener("click", (event) => this.follow(event));
  }

  stop(): void {
    this.unsize();
    this.redraw.cancel();
  }

  take(state: State): void {
    this.state = state;
    this.make();
    this.say(state);
  }

  private get whole(): boolean {
    return this.place.size === "page";
  }

  private get phone(): boolean {
    return this.width < (this.whole ? 600 : 480);
  }

  private get height(): number {
    return this.phone ? PHONE_ROW : ROW;
  }

  // ---- search, filters, order ----

  private offer(): void {
    const search = h("input", {
      class: "field peers-search",
      type: "search",
      placeholder: "Name, device, place …",
      "aria-label": "Search the peers",
      spellcheck: "false",
      oninput: () => this.want({ word: search.value }),
    });
    const states = choice("State", [
      ["", "All states"],
      ["here", "Here now"],
      ...(Object.keys(STATE_WORDS) as PeerState[]).map((state) => [state, sentenceCase(STATE_WORDS[state])] as const),
    ], (value) => this.want({ state: value as Wanted["state"] }));
    const roles = choice("Role", [
      ["", "All roles"], ["trainer", "Trainers"], ["keeper", "Keepers"], ["evaluator", "Evaluators"],
    ], (value) => this.want({ role: value as Peer["role"] | "" }));
    const order = choice("Order", [
      ["rank", "By rank"], ["tokens_per_s", "By speed"], ["uptime_s", "By time here"], ["strikes", "By strikes"],
      ["loss", "By loss"], ["name", "By name"],
    ], (value) => this.sort(value as Key));
    order.classList.add("peers-order");
    this.controls = [search, states, roles, order];
    this.place.tools.append(...this.controls);
  }

  private want(part: Partial<Wanted>): void {
    this.wanted = { ...this.wanted, ...part };
    this.box.scrollTop = 0;
    this.make();
  }

  private sort(key: Key): void {
    const column = this.columns.find((one) => one.key === key);
    const first = column?.down ?? (key !== "rank" && key !== "name" && key !== "loss");
    this.order = { key, down: this.order.key === key ? !this.order.down : first };
    this.box.scrollTop = 0;
    this.make();
    this.headline();
  }

  private make(): void {
    const { state } = this;
    if (!state) return;
    const regions = new Map(state.regions.map((region) => [region.key, placeName(region)]));
    const found = matching(ranked(state.peers), this.wanted, (key) => regions.get(key) ?? "");
    this.rows = sorted(found, this.order);
    if (!this.whole) {
      const most = this.phone ? PANEL_CARDS : PANEL_ROWS;
      this.rows = this.rows.filter(({ peer }) => peer.role === "trainer").slice(0, most);
    }
    setAttribute(this.table, "aria-rowcount", String(this.rows.length + 1));
    const empty = this.rows.length === 0;
    this.none.hidden = !empty;
    this.box.hidden = empty;
    if (empty) this.none.replaceChildren(...this.nobody(state));
    this.redraw();
  }

  private nobody(state: State): Node[] {
    if (state.peers.length === 0) {
      return [h("strong", {}, "No peer yet"), h("span", {}, "Whoever joins appears here, with what it contributes.")];
    }
    return [h("strong", {}, "Nobody is like that"), h("span", {}, "Change the search or the filters.")];
  }

  private say(state: State): void {
    const active = state.peers.filter((peer) => peer.state === "active").length;
    const here = state.peers.filter(isHere);
    const rate = speed(here);
    const words = [counted(state.peers.length, "peer"), `${count(active)} active`];
    if (rate !== null) words.push(`${short(rate)} tok/s`);
    this.place.note(state.peers.length > 0 ? words.join(" · ") : "");
  }

  // ---- drawing ----

  private headline(): void {
    this.columns = chosen(this.width, this.whole);
    this.table.style.setProperty("--columns", template(this.columns));
    this.table.classList.toggle("peers-phone", this.phone);
    this.head.replaceChildren(...this.columns.map((column) => this.heading(column)));
    for (const control of this.controls) control.classList.toggle("peers-wide", !this.phone);
  }

  private heading(column: Column): HTMLElement {
    const on = this.order.key === column.key;
    const sort = on ? (this.order.down ? "descending" : "ascending") : "none";
    const arrow = on ? (this.order.down ? " ↓" : " ↑") : "";
    const inside = this.whole
      ? h("button", { type: "button", title: column.title, onclick: () => this.sort(column.key) }, column.label, h("span", { "aria-hidden": "true" }, arrow))
      : h("span", { title: column.title }, column.label);
    return h("div", { role: "columnheader", class: column.right ? "right" : `peers-col-${column.key}`, "aria-sort": this.whole && sort }, inside);
  }

  /** Rows in sight only; those that are there and unchanged stay. */
  private draw(): void {
    const { state } = this;
    if (!state || this.width === 0) return;
    const tall = this.whole ? Math.max(320, innerHeight - (this.phone ? 180 : 230)) : Infinity;
    const whole = this.rows.length * this.height;
    this.box.style.maxHeight = tall === Infinity ? "none" : `${tall}px`;
    this.body.style.height = `${whole}px`;
    const view = tall === Infinity ? whole : tall;
    const { first, last } = visible(this.rows.length, this.height, this.box.scrollTop, view);
    for (const [i, { element }] of this.drawn) {
      if (i >= first && i < last) continue;
      element.remove();
      this.drawn.delete(i);
    }
    const regions = new Map(state.regions.map((region) => [region.key, region]));
    const most = state.peers.reduce((top, peer) => Math.max(top, peer.share), 0);
    for (let i = first; i < last; i++) {
      const row = this.rows[i]!;
      const old = this.drawn.get(i);
      if (old && old.row.peer === row.peer && old.row.rank === row.rank) continue;
      const place = placeName(regions.get(row.peer.region));
      const about = { place, link: this.link, most };
      const inner = this.phone ? [phoneRow(row, about)] : cells(this.columns, row, about);
      const element = old?.element ?? h("div", { class: "peers-row", role: "row" });
      const focused = element.contains(document.activeElement);
      element.replaceChildren(...inner);
      if (focused) element.querySelector("a")?.focus({ preventScroll: true });
      element.style.transform = `translateY(${i * this.height}px)`;
      setAttribute(element, "aria-rowindex", String(i + 2));
      setAttribute(element, "data-node", row.peer.node);
      element.classList.toggle("peers-absent", !isHere(row.peer));
      if (!old) this.body.append(element);
      this.drawn.set(i, { row, element });
    }
  }

  private get link(): boolean {
    return this.place.size !== "embed";
  }

  private follow(event: MouseEvent): void {
    const target = event.target as Element;
    const node = target.closest("[data-node]")?.getAttribute("data-node");
    if (!node || !this.link || target.closest("a") || getSelection()?.toString()) return;
    location.hash = peerAddress(node);
  }
}

function choice(
  label: string,
  options: readonly (readonly [string, string])[],
  act: (value: string) => void,
): HTMLSelectElement {
  const select = h(
    "select",
    { class: "field", "aria-label": label },
    ...options.map(([value, text]) => h("option", { value }, text)),
  );
  select.addEventListener("change", () => act(select.value));
  return select;
}

function sentenceCase(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
