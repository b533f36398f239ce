/** What this viewer chose, kept by the browser: the charts' look, the theme. */

import type { Look } from "./store";

const LOOK = "farflung:look";
const USUAL: Look = { x: "round", log: false, smoothing: 0.8 };

export function keptLook(): Look {
  try {
    const kept = JSON.parse(localStorage.getItem(LOOK) ?? "{}") as Partial<Look>;
    return {
      x: kept.x === "tokens" || kept.x === "time" ? kept.x : USUAL.x,
      log: kept.log === true,
      smoothing:
        typeof kept.smoothing === "number" && kept.smoothing >= 0 && kept.smoothing <= 0.99
          ? kept.smoothing
          : USUAL.smoothing,
    };
  } catch {
    return USUAL;
  }
}

export function keepLook(look: Look): void {
  keep(LOOK, JSON.stringify(look));
}

export type Theme = "light" | "dark";

export function theme(): Theme {
  const set = document.documentElement.dataset["theme"];
  if (set === "light" || set === "dark") return set;
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

export function setTheme(to: Theme): void {
  document.documentElement.dataset["theme"] = to;
  keep("farflung:theme", to);
  document.dispatchEvent(new Event("farflung:theme"));
}

/** Tells the charts when the system changes its mind and the viewer has none. */
export function followSystem(): void {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    document.dispatchEvent(new Event("farflung:theme"));
  });
}

function keep(name: string, value: string): void {
  try {
    localStorage.setItem(name, value);
  } catch {
    // no storage here: it lasts as long as the page
  }
}
