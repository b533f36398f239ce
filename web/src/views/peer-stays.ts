/** A peer's stays as one strip of the run's time. */

import { h } from "../dom";
import { date, duration } from "../format";
import type { PeerPage } from "../types";

export interface Piece {
  left: number; // 0..1
  width: number;
  open: boolean;
  title: string;
}

/** Where each stay lies between `begin` and `now`; a short one is still seen. */
export function pieces(stays: PeerPage["stays"], begin: number, now: number): Piece[] {
  const whole = Math.max(1e-9, now - begin);
  return stays.map(({ from, to, why }) => {
    const end = Math.max(from, Math.min(now, to ?? now));
    const width = Math.min(1, Math.max(0.002, (end - from) / whole));
    const left = Math.min(1 - width, Math.max(0, (from - begin) / whole));
    const reason = to === null ? "still here" : why || "left";
    return { left, width, open: to === null, title: `${date(from)}, ${duration(end - from)}: ${reason}` };
  });
}

export function strip(stays: PeerPage["stays"], begin: number, now: number): HTMLElement {
  const bar = h("div", { class: "peer-strip", role: "img", "aria-label": "When it was here" });
  for (const { left, width, open, title } of pieces(stays, begin, now)) {
    const piece = h("span", { class: open ? "peer-piece open" : "peer-piece", title });
    piece.style.left = `${left * 100}%`;
    piece.style.width = `${width * 100}%`;
    bar.append(piece);
  }
  const ends = h("div", { class: "peer-ends" }, h("span", {}, date(begin)), h("span", {}, date(now)));
  return h("div", {}, bar, ends);
}
