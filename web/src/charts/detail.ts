/** Fetches finer columns for the zoomed part, a little after the viewer has stopped moving. */

import { wantsDetail } from "../series";
import type { Store, Zoom } from "../store";

const CALM_MS = 180;
const POINTS = 1000;

export function followZoom(store: Store): void {
  let timer = 0;
  let asked: Zoom | null = null;
  store.watch(["zoom"], ({ zoom, rounds, mode }) => {
    clearTimeout(timer);
    if (mode !== "live" || zoom === null || !wantsDetail(rounds, zoom)) {
      if (store.state.detail !== null && zoom === null) store.change({ detail: null });
      return;
    }
    timer = window.setTimeout(() => {
      asked = zoom;
      const room = Math.ceil((zoom.to - zoom.from) * 0.25); // so that a pan has something to show
      store.source
        .rounds(Math.max(0, zoom.from - room), zoom.to + room + 1, POINTS)
        .then((detail) => {
          if (asked === zoom && store.state.zoom === zoom) store.change({ detail });
        })
        .catch(() => undefined); // the coarse columns stay
    }, CALM_MS);
  });
}
