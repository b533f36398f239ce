/** The keys, in a dialog that `?` opens. */

import { h } from "../dom";

const KEYS: readonly (readonly [string, readonly (readonly [string, string])[]])[] = [
  [
    "Anywhere",
    [
      ["1 … 9", "go to a page"],
      ["d", "dark or light"],
      ["?", "these keys"],
      ["Tab", "next thing; Shift Tab goes back"],
    ],
  ],
  [
    "In a chart",
    [
      ["← →", "read values; with Shift ten at a time"],
      ["Home End", "first and last value"],
      ["+ −", "zoom in and out"],
      ["PageUp PageDown", "move along while zoomed"],
      ["0  Esc", "show all rounds"],
    ],
  ],
  [
    "In a replay",
    [
      ["Space", "play and pause"],
      [", .", "one moment back and forth"],
      ["← →", "the same, on the slider"],
    ],
  ],
];

export function helpDialog(): { el: HTMLDialogElement; toggle: () => void } {
  const el = h(
    "dialog",
    { class: "help", "aria-labelledby": "help-title" },
    h("h2", { id: "help-title" }, "Keys"),
    h(
      "div",
      { class: "help-groups" },
      ...KEYS.map(([title, rows]) =>
        h(
          "section",
          {},
          h("h3", {}, title),
          h(
            "dl",
            {},
            ...rows.flatMap(([keys, what]) => [
              h("dt", {}, ...keys.split(" ").map((k) => (/^[…]?$/.test(k) ? k : h("kbd", {}, k)))),
              h("dd", {}, what),
            ]),
          ),
        ),
      ),
    ),
    h(
      "p",
      { class: "muted small" },
      "Charts: drag to zoom, double-click to show all; on a phone, pinch. All charts move together.",
    ),
    h("form", { method: "dialog" }, h("button", { class: "button" }, "Close")),
  );
  el.addEventListener("click", (event) => {
    if (event.target === el) el.close();
  });
  return { el, toggle: () => (el.open ? el.close() : el.showModal()) };
}
