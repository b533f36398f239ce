/** What must not be overlooked: the line is broken; peers' states differ. */

import { h, setText } from "../dom";
import * as format from "../format";
import type { Store } from "../store";
import type { Head } from "../types";

/** What the drift alarm says; `now`: peers whose newest state differs. */
export function driftWords({ drift, disagreements }: Head, now: number): string {
  const [newest] = drift;
  if (newest === undefined) return "";
  const others = new Set(drift.map((one) => one.name)).size - 1;
  return (
    `Drift: after round ${format.count(newest.round)}, the state of ${newest.name} was not the run's` +
    `${others > 0 ? `, and that of ${format.counted(others, "other peer")} before it` : ""} ` +
    `(${format.counted(disagreements, "report")} in all). ` +
    (now > 0
      ? `${format.counted(now, "peer")} ${now === 1 ? "differs" : "differ"} still; do not use weights from there.`
      : "All newest reports agree again.")
  );
}

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
  store.watch(["head", "peers"], ({ head, peers }) => {
    drift.hidden = head.drift.length === 0;
    const now = new Set(peers.filter((peer) => peer.agrees === false).map((peer) => peer.name));
    drift.className = `banner ${now.size > 0 ? "bad" : "warn"}`;
    setText(driftText, driftWords(head, now.size));
  });
  return h("div", { class: "banners" }, lost, drift);
}
