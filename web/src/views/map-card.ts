/** The card of a place on the map: shown while one points at it, pinned by a click or Enter. */

import { h } from "../dom";
import { counted, short } from "../format";
import type { Place as Slot } from "../view";
import { STATE_TONE, STATE_WORDS, nameOf as peerName, peerAddress, placeName, shareOf, speed } from "./kit";
import { nameOf, type Mark } from "./places";

const PEERS = 7;
const PLACES = 5;
const NARROW = 560; // pixels

export class MapCard {
  private readonly element = h("div", { class: "map-card", role: "dialog", hidden: true });
  private mark: Mark | null = null;
  private pinned = false;
  private from: SVGElement | null = null;
  private view = { k: 1, x: 0, y: 0 };
  private leaving = 0;

  constructor(
    private readonly stage: HTMLElement,
    private readonly slot: Slot,
    private readonly closer: (mark: Mark) => void,
  ) {
    stage.append(this.element);
    this.element.addEventListener("pointerenter", () => clearTimeout(this.leaving));
    this.element.addEventListener("pointerleave", () => this.leave());
    this.element.addEventListener("focusin", () => clearTimeout(this.leaving));
    this.element.addEventListener("focusout", () => {
      this.pinned = false;
      this.leave();
    });
    stage.addEventListener("click", (event) => {
      if (!this.element.contains(event.target as Node)) this.close();
    });
    stage.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || this.element.hidden) return;
      event.stopPropagation();
      const back = this.from;
      this.close();
      back?.focus();
    });
  }

  hover(mark: Mark, from: SVGElement): void {
    clearTimeout(this.leaving);
    if (this.pinned) return;
    this.from = from;
    this.show(mark);
  }

  leave(): void {
    clearTimeout(this.leaving);
    if (!this.pinned) this.leaving = window.setTimeout(() => this.unlessUsed(), 160);
  }

  pin(mark: Mark, from: SVGElement): void {
    clearTimeout(this.leaving);
    this.from = from;
    this.pinned = true;
    this.show(mark);
  }

  focus(): void {
    this.element.querySelector<HTMLElement>("a, button")?.focus();
  }

  /** New data, or other clusters: the card follows its place, or goes. */
  refresh(marks: readonly Mark[]): void {
    const key = this.mark?.places[0]?.region.key;
    if (key === undefined || this.element.contains(document.activeElement)) return;
    const mark = marks.find((other) => other.places.some((place) => place.region.key === key));
    if (mark) this.show(mark);
    else this.close();
  }

  move(k: number, x: number, y: number): void {
    this.view = { k, x, y };
    this.put();
  }

  private unlessUsed(): void {
    if (!this.element.contains(document.activeElement)) this.close();
  }

  private close(): void {
    this.pinned = false;
    this.mark = null;
    this.element.hidden = true;
  }

  private show(mark: Mark): void {
    this.mark = mark;
    this.element.hidden = false;
    this.element.setAttribute("aria-label", nameOf(mark));
    this.element.replaceChildren(...this.content(mark));
    this.put();
  }

  private content(mark: Mark): Node[] {
    const top = mark.places[0]!;
    const share = mark.peers.reduce((sum, peer) => sum + peer.share, 0);
    const rate = speed(mark.peers);
    const more = mark.places.length - 1;
    const facts = [counted(mark.peers.length, "peer"), `${shareOf(share)} of tokens`];
    if (rate !== null) facts.push(`${short(rate)} tok/s`);
    const title = placeName(top.region) + (more > 0 ? ` + ${more}` : "");
    const nodes: Node[] = [
      h("div", { class: "map-card-title" }, title),
      h("div", { class: "map-card-facts" }, facts.join(" · ")),
    ];
    if (more > 0) nodes.push(this.cities(mark));
    nodes.push(this.peers(mark));
    const rest = mark.peers.length - PEERS;
    if (rest > 0) nodes.push(h("div", { class: "map-card-rest" }, `and ${counted(rest, "more peer")}`));
    if (more > 0) {
      const act = (): void => this.closer(mark);
      nodes.push(h("button", { type: "button", class: "button", onclick: act }, "Zoom in"));
    }
    return nodes;
  }

  private cities(mark: Mark): Node {
    const names = mark.places.slice(0, PLACES).map(({ region, peers }) => `${region.city} ${peers.length}`);
    const rest = mark.places.length - PLACES;
    return h("div", { class: "map-card-cities" }, names.join(", ") + (rest > 0 ? ` and ${rest} more` : ""));
  }

  private peers(mark: Mark): Node {
    const list = [...mark.peers].sort((a, b) => b.tokens - a.tokens).slice(0, PEERS);
    const link = this.slot.size !== "embed";
    return h(
      "ul",
      { class: "map-card-peers" },
      ...list.map((peer) => {
        const name = peerName(peer);
        return h(
          "li",
          {},
          h("span", { class: `dot ${STATE_TONE[peer.state]}`, title: STATE_WORDS[peer.state] }),
          link
            ? h("a", { class: "ellipsis", href: peerAddress(peer.node), title: name }, name)
            : h("span", { class: "ellipsis", title: name }, name),
          h("span", { class: "num muted" }, peer.tokens_per_s === null ? STATE_WORDS[peer.state] : `${short(peer.tokens_per_s)} tok/s`),
        );
      }),
    );
  }

  /** Beside its disc, on the side where there is room. */
  private put(): void {
    if (!this.mark || this.element.hidden) return;
    const { element, stage } = this;
    const narrow = stage.clientWidth < NARROW;
    element.classList.toggle("map-card-below", narrow);
    if (narrow) {
      // On a phone it would cover the whole map: it lies under it.
      element.style.left = "0";
      element.style.top = `${stage.clientHeight + 6}px`;
      return;
    }
    const x = this.mark.x + this.view.x;
    const y = this.mark.y + this.view.y;
    const gap = this.mark.radius + 10;
    const { offsetWidth: width, offsetHeight: height } = element;
    const room = stage.clientWidth;
    const right = x + gap + width < room - 4 ? x + gap : x - gap - width;
    const beside = right >= 4;
    const left = beside ? right : Math.max(4, Math.min(x - width / 2, room - width - 4));
    const top = beside ? y - height / 2 : y + gap;
    element.style.left = `${left}px`;
    element.style.top = `${Math.max(4, Math.min(top, Math.max(4, stage.clientHeight - height - 4)))}px`;
  }
}
