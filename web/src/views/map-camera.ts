/** Zoom and pan of the map: buttons, wheel, drag, two fingers, double click. */

import { h } from "../dom";

const MOST = 8;

export class Camera {
  k = 1;
  x = 0;
  y = 0;
  readonly buttons: HTMLElement;
  private width = 1;
  private height = 1;
  private readonly pointers = new Map<number, { x: number; y: number }>();
  private readonly closerButton: HTMLButtonElement;
  private readonly backButton: HTMLButtonElement;
  private readonly abort = new AbortController();
  private dragged = 0;

  /** `free`: the wheel zooms by itself; otherwise it needs the control key, and scrolls. */
  constructor(
    private readonly stage: HTMLElement,
    private readonly free: boolean,
    private readonly look: () => void,
  ) {
    const button = (sign: string, label: string, act: () => void): HTMLButtonElement =>
      h("button", { type: "button", class: "tool-button", "aria-label": label, title: label, onclick: act }, sign);
    this.closerButton = button("+", "Zoom in", () => this.zoom(1.7));
    this.backButton = button("−", "Zoom out", () => this.zoom(1 / 1.7));
    this.buttons = h("div", { class: "map-zoom" }, this.closerButton, this.backButton);
    this.listen();
    this.tell();
  }

  stop(): void {
    this.abort.abort();
  }

  resize(width: number, height: number): void {
    const scale = width / this.width;
    this.width = width;
    this.height = height;
    this.set(this.k, this.x * scale, this.y * scale);
  }

  /** Closer to a point, which is given at the present zoom, before panning. */
  closer(x: number, y: number): void {
    const k = Math.min(MOST, this.k * 2.5);
    const f = k / this.k;
    this.set(k, this.width / 2 - x * f, this.height / 2 - y * f);
  }

  private zoom(factor: number, x = this.width / 2, y = this.height / 2): void {
    const k = Math.min(MOST, Math.max(1, this.k * factor));
    const f = k / this.k;
    this.set(k, x - (x - this.x) * f, y - (y - this.y) * f);
  }

  private set(k: number, x: number, y: number): void {
    this.k = k;
    this.x = Math.min(0, Math.max(this.width * (1 - k), x));
    this.y = Math.min(0, Math.max(this.height * (1 - k), y));
    this.tell();
    this.look();
  }

  private tell(): void {
    this.closerButton.disabled = this.k >= MOST;
    this.backButton.disabled = this.k <= 1;
    this.stage.classList.toggle("map-near", this.k > 1);
  }

  private listen(): void {
    const { stage } = this;
    const signal = this.abort.signal;
    stage.addEventListener("wheel", (event) => this.wheel(event), { passive: false, signal });
    stage.addEventListener("dblclick", (event) => {
      if (!(event.target as Element).closest("button, .map-card, .map-mark")) this.zoom(2, ...this.at(event));
    }, { signal });
    stage.addEventListener("pointerdown", (event) => this.down(event), { signal });
    addEventListener("pointermove", (event) => this.move(event), { signal });
    for (const name of ["pointerup", "pointercancel"] as const) {
      addEventListener(name, (event) => this.pointers.delete(event.pointerId), { signal });
    }
    // A drag is no click on what lies under its end.
    stage.addEventListener("click", (event) => {
      if (this.dragged > 6) event.stopPropagation();
    }, { capture: true, signal });
  }

  private wheel(event: WheelEvent): void {
    if (!this.free && !event.ctrlKey && !event.metaKey) return;
    if (this.k === 1 && event.deltaY > 0 && !event.ctrlKey) return; // the page scrolls on
    event.preventDefault();
    this.zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.002)), ...this.at(event));
  }

  private at(event: MouseEvent): [number, number] {
    const box = this.stage.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  private down(event: PointerEvent): void {
    if (event.button !== 0 || (event.target as Element).closest("button, .map-card")) return;
    const [x, y] = this.at(event);
    this.pointers.set(event.pointerId, { x, y });
    this.dragged = 0;
  }

  private move(event: PointerEvent): void {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const [x, y] = this.at(event);
    const [first, second] = [...this.pointers.values()];
    this.dragged += Math.hypot(x - before.x, y - before.y);
    if (first && second) {
      const other = before === first ? second : first;
      const was = Math.hypot(before.x - other.x, before.y - other.y);
      const is = Math.hypot(x - other.x, y - other.y);
      if (was > 0) this.zoom(is / was, (x + other.x) / 2, (y + other.y) / 2);
    } else if (this.k > 1) {
      this.set(this.k, this.x + x - before.x, this.y + y - before.y);
    }
    before.x = x;
    before.y = y;
  }
}
