/** The round timeline: what each peer did when, the slowest first. */

import { h, onTheme, segmented, setText } from "../dom";
import { count } from "../format";
import type { State } from "../store";
import type { Timeline } from "../types";
import type { Place, View } from "../view";
import { Tip, fit, oncePerPicture, onWidth, peerAddress } from "./kit";
import { chart, pan, zoom, type Chart, type Lane, type Range } from "./lanes";
import {
  drawHead, drawLanes, headHeight, laneHeight, line, palette, toSeconds, toX, type Frame,
} from "./timeline-draw";
import { LaneTable } from "./timeline-table";
import { legend, sentence, spokenLane, under, words } from "./timeline-words";
import "./kit.css";
import "./timeline.css";

const SLOWEST = 24; // lanes before one asks for all
const PANEL_LANES = 10; // among other panels
const ALL = 5000; // peers asked of the server then

export const timeline: View = {
  title: "Rounds",
  mount(el, place) {
    const drawn = new RoundTimeline(el, place);
    const ends = [
      place.store.watch(["timelines"], (state) => drawn.take(state)),
      onTheme(() => drawn.redraw()),
    ];
    return () => {
      ends.forEach((end) => end());
      drawn.stop();
    };
  },
};

class RoundTimeline {
  readonly redraw = oncePerPicture(() => this.draw());
  private readonly head = h("canvas", { class: "timeline-head", "aria-hidden": "true" });
  private readonly lanes = h("canvas", { class: "timeline-lanes", "aria-hidden": "true" });
  private readonly space = h("div", { class: "timeline-space" });
  private readonly box = h("div", {
    class: "timeline-box",
    tabindex: 0,
    role: "group",
    "aria-label": "Lanes of the peers: arrows up and down choose one, + and − zoom, left and right move",
  });
  private readonly spoken = h("div", { class: "hidden-visually", "aria-live": "polite" });
  private readonly more = h("button", { type: "button", class: "button" });
  private readonly none = h("div", { class: "empty" });
  private readonly table = new LaneTable();
  private readonly tip = new Tip();
  private readonly unsize: () => void;
  private readonly step: { back: HTMLButtonElement; on: HTMLButtonElement; name: HTMLElement };
  private timelines: readonly Timeline[] = [];
  private asked: number | null = null; // a round that the viewer chose; null: the newest
  private several = false;
  private all = false;
  private made: Chart | null = null;
  private range: Range | null = null; // null: all of it
  private width = 0;
  private marked = -1;
  private dragging: { from: number; to: number } | null = null;
  private fetched = new Map<number, Timeline>();

  constructor(el: HTMLElement, private readonly place: Place) {
    el.classList.add("timeline");
    this.step = this.tools();
    this.box.append(this.lanes, this.space);
    el.append(legend(), this.none, this.head, this.box, this.spoken, h("div", { class: "view-foot" }, this.more));
    if (place.size === "page") el.append(this.table.element);
    this.more.addEventListener("click", () => void this.toggleAll());
    this.unsize = onWidth(el, () => this.redraw());
    this.listen();
  }

  stop(): void {
    this.unsize();
    this.redraw.cancel();
    this.tip.remove();
  }

  take(state: State): void {
    this.timelines = state.timelines;
    this.make();
  }

  private tools(): RoundTimeline["step"] {
    const icon = (sign: string, label: string, act: () => void): HTMLButtonElement =>
      h("button", { type: "button", class: "tool-button", title: label, "aria-label": label, onclick: act }, sign);
    const back = icon("‹", "The round before", () => void this.go(-1));
    const on = icon("›", "The next round", () => void this.go(1));
    const name = h("button", { type: "button", class: "timeline-name", title: "Back to the newest", onclick: () => this.newest() });
    const choice = segmented(
      "Rounds shown",
      [["one", "One"], ["several", "Side by side"]] as const,
      "one",
      (value) => {
        this.several = value === "several";
        this.range = null;
        this.make();
      },
    );
    const scale = [icon("−", "Zoom out", () => this.zoomBy(1.6)), icon("+", "Zoom in", () => this.zoomBy(1 / 1.6))];
    this.place.tools.append(h("span", { class: "timeline-step" }, back, name, on), choice);
    if (this.place.size === "page") this.place.tools.append(h("span", { class: "timeline-step" }, ...scale));
    return { back, on, name };
  }

  private newest(): void {
    this.asked = null;
    this.range = null;
    this.make();
  }

  private async go(by: number): Promise<void> {
    const now = this.made?.rounds.at(-1)?.round;
    if (now === undefined) return;
    const round = now + by;
    const last = this.timelines.at(-1)?.round ?? 0;
    if (round < 0 || round > last) return;
    this.asked = round;
    this.range = null;
    if (!this.find(round)) await this.fetch(round, 64);
    this.make();
  }

  private async fetch(round: number, peers: number): Promise<void> {
    try {
      const found = await this.place.store.source.timeline(round, round, peers);
      if (this.fetched.size > 24) this.fetched.clear();
      for (const one of found) this.fetched.set(one.round, one);
    } catch {
      // the round stays as it is; the page says elsewhere that its source is lost
    }
  }

