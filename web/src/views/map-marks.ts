/** The discs of the map: drawn once a place, kept while it stays, reached by one Tab and arrows. */

import { s, setAttribute, setText } from "../dom";
import { counted, percent, short } from "../format";
import type { MapCard } from "./map-card";
import { STATE_TONE, STATE_WORDS, speed } from "./kit";
import { nameOf, states, type Mark } from "./places";

interface Drawn {
  mark: Mark;
  group: SVGGElement;
  disc: SVGCircleElement;
  ring: SVGGElement;
  number: SVGTextElement;
  label: SVGTextElement;
}

const LABEL_HEIGHT = 14;

export class MapMarks {
  scale = 0;
  private readonly drawn = new Map<string, Drawn>();
  private current = "";

  constructor(
    private readonly layer: SVGGElement,
    private readonly card: MapCard,
  ) {
    layer.classList.add("map-marks");
    layer.addEventListener("keydown", (event) => this.key(event));
  }

  /** `labels`: how many names at most; `narrow`: a phone, with smaller discs. */
  draw(marks: readonly Mark[], labels: number, screen: { width: number; narrow: boolean }): void {
    const kept = new Set<string>();
    for (const mark of marks) {
      const key = mark.places[0]!.region.key;
      kept.add(key);
      const drawn = this.drawn.get(key) ?? this.make(key, mark);
      drawn.mark = mark;
      this.update(drawn, screen.narrow);
    }
    for (const [key, drawn] of this.drawn) {
      if (kept.has(key)) continue;
      drawn.group.remove();
      this.drawn.delete(key);
    }
    if (!kept.has(this.current)) this.current = marks[0]?.places[0]?.region.key ?? "";
    for (const [key, { group }] of this.drawn) {
      setAttribute(group, "tabindex", key === this.current ? "0" : "-1");
    }
    this.label(marks, labels, screen.width);
  }

  private make(key: string, mark: Mark): Drawn {
    const disc = s("circle", { class: "map-disc" });
    const ring = s("g", { class: "map-ring" });
    const number = s("text", { class: "map-number", dy: "0.35em" });
    const label = s("text", { class: "map-label", dy: "0.34em" });
    const group = s("g", { role: "button", tabindex: -1 }, ring, disc, number, label);
    const drawn = { mark, group, disc, ring, number, label };
    group.addEventListener("pointerenter", (event) => {
      if (event.pointerType === "mouse") this.card.hover(drawn.mark, group);
    });
    group.addEventListener("pointerleave", () => this.card.leave());
    group.addEventListener("focus", () => {
      this.current = key;
      if (group.matches(":focus-visible")) this.card.hover(drawn.mark, group);
    });
    group.addEventListener("blur", () => this.card.leave());
    group.addEventListener("click", (event) => {
      event.stopPropagation();
      this.card.pin(drawn.mark, group);
    });
    this.layer.append(group);
    this.drawn.set(key, drawn);
    return drawn;
  }

  private update({ mark, group, disc, ring, number }: Drawn, narrow: boolean): void {
    const parts = states(mark.peers);
    const most = [...parts].sort((a, b) => b.count - a.count)[0];
    const several = mark.peers.length > 1;
    const least = (mark.peers.length > 99 ? 10 : 8) - (narrow ? 2 : 0);
    const r = several ? Math.max(mark.radius, least) : mark.radius;
    setAttribute(group, "class", `map-mark ${STATE_TONE[most?.state ?? "gone"]}`);
    setAttribute(group, "transform", `translate(${mark.x.toFixed(1)} ${mark.y.toFixed(1)})`);
    setAttribute(group, "aria-label", spoken(mark));
    setAttribute(disc, "r", r.toFixed(1));
    setText(number, several ? String(mark.peers.length) : "");
    number.style.fontSize = `${Math.max(narrow ? 7.5 : 9, Math.min(13, r * 0.85)).toFixed(1)}px`;
    const mixed = parts.length > 1;
    const around = r + (narrow ? 1.8 : 2.6);
    const circle = 2 * Math.PI * around;
    let turned = 0;
    ring.replaceChildren(
      ...(mixed ? parts : []).map(({ state, count }) => {
        const share = count / mark.peers.length;
        const gap = Math.min(1.5, share * circle * 0.3);
        const part = s("circle", {
          r: around.toFixed(1),
          class: STATE_TONE[state],
          "stroke-dasharray": `${(share * circle - gap).toFixed(2)} ${circle.toFixed(2)}`,
          transform: `rotate(${(turned * 360 - 90).toFixed(1)})`,
        });
        turned += share;
        return part;
      }),
    );
  }

  /** Names beside the heaviest marks, where they cover nothing. */
  private label(marks: readonly Mark[], most: number, room: number): void {
    const taken = marks.map(({ x, y, radius }) => {
      const r = radius + 4;
      return { left: x - r, right: x + r, top: y - r, bottom: y + r };
    });
    let given = 0;
    for (const mark of [...marks].sort((a, b) => b.tokens - a.tokens)) {
      const drawn = this.drawn.get(mark.places[0]!.region.key);
      if (!drawn) continue;
      const city = mark.places[0]!.region.city;
      const width = city.length * 6.4 + 4;
      const r = Math.max(mark.radius, mark.peers.length > 1 ? 8 : 0) + 7;
      const side = [1, -1].find((sign) => {
        const left = sign > 0 ? mark.x + r : mark.x - r - width;
        const [right, top, bottom] = [left + width, mark.y - LABEL_HEIGHT / 2, mark.y + LABEL_HEIGHT / 2];
        if (left < 0 || right > room) return false;
        return !taken.some((o) => o.left < right && o.right > left && o.top < bottom && o.bottom > top);
      });
      const shown = given < most && side !== undefined;
      setText(drawn.label, shown ? city : "");
      if (!shown) continue;
      given++;
      const left = side > 0 ? mark.x + r : mark.x - r - width;
      taken.push({ left, right: left + width, top: mark.y - 7, bottom: mark.y + 7 });
      setAttribute(drawn.label, "x", String(side * r));
      setAttribute(drawn.label, "text-anchor", side > 0 ? "start" : "end");
    }
  }

  private key(event: KeyboardEvent): void {
    const from = this.drawn.get(this.current);
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!from) return;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.card.pin(from.mark, from.group);
      this.card.focus();
    } else if (way) {
      event.preventDefault();
      this.nearest(from, way[0]!, way[1]!)?.group.focus();
    }
  }

  private nearest(from: Drawn, dx: number, dy: number): Drawn | undefined {
    let best: Drawn | undefined;
    let least = Infinity;
    for (const drawn of this.drawn.values()) {
      const [x, y] = [drawn.mark.x - from.mark.x, drawn.mark.y - from.mark.y];
      const along = x * dx + y * dy;
      if (drawn === from || along <= 0) continue;
      const cost = along + 2.5 * Math.abs(x * dy - y * dx);
      if (cost < least) [best, least] = [drawn, cost];
    }
    if (best) setAttribute(from.group, "tabindex", "-1");
    if (best) setAttribute(best.group, "tabindex", "0");
    return best;
  }
}

function spoken(mark: Mark): string {
  const share = mark.peers.reduce((sum, peer) => sum + peer.share, 0);
  const rate = speed(mark.peers);
  const parts = states(mark.peers).map(({ state, count }) => `${count} ${STATE_WORDS[state]}`);
  const words = [nameOf(mark), counted(mark.peers.length, "peer"), parts.join(", ")];
  words.push(`${percent(share)} of the tokens`);
  if (rate !== null) words.push(`${short(rate)} tokens per second`);
  return words.join("; ");
}
