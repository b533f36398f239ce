/** The world map: where the peers of a run are, what each place contributes, and what moves. */

import { geoEqualEarth, geoGraticule, geoPath, type GeoProjection } from "d3-geo";
import type { LineString } from "geojson";
import packed from "../../map/world.json";
import { h, onTheme, reducedMotion, s, setText } from "../dom";
import { bytes, count, counted } from "../format";
import type { State } from "../store";
import type { Region } from "../types";
import type { Place as Slot, View } from "../view";
import { Comets, type Path } from "./comets";
import { Tip, fit, onWidth, oncePerPicture, shareOf, tipLines } from "./kit";
import { MapCard } from "./map-card";
import { PlaceList } from "./map-list";
import { MapMarks } from "./map-marks";
import { Camera } from "./map-camera";
import { arcs, greatCircle, marks, places, radius, type Arc, type Mark } from "./places";
import { decodeWorld } from "./world";
import "./kit.css";
import "./map.css";

const ARCS = 48;
const LEAST = 3.5; // pixels: a place that has contributed next to nothing

let world: ReturnType<typeof decodeWorld> | undefined;

export const map: View = {
  title: "World",
  mount(el, place) {
    const drawn = new WorldMap(el, place);
    const ends = [
      place.store.watch(["peers", "regions", "links", "head"], (state) => drawn.take(state)),
      onTheme(() => drawn.recolour()),
    ];
    return () => {
      ends.forEach((end) => end());
      drawn.stop();
    };
  },
};

class WorldMap {
  private readonly base = s("g", { class: "map-land" });
  private readonly lines = s("g", { class: "map-arcs" });
  private readonly front = s("g");
  private readonly moved = s("g", {}, this.base, this.lines);
  private readonly under = s("svg", { class: "map-under", "aria-hidden": "true" }, this.moved);
  private readonly svg = s(
    "svg",
    { class: "map-over", role: "group", "aria-label": "World map of the peers" },
    this.front,
  );
  private readonly comets = new Comets();
  private readonly stage = h("div", { class: "map-stage" });
  private readonly foot = h("p", { class: "view-foot map-foot" });
  private readonly legend = legend();
  private readonly list = new PlaceList();
  private readonly tip = new Tip();
  private readonly card: MapCard;
  private readonly dots: MapMarks;
  private readonly camera: Camera;
  private readonly redraw = oncePerPicture(() => this.draw());
  private readonly unsize: () => void;
  private projection: GeoProjection = geoEqualEarth();
  private width = 0;
  private height = 0;
  private state: State | null = null;
  private made: Mark[] = [];
  private moving: Arc[] = [];
  private drawnFor = "";

  constructor(el: HTMLElement, private readonly slot: Slot) {
    el.classList.add("map", `map-${slot.size}`);
    this.stage.append(this.under, this.comets.canvas, this.svg);
    el.append(this.stage, this.legend, this.foot);
    if (slot.size === "page") el.append(this.list.element);
    this.camera = new Camera(this.stage, slot.size === "page", () => this.look());
    this.card = new MapCard(this.stage, slot, (mark) => this.camera.closer(mark.x, mark.y));
    this.dots = new MapMarks(this.front, this.card);
    this.stage.append(this.camera.buttons);
    this.unsize = onWidth(this.stage, (width) => this.resize(width));
  }

  stop(): void {
    this.unsize();
    this.redraw.cancel();
    this.camera.stop();
    this.comets.stop();
    this.tip.remove();
  }

  take(state: State): void {
    this.state = state;
    this.say(state);
    if (this.slot.size === "page") this.list.draw(state);
    this.redraw();
  }

  recolour(): void {
    this.comets.recolour();
    this.comets.draw(performance.now() / 1000);
  }

  private resize(width: number): void {
    this.width = width;
    const share = width < 560 ? 0.54 : 0.475;
    const most = this.slot.size === "page" ? Math.max(300, innerHeight - 260) : 560;
    this.height = Math.round(Math.min(most, Math.max(200, width * share)));
    this.stage.style.height = `${this.height}px`;
    for (const svg of [this.under, this.svg]) {
      svg.setAttribute("viewBox", `0 0 ${width} ${this.height}`);
    }
    this.drawLand();
    this.camera.resize(this.width, this.height);
    this.drawnFor = "";
    this.redraw();
  }

  private drawLand(): void {
    world ??= decodeWorld(packed);
    const edge = Math.min(14, this.width / 60);
    this.projection = geoEqualEarth()
      .rotate([-11, 0])
      .fitExtent([[edge, edge], [this.width - edge, this.height - edge]], world.land);
    const path = geoPath(this.projection).digits(1);
    this.base.replaceChildren(
      s("path", { class: "map-edge", d: path({ type: "Sphere" }) ?? "" }),
      s("path", { class: "map-grid", d: path(geoGraticule().step([30, 30])()) ?? "" }),
      s("path", { class: "map-ground", d: path(world.land) ?? "" }),
      s("path", { class: "map-border", d: path(world.borders) ?? "" }),
    );
  }

  private draw(): void {
    const { state } = this;
    if (!state || this.width === 0) return;
    const found = places(state.peers, state.head.map ? state.regions : []);
    const heaviest = Math.max(1, ...found.places.map((place) => place.tokens));
    const most = Math.max(9, Math.min(24, this.width / 42));
    const size = (tokens: number): number => radius(tokens / heaviest, LEAST, most);
    const { k } = this.camera;
    const at = (region: Region): [number, number] | null => {
      const point = this.projection([region.lon, region.lat]);
      return point && [point[0] * k, point[1] * k];
    };
    this.made = marks(found.places, at, size);
    this.dots.draw(this.made, this.width > 560 ? 12 : 4, { width: this.width * k, narrow: this.width <= 560 });
    this.card.refresh(this.made);
    this.drawArcs(state);
    this.look();
  }

