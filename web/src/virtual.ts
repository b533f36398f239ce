/** A long list of which only what is in sight exists. Rows may differ in height. */

import { h } from "./dom";

const OVERSCAN_PX = 400;

export interface RowsOf<T> {
  /** The same key for the same row, so that its element and height are kept. */
  key(item: T): string | number;
  row(item: T): HTMLElement;
  /** Height of a row that nobody has seen yet, pixels. */
  guess: number;
  /** Called when the end comes near. */
  more?: () => void;
}

export class VirtualList<T> {
  readonly el: HTMLElement;
  private readonly space: HTMLElement;
  private items: readonly T[] = [];
  private readonly heights = new Map<string | number, number>();
  private readonly shown = new Map<string | number, HTMLElement>();
  private readonly sizes: ResizeObserver;
  private width = 0;

  constructor(label: string, private readonly rows: RowsOf<T>) {
    this.space = h("div", { class: "virtual-space", role: "list", "aria-label": label });
    this.el = h("div", { class: "virtual", tabindex: 0, onscroll: () => this.draw() }, this.space);
    this.sizes = new ResizeObserver(() => {
      if (this.el.clientWidth !== this.width) {
        this.width = this.el.clientWidth;
        this.heights.clear();
      }
      this.draw();
    });
    this.sizes.observe(this.el);
  }

  /** Shows `items`. Who reads further down keeps the place when rows come in above. */
  set(items: readonly T[], keepPlace = true): void {
    const top = this.el.scrollTop;
    const anchor = top > 4 && keepPlace ? this.at(top) : null;
    this.items = items;
    this.draw();
    if (anchor !== null) {
      const i = items.findIndex((item) => this.rows.key(item) === anchor.key);
      if (i >= 0) {
        this.el.scrollTop = this.offset(i) + anchor.inside;
        this.draw();
      }
    } else if (!keepPlace) {
      this.el.scrollTop = 0;
    }
  }

  destroy(): void {
    this.sizes.disconnect();
    this.el.remove();
  }

  private size(item: T): number {
    return this.heights.get(this.rows.key(item)) ?? this.rows.guess;
  }

  private offset(index: number): number {
    let y = 0;
    for (let i = 0; i < index; i += 1) y += this.size(this.items[i] as T);
    return y;
  }

  private at(top: number): { key: string | number; inside: number } | null {
    let y = 0;
    for (const item of this.items) {
      const next = y + this.size(item);
      if (next > top) return { key: this.rows.key(item), inside: top - y };
      y = next;
    }
    return null;
  }

  private draw(): void {
    if (this.pass()) this.pass(); // heights were learned: once more with the true ones
  }

  /** Puts the rows in sight in place; true when a height was not what it was thought to be. */
  private pass(): boolean {
    const top = this.el.scrollTop - OVERSCAN_PX;
    const bottom = this.el.scrollTop + this.el.clientHeight + OVERSCAN_PX;
    const present = new Set<string | number>();
    const fresh: [string | number, HTMLElement][] = [];
    let y = 0;
    this.items.forEach((item, i) => {
      const key = this.rows.key(item);
      const next = y + this.size(item);
      if (next >= top && y <= bottom) {
        present.add(key);
        let row = this.shown.get(key);
        if (row === undefined) {
          row = this.rows.row(item);
          row.setAttribute("role", "listitem");
          row.setAttribute("aria-posinset", String(i + 1));
          row.setAttribute("aria-setsize", String(this.items.length));
          row.classList.add("virtual-row");
          this.shown.set(key, row);
          this.space.append(row);
        }
        row.style.transform = `translateY(${y}px)`;
        fresh.push([key, row]);
      }
      y = next;
    });
    for (const [key, row] of this.shown) {
      if (present.has(key)) continue;
      row.remove();
      this.shown.delete(key);
    }
    this.space.style.height = `${y}px`;
    if (y - bottom < OVERSCAN_PX && this.items.length > 0) this.rows.more?.();
    let learned = false;
    for (const [key, row] of fresh) {
      const height = row.offsetHeight;
      if (height > 0 && this.heights.get(key) !== height) {
        learned ||= (this.heights.get(key) ?? this.rows.guess) !== height;
        this.heights.set(key, height);
      }
    }
    return learned;
  }
}
