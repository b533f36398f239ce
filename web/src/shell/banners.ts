/** What must not be overlooked: the line is broken; peers' states differ. */

import { h, setText } from "../dom";
import * as format from "../format";
import type { Store } from "../store";

export function banners(store: Store, retry: () => void): HTMLElement {
  const lostText = h("span", {});
  const lost = h(
    "div",
    { class: "banner warn", role: "status", hidden: true },
    lostText,
    h("button", { type: "button", class: "button", onclick: retry }, "Try now"),
  );
  const driftText = h("span", {});
  const drift = h("div", { class: "banner bad", role: "alert", hidden: true }, driftText);
  store.watch(["contact", "tick"], ({ contact, head }) => {
    lost.hidden = contact.state !== "lost";
    document.documentElement.classList.toggle("stale", contact.state === "lost");
    if (contact.state !== "lost") return;
    const wait = Math.max(0, Math.ceil(contact.retry - store.now()));
    setText(
      lostText,
      `Disconnected for ${format.duration(Math.max(1, Math.round(store.now() - contact.since)))}. ` +
        `What you see is from ${format.clock(head.at)}. ` +
        (wait > 0 ? `Trying again in ${format.duration(wait)}.` : "Trying again."),
    );
  });
  store.watch(["head"], ({ head }) => {
    const [newest] = head.drift;
    drift.hidden = newest === undefined;
    if (newest === undefined) return;
    const others = new Set(head.drift.map((d) => d.name)).size - 1;
    setText(
      driftText,
      `Drift: ${newest.name} reported another state root than the journal's after round ` +
        `${format.count(newest.round)}${others > 0 ? `, and ${format.counted(others, "other peer")} before` : ""}. ` +
        `${format.counted(head.disagreements, "report")} differ in all; its weights are no longer the run's.`,
    );
  });
  return h("div", { class: "banners" }, lost, drift);
}
