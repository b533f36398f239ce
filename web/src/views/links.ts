/** The link matrix: how fast, how far and how well each peer sends to each other one. */

import { h, onTheme, segmented, setText } from "../dom";
import { NONE, bytes, count, counted, duration, percent, rate } from "../format";
import type { State } from "../store";
import type { Place, View } from "../view";
import { Tip, fit, oncePerPicture, onWidth, shareOf, spoken, tipLines } from "./kit";
import { drawMatrix, layout, palette, stops, type Layout } from "./links-draw";
import { edges, matrix, scale, type Matrix, type Measure } from "./matrix";
import "./kit.css";
import "./links.css";

const MOST_NODES = 40; // more are shown by region at first
const LISTED = 40; // links of the list, until one asks for more

const MEASURES: readonly (readonly [Measure, string])[] = [
  ["bandwidth", "Bandwidth"],
  ["rtt", "Round trip"],
  ["loss", "Loss"],
];

const FORMAT: Record<Measure, (value: number) => string> = {
  bandwidth: rate,
  rtt: duration,
  loss: shareOf,
};

export const links: View = {
  title: "Links",
  mount(el, place) {
    const drawn = new LinkMatrix(el, place);
    const ends = [
      place.store.watch(["links", "regions"], (state) => drawn.take(state)),
      onTheme(() => drawn.recolour()),
    ];
    return () => {
      ends.forEach((end) => end());
      drawn.stop();
    };
  },
};

class LinkMatrix {
  private readonly canvas = h("canvas", { class: "links-canvas", "aria-hidden": "true" });
  private readonly space = h("div", { class: "links-space" });
  private readonly box = h("div", {
    class: "links-box",
    tabindex: 0,
    role: "group",
    "aria-label": "Matrix of links: rows send, columns receive; arrow keys choose a cell",
  });
  private readonly spoken = h("div", { class: "hidden-visually", "aria-live": "polite" });
  private readonly list = h("div", { class: "links-list" });
  private readonly none = h("div", { class: "empty" });
  private readonly legend = h("div", { class: "links-legend" });
  private readonly way = h("span", {});
  private readonly facts = h("span", {});
  private readonly foot = h("p", { class: "view-foot" }, this.way, this.facts);
  private readonly choices = h("span", { class: "links-choices" });
  private readonly tip = new Tip();
  private readonly redraw = oncePerPicture(() => this.draw());
  private readonly unsize: () => void;
  private state: State | null = null;
  private measure: Measure = "bandwidth";
  private by: "node" | "region" | null = null; // null: nobody chose
  private form: "matrix" | "list" | null = null;
  private offered = "";
  private all: Record<Measure, Matrix> | null = null;
  private layout: Layout | null = null;
  private listed = LISTED;
  private row = -1;
  private column = -1;

  constructor(el: HTMLElement, private readonly place: Place) {
    el.classList.add("links");
    const measures = segmented("Measure", MEASURES, this.measure, (value) => {
      this.measure = value;
      this.make();
    });
    place.tools.append(this.choices, measures);
    this.box.append(this.canvas, this.space);
    el.append(this.none, this.legend, this.box, this.spoken, this.list, this.foot);
    this.unsize = onWidth(el, () => {
      this.offer();
      this.redraw();
    });
    this.listen();
  }

  stop(): void {
    this.unsize();
    this.redraw.cancel();
    this.tip.remove();
  }

  take(state: State): void {
    this.state = state;
    this.make();
  }

  recolour(): void {
    this.drawLegend();
    this.redraw();
  }

  private get grouped(): "node" | "region" {
    if (this.by) return this.by;
    return (this.state?.links.nodes.length ?? 0) > MOST_NODES && this.places > 1 ? "region" : "node";
  }

  private get places(): number {
    return new Set(this.state?.links.nodes.map(({ region }) => region)).size;
  }

  private get shape(): "matrix" | "list" {
    if (this.form) return this.form;
    const narrow = this.box.parentElement !== null && this.box.parentElement.clientWidth < 560;
    return narrow && (this.all?.bandwidth.labels.length ?? 0) > 12 ? "list" : "matrix";
  }

  private make(): void {
    const { state } = this;
    if (!state) return;
    const { links: found, regions } = state;
    const of = (measure: Measure): Matrix => matrix(found, this.grouped, measure, regions);
    this.all = { bandwidth: of("bandwidth"), rtt: of("rtt"), loss: of("loss") };
    this.none.hidden = found.pairs.length > 0;
    this.foot.hidden = found.pairs.length === 0;
    this.none.replaceChildren(
      h("strong", {}, "No link measured yet"),
      h("span", {}, "Peers measure how fast they send to each other in every round, and tell it when the round is resolved."),
    );
    this.offer();
    this.say(state);
    this.drawLegend();
    this.redraw();
  }