  private find(round: number): Timeline | undefined {
    const [here, kept] = [this.timelines.find((one) => one.round === round), this.fetched.get(round)];
    return kept && (!here || kept.peers.length >= here.peers.length) ? kept : here;
  }

  private async toggleAll(): Promise<void> {
    this.all = !this.all;
    const round = this.made?.rounds.at(-1)?.round;
    if (this.all && round !== undefined && (this.made?.more ?? 0) > 0) {
      this.asked = round;
      setText(this.more, "Asking for all …");
      await this.fetch(round, ALL);
    }
    this.make();
  }

  /** The newest that is resolved: an open one has little to show yet. */
  private shown(): Timeline[] {
    const resolved = this.timelines.filter((one) => one.outcome !== "open");
    const newest = resolved.at(-1) ?? this.timelines.at(-1);
    const last = this.asked ?? newest?.round;
    if (last === undefined) return [];
    const chosen = this.several ? [last - 2, last - 1, last] : [last];
    return chosen.flatMap((round) => this.find(round) ?? []);
  }

  private make(): void {
    const shown = this.shown();
    this.made = shown.length > 0 ? chart(shown) : null;
    if (this.range && this.made && this.range.to > this.made.stop) this.range = null;
    this.say(shown);
    if (this.made) this.table.set(this.made);
    this.redraw();
  }

  private say(shown: readonly Timeline[]): void {
    const { made } = this;
    const newest = shown.at(-1);
    this.none.hidden = newest !== undefined;
    for (const part of [this.head, this.box]) part.hidden = newest === undefined;
    const total = made ? made.lanes.length + made.more : 0;
    this.more.hidden = this.place.size === "panel" || total <= SLOWEST;
    if (!made || !newest) {
      this.none.replaceChildren(h("strong", {}, "No round yet"), h("span", {}, "Every peer gets a lane here when the first round is resolved."));
      this.place.note("");
      return;
    }
    setText(this.more, this.all ? `Show the slowest ${SLOWEST}` : `Show all ${count(total)} peers`);
    setText(this.step.name, `round ${count(newest.round)}`);
    this.step.name.classList.toggle("timeline-held", this.asked !== null);
    this.step.back.disabled = newest.round <= 0;
    this.step.on.disabled = newest.round >= (this.timelines.at(-1)?.round ?? 0);
    this.place.note(sentence(newest, made));
  }

  private get narrow(): boolean {
    return this.width < 620;
  }

  private get visible(): Lane[] {
    const lanes = this.made?.lanes ?? [];
    return this.all ? lanes : lanes.slice(0, this.most);
  }

  private get most(): number {
    return this.place.size === "panel" ? PANEL_LANES : SLOWEST;
  }

  private get lane(): number {
    const lanes = this.visible.length;
    return this.place.size === "panel" && lanes > 6 ? 22 : laneHeight(lanes);
  }

  private get banded(): boolean {
    return (this.made?.lanes.length ?? 0) > 8;
  }

  private frame(): Frame | null {
    if (!this.made || this.width === 0) return null;
    const left = this.narrow ? 96 : Math.min(160, this.width * 0.16);
    const right = this.width - (this.narrow ? 50 : 104);
    return { chart: this.made, range: this.range ?? { from: 0, to: this.made.stop }, width: this.width, left, right, lane: this.lane };
  }

  private draw(): void {
    const lanes = this.visible;
    const whole = lanes.length * this.lane;
    const most = this.place.size === "page" ? Math.max(360, innerHeight - 300) : this.most * this.lane;
    const height = this.all ? Math.min(whole, most) : whole;
    this.box.style.height = `${height}px`;
    this.width = this.box.clientWidth;
    const frame = this.frame();
    if (!frame) return;
    this.space.style.height = `${whole - height}px`;
    const colours = palette();
    const tall = headHeight(frame.chart, this.banded);
    drawHead(fit(this.head, this.width, tall), frame, colours, this.banded);
    const context = fit(this.lanes, this.width, height);
    drawLanes(context, frame, colours, {
      lanes, top: this.box.scrollTop, height, marked: this.marked,
    });
    this.drawDrag(context, frame, height, colours["--accent"]);
  }

  private drawDrag(context: CanvasRenderingContext2D, frame: Frame, height: number, colour: string): void {
    if (!this.dragging) return;
    const [a, b] = [toX(frame, this.dragging.from), toX(frame, this.dragging.to)];
    context.globalAlpha = 0.14;
    context.fillStyle = colour;
    context.fillRect(Math.min(a, b), 0, Math.abs(b - a), height);
    context.globalAlpha = 1;
    line(context, a, 0, a, height, colour);
    line(context, b, 0, b, height, colour);
  }

  // ---- pointing, zooming ----

