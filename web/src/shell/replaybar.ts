/** The replay's slider, below everything. */

import { h, s, segmented, setText } from "../dom";
import * as format from "../format";
import type { Player } from "../replay";
import type { Store } from "../store";

const icon = (path: string): SVGElement =>
  s("svg", { viewBox: "0 0 16 16", width: 16, height: 16, "aria-hidden": "true" }, s("path", { d: path, fill: "currentColor" }));
const PLAY = "M4 2.5v11l9-5.5z";
const PAUSE = "M3.5 2.5h3v11h-3zM9.5 2.5h3v11h-3z";

export function replayBar(player: Player, store: Store): HTMLElement {
  const button = h("button", { type: "button", class: "play", onclick: () => player.play(!player.playing) });
  const slider = h("input", {
    type: "range",
    min: 0,
    max: player.length - 1,
    step: 1,
    value: player.index,
    "aria-label": "Moment of the run",
    oninput: () => {
      if (player.playing) player.play(false);
      void player.go(slider.valueAsNumber);
    },
  });
  const where = h("span", { class: "replay-where num" });
  const when = h("span", { class: "muted num" });
  const { moments } = player.replay;
  const show = (): void => {
    const at = moments[player.index];
    if (at === undefined) return;
    button.replaceChildren(icon(player.playing ? PAUSE : PLAY));
    button.setAttribute("aria-label", player.playing ? "Pause" : "Play");
    slider.valueAsNumber = player.index;
    slider.style.setProperty("--done", `${(player.index / Math.max(1, player.length - 1)) * 100}%`);
    slider.setAttribute("aria-valuetext", `round ${at.round}`);
    setText(where, `Round ${format.count(at.round)}`);
    setText(when, `${format.date(at.at)} · ${format.duration(at.at - (store.state.head.started ?? moments[0]?.at ?? at.at))} in`);
  };
  player.onChange(show);
  show();
  addEventListener("keydown", (event) => {
    const target = event.target as HTMLElement;
    if (target.closest("input:not([type=range]), select, button, dialog, a") || event.ctrlKey || event.metaKey) return;
    const actions: { [key: string]: () => void } = {
      " ": () => player.play(!player.playing),
      ",": () => void player.go(player.index - 1),
      ".": () => void player.go(player.index + 1),
    };
    const action = actions[event.key];
    if (action === undefined) return;
    event.preventDefault();
    action();
  });
  return h(
    "div",
    { class: "replay-bar", role: "group", "aria-label": "Replay" },
    button,
    slider,
    h("div", { class: "replay-words" }, where, when),
    segmented("Speed", [["0.5", "½×"], ["1", "1×"], ["2", "2×"], ["4", "4×"]], "1", (v) => player.faster(Number(v))),
  );
}
