/** The map's places as a list: for who does not see the map, and for figures. */

import { h } from "../dom";
import { counted } from "../format";
import type { State } from "../store";
import { oncePerPicture, placeName, shareOf } from "./kit";
import { places } from "./places";

const MOST = 30;

export class PlaceList {
  readonly element = h("ol", { class: "map-places", "aria-label": "Places by tokens" });
  private state: State | null = null;
  private readonly redraw = oncePerPicture(() => this.fill());

  draw(state: State): void {
    this.state = state;
    this.redraw();
  }

  private fill(): void {
    const { state } = this;
    if (!state) return;
    const found = places(state.peers, state.head.map ? state.regions : []).places.slice(0, MOST);
    const share = (tokens: number): number => tokens / Math.max(1, state.head.tokens);
    const most = Math.max(1e-9, ...found.map(({ tokens }) => share(tokens)));
    this.element.replaceChildren(
      ...found.map(({ region, peers, tokens }) => {
        const bar = h("span", { class: "map-bar" });
        bar.style.transform = `scaleX(${share(tokens) / most})`;
        const name = placeName(region);
        return h(
          "li",
          {},
          h("span", { class: "ellipsis", title: name }, name),
          h("span", { class: "muted" }, counted(peers.length, "peer")),
          h("span", { class: "map-share" }, shareOf(share(tokens)), bar),
        );
      }),
    );
  }
}