  private listen(): void {
    const { box } = this;
    box.addEventListener("scroll", () => this.redraw());
    box.addEventListener("pointermove", (event) => this.point(event));
    box.addEventListener("pointerleave", (event) => {
      if (event.pointerType !== "touch") this.unpoint();
    });
    box.addEventListener("pointerdown", (event) => this.down(event));
    box.addEventListener("pointerup", (event) => this.up(event));
    box.addEventListener("dblclick", () => this.reset());
    box.addEventListener("keydown", (event) => this.key(event));
    box.addEventListener("blur", () => this.unpoint());
    box.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
  }

  private at(event: MouseEvent): { x: number; lane: number; frame: Frame } | null {
    const frame = this.frame();
    const place = this.box.getBoundingClientRect();
    if (!frame) return null;
    const lane = Math.floor((event.clientY - place.top + this.box.scrollTop) / this.lane);
    return { x: event.clientX - place.left, lane, frame };
  }

  private point(event: PointerEvent): void {
    const at = this.at(event);
    if (!at) return;
    const seconds = Math.min(at.frame.range.to, Math.max(at.frame.range.from, toSeconds(at.frame, at.x)));
    if (this.dragging && event.buttons === 1) {
      this.dragging.to = seconds;
      this.tip.hide();
      this.redraw();
      return;
    }
    const lane = this.visible[at.lane];
    this.mark(lane ? at.lane : -1);
    this.box.style.cursor = at.x < at.frame.left ? "pointer" : "crosshair";
    if (!lane) return this.tip.hide();
    const slack = 3 * ((at.frame.range.to - at.frame.range.from) / (at.frame.right - at.frame.left));
    this.tip.show(event.clientX, event.clientY, ...words(lane, at.x < at.frame.left ? [] : under(lane, seconds, slack)));
  }

  private unpoint(): void {
    this.tip.hide();
    this.dragging = null;
    this.mark(-1);
  }

  private mark(lane: number): void {
    if (lane === this.marked) return;
    this.marked = lane;
    this.redraw();
  }

  private down(event: PointerEvent): void {
    const at = this.at(event);
    if (event.pointerType === "touch") return this.point(event);
    if (!at || event.button !== 0) return;
    if (at.x < at.frame.left || at.x > at.frame.right) return;
    const seconds = toSeconds(at.frame, at.x);
    this.dragging = { from: seconds, to: seconds };
  }

  private up(event: PointerEvent): void {
    const at = this.at(event);
    const dragged = this.dragging;
    this.dragging = null;
    if (!at || !this.made) return;
    if (dragged && Math.abs(toX(at.frame, dragged.to) - toX(at.frame, dragged.from)) > 6) {
      const [from, to] = [dragged.from, dragged.to].sort((a, b) => a - b);
      this.range = { from: from!, to: to! };
    } else if (at.x < at.frame.left && this.place.size !== "embed") {
      const lane = this.visible[at.lane];
      if (lane) location.hash = peerAddress(lane.node);
    }
    this.redraw();
  }

  private reset(): void {
    this.range = null;
    this.redraw();
  }

  private zoomBy(factor: number, at?: number): void {
    if (!this.made) return;
    const range = this.range ?? { from: 0, to: this.made.stop };
    this.range = zoom(range, factor, at ?? (range.from + range.to) / 2, this.made.stop);
    this.redraw();
  }

  private wheel(event: WheelEvent): void {
    const at = this.at(event);
    if (!at || !this.made) return;
    if (event.ctrlKey || event.metaKey) {
      event.preventDefault();
      this.zoomBy(Math.exp(event.deltaY * 0.01), toSeconds(at.frame, at.x));
    } else if (this.range && Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      event.preventDefault();
      const scale = (this.range.to - this.range.from) / (at.frame.right - at.frame.left);
      this.range = pan(this.range, event.deltaX * scale, this.made.stop);
      this.redraw();
    }
  }

  private key(event: KeyboardEvent): void {
    const act = {
      "+": () => this.zoomBy(1 / 1.6),
      "=": () => this.zoomBy(1 / 1.6),
      "-": () => this.zoomBy(1.6),
      Escape: () => this.reset(),
      ArrowLeft: () => this.move(-0.15),
      ArrowRight: () => this.move(0.15),
      ArrowUp: () => this.choose(-1),
      ArrowDown: () => this.choose(1),
    }[event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    act();
  }

  private move(share: number): void {
    if (!this.range || !this.made) return;
    this.range = pan(this.range, share * (this.range.to - this.range.from), this.made.stop);
    this.redraw();
  }

  private choose(by: number): void {
    const lane = Math.min(this.visible.length - 1, Math.max(0, this.marked + by));
    const found = this.visible[lane];
    if (!found) return;
    this.mark(lane);
    const top = lane * this.lane;
    if (top < this.box.scrollTop) this.box.scrollTop = top;
    const bottom = top + this.lane - this.box.clientHeight;
    if (bottom > this.box.scrollTop) this.box.scrollTop = bottom;
    setText(this.spoken, spokenLane(found));
    const place = this.box.getBoundingClientRect();
    this.tip.show(place.left + (this.frame()?.left ?? 0), place.top + top - this.box.scrollTop + this.lane, ...words(found, []));
  }
}