  /** The switches that make sense for these links at this width. */
  private offer(): void {
    const several = this.places > 1 && (this.state?.links.nodes.length ?? 0) > 6;
    const key = `${several} ${this.grouped} ${this.shape}`;
    if (key === this.offered) return;
    this.offered = key;
    const forms = segmented("Form", [["matrix", "Matrix"], ["list", "List"]] as const, this.shape, (value) => {
      this.form = value;
      this.redraw();
    });
    const groups = segmented("Rows", [["node", "Peers"], ["region", "Places"]] as const, this.grouped, (value) => {
      this.by = value;
      this.row = this.column = -1;
      this.make();
    });
    this.choices.replaceChildren(...(several ? [groups] : []), forms);
  }

  private say(state: State): void {
    const { links: found } = state;
    if (found.pairs.length === 0) {
      this.place.note("");
      setText(this.facts, "");
      return;
    }
    const active = found.pairs.filter((pair) => pair.active).length;
    this.place.note(`${count(found.pairs.length)} links measured · ${count(active)} used in round ${count(found.round)}`);
    const parts: string[] = [];
    if (found.owners.length > 0) parts.push(`${counted(found.owners.length, "peer")} ${found.owners.length === 1 ? "owns" : "own"} the slices of the newest attempt.`);
    if (found.more > 0) parts.push(`${counted(found.more, "peer")} with smaller contributions ${found.more === 1 ? "is" : "are"} not shown.`);
    setText(this.facts, parts.join(" "));
  }

  private drawLegend(): void {
    const made = this.all?.[this.measure];
    const range = made ? scale(made.cells, this.measure) : null;
    this.legend.hidden = range === null;
    if (!range) return;
    const colours = stops(palette(), this.measure);
    const bar = h("span", { class: "links-ramp", "aria-hidden": "true" });
    bar.style.background = `linear-gradient(to right, ${colours.join(", ")})`;
    const format = FORMAT[this.measure];
    this.legend.replaceChildren(
      h("span", {}, format(range.low)),
      bar,
      h("span", {}, `${format(range.high)}${this.measure === "loss" ? " retransmitted" : ""}`),
      h("span", { class: "links-key" }, h("span", { class: "links-idle", "aria-hidden": "true" }), "idle in the newest round"),
    );
  }

  private draw(): void {
    const made = this.all?.[this.measure];
    const width = this.box.parentElement?.clientWidth ?? 0;
    if (!made || width === 0) return;
    const empty = !this.none.hidden;
    const listed = this.shape === "list";
    this.box.hidden = listed || empty;
    this.list.hidden = !listed || empty;
    this.legend.classList.toggle("links-listed", listed);
    setText(this.way, listed ? "The worst first." : "Rows send, columns receive, both from west to east.");
    if (empty) return;
    if (listed) return this.drawList(made);
    const most = this.place.size === "page" ? Math.max(1240, innerHeight - 240) : 560;
    const place = layout(made, width, most);
    this.layout = place;
    this.box.style.height = `${place.height}px`;
    const size = made.labels.length * place.cell;
    this.space.style.width = `${place.left + size + (place.width - place.right) + 10}px`;
    this.space.style.height = `${Math.max(0, place.top + size - place.height)}px`;
    const context = fit(this.canvas, this.box.clientWidth, this.box.clientHeight);
    const look = { x: this.box.scrollLeft, y: this.box.scrollTop, row: this.row, column: this.column };
    drawMatrix(context, made, scale(made.cells, this.measure), this.measure, place, look, FORMAT[this.measure]);
  }

  private drawList(made: Matrix): void {
    const { all } = this;
    if (!all) return;
    const found = edges(made, this.measure);
    const most = found.reduce((top, { cell }) => Math.max(top, cell.value), 0);
    const rows = found.slice(0, this.listed).map(({ row, column, cell }) => {
      const bar = h("span", { class: "links-bar", "aria-hidden": "true" });
      bar.style.transform = `scaleX(${most > 0 ? Math.max(0.01, cell.value / most) : 0})`;
      const [from, to] = [made.labels[row]!.name, made.labels[column]!.name];
      return h(
        "li",
        {},
        h("span", { class: "links-ends" }, h("span", { class: "ellipsis", title: from }, from), h("span", { class: "muted" }, "→"), h("span", { class: "ellipsis", title: to }, to)),
        h("span", { class: "links-value num" }, FORMAT[this.measure](cell.value), bar),
        h("span", { class: "links-rest muted num" }, this.others(row * made.labels.length + column)),
      );
    });
    const rest = found.length - this.listed;
    const act = (): void => {
      this.listed *= 4;
      this.redraw();
    };
    const more = h("button", { type: "button", class: "button links-more", onclick: act }, `${count(rest)} more`);
    this.list.replaceChildren(
      h("ol", { "aria-label": "Links, the worst first" }, ...rows),
      ...(rest > 0 ? [more] : []),
    );
  }

