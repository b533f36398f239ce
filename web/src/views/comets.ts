/**
 * What moves on the map: a light on every arc, on a canvas of its own above the drawing. Drawing 48
 * of them costs a fraction of a millisecond; the same as animated SVG strokes repaints the whole map.
 */

import { token } from "../dom";
import { fit } from "./kit";

export interface Path {
  points: [number, number][]; // CSS pixels before zoom
  reversed: boolean; // the larger flow runs from its end to its beginning
  width: number;
  delay: number; // 0..1 of a turn
}

const TRAIL = 12; // points of a path that shine
const PIXELS_PER_S = 70;
const PICTURE_MS = 30; // 33 pictures a second are enough

export class Comets {
  readonly canvas = document.createElement("canvas");
  private paths: Path[] = [];
  private view = { k: 1, x: 0, y: 0 };
  private size = { width: 0, height: 0 };
  private colour = "";
  private frame = 0;
  private last = 0;
  private seen = true;
  private readonly observer = new IntersectionObserver((entries) => {
    this.seen = entries.some((entry) => entry.isIntersecting);
    this.run();
  });

  constructor() {
    this.canvas.className = "map-comets";
    this.canvas.setAttribute("aria-hidden", "true");
    this.observer.observe(this.canvas);
  }

  /** None: nothing moves, and nothing is drawn. */
  set(paths: Path[]): void {
    this.paths = paths;
    this.run();
  }

  place(size: { width: number; height: number }, view: { k: number; x: number; y: number }): void {
    this.size = size;
    this.view = view;
  }

  recolour(): void {
    this.colour = token("--accent");
  }

  stop(): void {
    this.observer.disconnect();
    cancelAnimationFrame(this.frame);
  }

  private run(): void {
    if (this.frame !== 0) return;
    if (this.paths.length === 0 || !this.seen) {
      if (this.size.width > 0) fit(this.canvas, this.size.width, this.size.height);
      return;
    }
    this.frame = requestAnimationFrame((now) => {
      this.frame = 0;
      if (now - this.last >= PICTURE_MS) {
        this.last = now;
        this.draw(now / 1000);
      }
      this.run();
    });
  }

  /** One picture at `t` seconds. */
  draw(t: number): void {
    if (this.colour === "") this.recolour();
    const context = fit(this.canvas, this.size.width, this.size.height);
    context.strokeStyle = context.fillStyle = this.colour;
    context.lineCap = "round";
    for (const path of this.paths) this.comet(context, path, t);
    context.globalAlpha = 1;
  }

  private comet(context: CanvasRenderingContext2D, path: Path, t: number): void {
    const { points, reversed } = path;
    const last = points.length - 1;
    const turn = last + TRAIL + 8; // a pause between two turns
    const step = (PIXELS_PER_S * t) / (path.width + 6);
    const head = ((step * 0.9 + path.delay * turn) % turn + turn) % turn;
    const at = (i: number): [number, number] | undefined => points[reversed ? last - i : i];
    for (let i = Math.max(1, Math.ceil(head - TRAIL)); i <= Math.min(last, head); i++) {
      const [a, b] = [at(i - 1), at(i)];
      if (!a || !b || Math.abs(a[0] - b[0]) > this.size.width / 3) continue;
      context.globalAlpha = 0.9 * (1 - (head - i) / TRAIL);
      context.lineWidth = Math.min(3, 1 + path.width * 0.5);
      context.beginPath();
      context.moveTo(...this.screen(a));
      context.lineTo(...this.screen(b));
      context.stroke();
    }
  }

  private screen([x, y]: [number, number]): [number, number] {
    return [x * this.view.k + this.view.x, y * this.view.k + this.view.y];
  }
}