  private drawArcs(state: State): void {
    const key = `${state.links.round} ${state.links.pairs.length} ${this.width} ${state.head.map}`;
    if (key === this.drawnFor) return;
    this.drawnFor = key;
    this.moving = state.head.map ? arcs(state.links, state.regions, ARCS) : [];
    const most = Math.max(1, this.moving[0]?.bytes ?? 1);
    const path = geoPath(this.projection).digits(1);
    this.lines.replaceChildren(
      ...[...this.moving].reverse().map((arc) => {
        const d = path(line(arc)) ?? "";
        const share = Math.sqrt(arc.bytes / most);
        const drawn = s("path", { class: "map-arc", d, "stroke-width": (0.5 + 2.6 * share).toFixed(2) });
        drawn.style.opacity = (0.16 + 0.4 * share).toFixed(2);
        const hit = s("path", { class: "map-arc-hit", d });
        hit.addEventListener("pointermove", (event) => this.tellArc(event, arc));
        hit.addEventListener("pointerleave", () => this.tip.hide());
        return s("g", {}, drawn, hit);
      }),
    );
    const still = reducedMotion() || state.head.state !== "running";
    this.comets.set(still ? [] : this.moving.map((arc, i) => this.path(arc, i, most)));
  }

  private path(arc: Arc, i: number, most: number): Path {
    const points = greatCircle(arc.from, arc.to, 40).flatMap((at) => {
      const point = this.projection(at);
      return point ? [point] : [];
    });
    const width = 3 * Math.sqrt(arc.bytes / most);
    return { points, reversed: arc.outward < arc.bytes / 2, width, delay: (i * 0.618) % 1 };
  }

  private tellArc(event: PointerEvent, arc: Arc): void {
    const back = arc.bytes - arc.outward;
    this.tip.show(
      event.clientX,
      event.clientY,
      ...tipLines(`${arc.from.city} – ${arc.to.city}`, [
        [`to ${arc.to.city}`, bytes(arc.outward)],
        [`to ${arc.from.city}`, bytes(back)],
        ["in round", count(this.state?.links.round)],
      ]),
    );
  }

  /** The camera moved: clusters are made anew only when it came closer or went back. */
  private look(): void {
    const { k, x, y } = this.camera;
    this.moved.setAttribute("transform", `translate(${x} ${y}) scale(${k})`);
    this.front.setAttribute("transform", `translate(${x} ${y})`);
    this.comets.place({ width: this.width, height: this.height }, { k, x, y });
    if (this.comets.canvas.width === 0) fit(this.comets.canvas, this.width, this.height);
    this.card.move(k, x, y);
    if (this.dots.scale !== k) {
      this.dots.scale = k;
      this.redraw();
    }
  }

  private say(state: State): void {
    this.stage.classList.toggle("map-private", !state.head.map);
    this.legend.hidden = !state.head.map;
    if (!state.head.map) {
      this.slot.note("");
      setText(this.foot, "This run's host keeps to itself where the peers are.");
      return;
    }
    const found = places(state.peers, state.regions);
    const moving = new Set<string>();
    for (const pair of state.links.pairs) {
      if (!pair.active) continue;
      for (const end of [pair.from, pair.to]) moving.add(state.links.nodes[end]?.region ?? "");
    }
    moving.delete("");
    const words = [counted(found.places.length, "place")];
    if (moving.size > 0) words.push(`${moving.size} with transfers in round ${count(state.links.round)}`);
    this.slot.note(found.places.length > 0 ? words.join(" · ") : "");
    const lost = found.elsewhere.length;
    const rest = lost === 0 ? "" : `${counted(lost, "peer")} did not say where.`;
    const top = found.places[0];
    const all = state.head.tokens;
    const first =
      top && all > 0 && found.places.length > 2
        ? `${shareOf(top.tokens / all)} of the tokens come from ${top.region.city}. `
        : "";
    setText(this.foot, state.peers.length === 0 ? "No peer has joined yet." : first + rest);
  }
}

/** Two points: the projection draws the great circle between them. */
function line({ from, to }: Arc): LineString {
  return { type: "LineString", coordinates: [[from.lon, from.lat], [to.lon, to.lat]] };
}

function legend(): HTMLElement {
  const key = (tone: string, word: string): HTMLElement =>
    h("li", {}, h("span", { class: `dot ${tone}` }), word);
  return h(
    "ul",
    { class: "map-legend", "aria-label": "Legend" },
    key("good", "active"),
    key("warn", "joining or suspect"),
    key("idle", "away or gone"),
    key("bad", "sent away"),
    h("li", {}, sizes(), "area: share of tokens"),
    h("li", {}, arcSign(), "moved in the newest round"),
  );
}

function sizes(): SVGElement {
  return s(
    "svg",
    { viewBox: "0 0 26 14", width: 26, height: 14, class: "map-sign", "aria-hidden": "true" },
    s("circle", { cx: 4, cy: 9, r: 3 }),
    s("circle", { cx: 18, cy: 7, r: 6 }),
  );
}

function arcSign(): SVGElement {
  return s(
    "svg",
    { viewBox: "0 0 26 14", width: 26, height: 14, class: "map-sign", "aria-hidden": "true" },
    s("path", { d: "M1 12 Q13 -4 25 12" }),
  );
}