  private others(place: number): string {
    const { all } = this;
    const words = MEASURES.filter(([measure]) => measure !== this.measure).map(([measure]) => {
      const cell = all?.[measure].cells[place];
      const word = { bandwidth: "", rtt: "", loss: " loss" }[measure];
      return cell && cell.pairs > 0 ? FORMAT[measure](cell.value) + word : NONE;
    });
    return words.join(" · ");
  }

  // ---- pointing ----

  private listen(): void {
    const { box } = this;
    box.addEventListener("scroll", () => this.redraw());
    box.addEventListener("pointermove", (event) => this.point(event));
    box.addEventListener("pointerdown", (event) => this.point(event));
    box.addEventListener("pointerleave", (event) => {
      if (event.pointerType !== "touch") this.choose(-1, -1);
    });
    box.addEventListener("blur", () => this.choose(-1, -1));
    box.addEventListener("keydown", (event) => this.key(event));
  }

  private point(event: PointerEvent): void {
    const { layout: place, all } = this;
    if (!place || !all) return;
    const at = this.box.getBoundingClientRect();
    const [x, y] = [event.clientX - at.left - place.left, event.clientY - at.top - place.top];
    const size = all[this.measure].labels.length;
    const column = Math.floor((x + this.box.scrollLeft) / place.cell);
    const row = Math.floor((y + this.box.scrollTop) / place.cell);
    const inside = x >= 0 && y >= 0 && row < size && column < size && event.clientX - at.left < place.right - 10;
    this.choose(inside ? row : -1, inside ? column : -1);
    if (inside) this.tip.show(event.clientX, event.clientY, ...this.words(row, column));
  }

  private choose(row: number, column: number): void {
    if (row < 0) this.tip.hide();
    if (row === this.row && column === this.column) return;
    this.row = row;
    this.column = column;
    this.redraw();
  }

  private words(row: number, column: number): Node[] {
    const { all } = this;
    const labels = all?.[this.measure].labels;
    const [from, to] = [labels?.[row], labels?.[column]];
    if (!all || !labels || !from || !to) return [];
    if (row === column && this.grouped === "node") return tipLines(from.name, this.ownerLines(row));
    const place = row * labels.length + column;
    const lines: [string, string][] = MEASURES.map(([measure, name]) => {
      const cell = all[measure].cells[place];
      return [name.toLowerCase(), cell && cell.pairs > 0 ? FORMAT[measure](cell.value) : "not measured"];
    });
    const cell = all[this.measure].cells[place];
    if (cell) lines.push(["newest round", cell.active ? bytes(cell.bytes) : "idle"]);
    if (this.grouped === "region" && cell) lines.push(["peers", `${from.peers} → ${to.peers}`]);
    return tipLines(`${from.name} → ${to.name}`, lines);
  }

  private ownerLines(row: number): [string, string][] {
    const made = this.all?.[this.measure];
    const lines: [string, string][] = [];
    const region = made?.labels[row]?.region;
    if (region) lines.push(["place", region]);
    lines.push(["owns", percent(made?.owners[row] ?? 0)]);
    return lines;
  }

  private key(event: KeyboardEvent): void {
    const way = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    const { layout: place, all } = this;
    if (event.key === "Escape") return this.choose(-1, -1);
    if (!way || !place || !all) return;
    event.preventDefault();
    const last = all[this.measure].labels.length - 1;
    const row = Math.min(last, Math.max(0, this.row + way[0]!));
    const column = Math.min(last, Math.max(0, this.column + way[1]!));
    this.choose(row, column);
    this.reveal(place, row, column);
    const at = this.box.getBoundingClientRect();
    const words = this.words(row, column);
    this.tip.show(
      at.left + place.left + (column + 1) * place.cell - this.box.scrollLeft,
      at.top + place.top + (row + 1) * place.cell - this.box.scrollTop,
      ...words,
    );
    setText(this.spoken, spoken(words));
  }

  private reveal({ cell, left, top, right, height }: Layout, row: number, column: number): void {
    const { box } = this;
    const [wide, tall] = [right - 10 - left, height - top];
    box.scrollLeft = Math.min(column * cell, Math.max(box.scrollLeft, (column + 1) * cell - wide));
    box.scrollTop = Math.min(row * cell, Math.max(box.scrollTop, (row + 1) * cell - tall));
  }
}
