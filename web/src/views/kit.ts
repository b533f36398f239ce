/** What these views share: a floating tip, canvases at the screen's density, states and names. */

import { h, token } from "../dom";
import { brief, percent } from "../format";
import type { Peer, PeerState, Region } from "../types";

/** The words and the colour class of a peer's state. */
export const STATE_WORDS: Record<PeerState, string> = {
  active: "active",
  joined: "joining",
  suspect: "suspect",
  away: "away",
  gone: "gone",
  out: "sent away",
};
export const STATE_TONE: Record<PeerState, "good" | "warn" | "bad" | "idle"> = {
  active: "good",
  joined: "warn",
  suspect: "warn",
  away: "idle",
  gone: "idle",
  out: "bad",
};

export function nameOf(peer: { name: string; node: string }): string {
  return peer.name || brief(peer.node, 8);
}

export function peerAddress(node: string): string {
  return `#/peer/${node}`;
}

/** A share that is not nothing is never shown as `0.0 %`. */
export function shareOf(value: number): string {
  return value > 0 && value < 0.0005 ? "<\u202f0.1\u202f%" : percent(value);
}

let countries: Intl.DisplayNames | null | undefined;

/** "Frankfurt, Germany". */
export function placeName(region: Region | undefined): string {
  if (!region) return "";
  if (countries === undefined) {
    try {
      countries = new Intl.DisplayNames("en", { type: "region" });
    } catch {
      countries = null;
    }
  }
  let country = region.country;
  try {
    country = countries?.of(region.country) ?? region.country;
  } catch {
    // not an ISO code: shown as it came
  }
  return country && country !== region.city && !country.startsWith(`${region.city} `)
    ? `${region.city}, ${country}`
    : region.city;
}

/** A floating box at a point of the window. It never leaves the window. */
export class Tip {
  readonly element = h("div", { class: "tip", role: "status", hidden: true });
  private readonly gone = new AbortController();

  constructor() {
    // What it tells of has moved on, or one has tapped elsewhere.
    const options = { capture: true, passive: true, signal: this.gone.signal };
    addEventListener("scroll", () => this.hide(), options);
    addEventListener("pointerdown", () => this.hide(), options);
  }

  show(x: number, y: number, ...content: (Node | string)[]): void {
    const { element } = this;
    if (!element.isConnected) document.body.append(element);
    element.replaceChildren(...content);
    element.hidden = false;
    const { width, height } = element.getBoundingClientRect();
    const left = x + 14 + width > innerWidth - 8 ? x - 14 - width : x + 14;
    const top = y + 16 + height > innerHeight - 8 ? y - 12 - height : y + 16;
    element.style.left = `${Math.max(8, Math.min(left, innerWidth - width - 8))}px`;
    element.style.top = `${Math.max(8, top)}px`;
  }

  hide(): void {
    this.element.hidden = true;
  }

  remove(): void {
    this.gone.abort();
    this.element.remove();
  }
}

/** Lines of a tip: a title, then names and values. */
export function tipLines(title: string, lines: readonly (readonly [string, string])[]): Node[] {
  return [
    h("div", { class: "tip-title" }, title),
    h(
      "dl",
      { class: "tip-list" },
      ...lines.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]),
    ),
  ];
}

/** The same lines as one sentence, for who listens. */
export function spoken(nodes: readonly Node[]): string {
  const words = nodes.flatMap((node) => (node.childNodes.length > 1 ? [...node.childNodes] : [node]));
  return words.map((node) => node.textContent).join(", ");
}

/** Sizes a canvas to CSS pixels at the screen's density; its context draws in CSS pixels. */
export function fit(
  canvas: HTMLCanvasElement,
  width: number,
  height: number,
): CanvasRenderingContext2D {
  const density = Math.min(3, devicePixelRatio || 1);
  const [w, t] = [Math.round(width * density), Math.round(height * density)];
  if (canvas.width !== w) canvas.width = w;
  if (canvas.height !== t) canvas.height = t;
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  if (!context) throw new Error("this browser gives no 2d canvas");
  context.setTransform(density, 0, 0, density, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

/** Calls `draw` now and when the element's width changes, at most once per picture. */
export function onWidth(element: HTMLElement, draw: (width: number) => void): () => void {
  let last = -1;
  let frame = 0;
  const observer = new ResizeObserver(() => {
    if (frame) return;
    frame = requestAnimationFrame(() => {
      frame = 0;
      const width = Math.floor(element.clientWidth);
      if (width > 0 && width !== last) draw((last = width));
    });
  });
  observer.observe(element);
  return () => {
    observer.disconnect();
    cancelAnimationFrame(frame);
  };
}

/** Runs a drawing at most once per picture. */
export function oncePerPicture(draw: () => void): { (): void; cancel: () => void } {
  let frame = 0;
  const ask = (): void => {
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      draw();
    });
  };
  ask.cancel = (): void => cancelAnimationFrame(frame);
  return ask;
}

/** Tokens by name, read once per drawing. */
export function tokens<T extends string>(...names: T[]): Record<T, string> {
  return Object.fromEntries(names.map((name) => [name, token(name)])) as Record<T, string>;
}

/** The longest beginning of `text` that fits, with an ellipsis if it is not all. */
export function clipped(context: CanvasRenderingContext2D, text: string, width: number): string {
  if (context.measureText(text).width <= width) return text;
  let [low, high] = [0, text.length];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (context.measureText(`${text.slice(0, middle)}…`).width <= width) low = middle;
    else high = middle - 1;
  }
  return low === 0 ? "" : `${text.slice(0, low).trimEnd()}…`;
}

/** Sum of tokens per second of the peers that told it; null: nobody did. */
export function speed(peers: readonly Peer[]): number | null {
  let sum: number | null = null;
  for (const peer of peers) if (peer.tokens_per_s !== null) sum = (sum ?? 0) + peer.tokens_per_s;
  return sum;
}
