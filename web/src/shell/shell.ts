/** The page around the panels: bar, addresses, keys, theme, embedding. */

import { h, s, setAttribute, setText } from "../dom";
import * as format from "../format";
import { setTheme, theme } from "../look";
import { views } from "../registry";
import type { Store } from "../store";
import { banners } from "./banners";
import { helpDialog } from "./help";
import { addressOf, embedded, LEADS, PAGES, type Page } from "./pages";
import { putPanel } from "./panel";

const shown = PAGES.filter((page) => !page.hidden && page.panels.some((name) => name in views));

export function startShell(store: Store, retry: () => void): HTMLElement {
  const main = h("main", { id: "main", tabindex: -1 });
  const help = helpDialog();
  const tabs = navigation();
  const root = h(
    "div",
    { class: "shell" },
    h(
      "a",
      {
        class: "skip",
        href: "#main",
        onclick: (event: Event) => {
          event.preventDefault();
          main.focus();
        },
      },
      "Skip to the run",
    ),
    bar(store, tabs.el, help.toggle),
    banners(store, retry),
    main,
    footer(store),
    help.el,
  );
  document.body.replaceChildren(root);
  keys(help.toggle);
  route(store, main, tabs.mark);
  title(store);
  return root;
}

/** `?embed=loss,map`: these panels, and nothing else. */
export function startEmbed(store: Store, asked: string): void {
  const names = embedded(asked, (name) => name in views);
  const main = h("main", { class: "embed" });
  document.body.replaceChildren(main);
  for (const name of names) putPanel(main, name, store, { size: "embed" });
  main.style.setProperty("--panels", String(names.length));
  title(store);
}

function title(store: Store): void {
  store.watch(["head"], ({ head }) => {
    const share = head.rounds_wanted > 0 ? format.percent(head.rounds / head.rounds_wanted) : "";
    document.title = `${head.name || "farflung"} · ${head.state === "running" ? share : head.state}`;
  });
}

function mark(): SVGElement {
  return s(
    "svg",
    { viewBox: "0 0 32 32", width: 22, height: 22, "aria-hidden": "true", class: "mark" },
    s("path", { d: "M7 24 16 7l9 17M7 24h18", fill: "none", stroke: "currentColor", "stroke-width": 2 }),
    ...[[16, 7], [7, 24], [25, 24]].map(([cx, cy]) => s("circle", { cx, cy, r: 4, fill: "currentColor" })),
  );
}

function navigation(): { el: HTMLElement; mark: (page: Page) => void } {
  const links = shown.map((page) => h("a", { href: `#/${page.path}` }, page.title));
  const el = h("nav", { "aria-label": "Pages", class: "tabs" }, ...links);
  return {
    el,
    mark(page) {
      const path = page.path === "peer" ? "peers" : page.path;
      links.forEach((link, i) => {
        const on = shown[i]?.path === path;
        setAttribute(link, "aria-current", on ? "page" : null);
        if (on) reveal(el, link);
      });
    },
  };
}

/** Brings a tab into sight of its bar, without moving the page. */
function reveal(box: HTMLElement, link: HTMLElement): void {
  const left = link.offsetLeft - box.offsetLeft;
  box.scrollLeft = left - (box.clientWidth - link.offsetWidth) / 2;
}

function bar(store: Store, tabs: HTMLElement, help: () => void): HTMLElement {
  const contact = h("span", { class: "contact" });
  store.watch(["contact", "tick", "head"], ({ contact: at, mode, head }) => {
    const quiet = store.now() - store.heard;
    const running = head.state !== "finished" && head.state !== "stopped";
    const old = mode === "live" && at.state === "live" && running && quiet > 60;
    const [mood, words] =
      at.state === "lost"
        ? ["bad", "disconnected"]
        : at.state === "replay"
          ? ["", "replay"]
          : old
            ? ["warn", `quiet for ${format.duration(Math.floor(quiet / 10) * 10)}`]
            : running
              ? ["live", "live"]
              : ["", "connected"];
    contact.className = `contact ${mood}`;
    setText(contact, words);
  });
  const swap = h(
    "button",
    { type: "button", class: "bar-button", onclick: () => setTheme(theme() === "dark" ? "light" : "dark") },
    s("svg", { viewBox: "0 0 16 16", width: 16, height: 16, "aria-hidden": "true" },
      s("circle", { cx: 8, cy: 8, r: 6, fill: "none", stroke: "currentColor", "stroke-width": 1.4 }),
      s("path", { d: "M8 2a6 6 0 0 1 0 12z", fill: "currentColor" })),
  );
  swap.setAttribute("aria-label", "Dark or light");
  swap.title = "Dark or light (d)";
  const ask = h("button", { type: "button", class: "bar-button", "aria-label": "Keys", title: "Keys (?)", onclick: help }, "?");
  return h(
    "header",
    { class: "bar" },
    h("a", { class: "brand", href: "#/", "aria-label": "farflung, overview" }, mark(), h("span", {}, "farflung")),
    tabs,
    h("div", { class: "bar-tools" }, contact, swap, ask),
  );
}

function footer(store: Store): HTMLElement {
  const id = h("code", { class: "mono" });
  const heard = h("span", { class: "num" });
  store.watch(["head", "tick"], ({ head }) => {
    setText(id, format.brief(head.run, 16));
    setText(heard, `as of ${format.date(head.at)}`);
  });
  const links = store.state.mode === "live" ? [h("a", { href: "api/v1/frame" }, "JSON"), h("a", { href: "api/v1/rounds.csv" }, "CSV"), h("a", { href: "metrics" }, "Metrics")] : [];
  return h(
    "footer",
    { class: "foot" },
    h("span", {}, "Run ", id),
    heard,
    h("span", { class: "foot-links" }, ...links, h("a", { href: "licenses.txt" }, "Licences")),
  );
}

function route(store: Store, main: HTMLElement, markTab: (page: Page) => void): void {
  let ends: (() => void)[] = [];
  let first = true;
  const go = (): void => {
    const { page, rest } = addressOf(location.hash);
    for (const end of ends) end();
    main.replaceChildren();
    main.className = `page page-${page.path || "overview"}${page.whole ? " whole" : ""}`;
    ends = fill(store, main, page, rest);
    markTab(page);
    if (!first) {
      scrollTo(0, 0);
      main.focus({ preventScroll: true });
    }
    first = false;
  };
  addEventListener("hashchange", go);
  go();
}

function fill(store: Store, main: HTMLElement, page: Page, rest: readonly string[]): (() => void)[] {
  const ends: (() => void)[] = [];
  const overview = page.path === "";
  const top = h("div", { class: "top" });
  main.append(top);
  const head = views["headline"];
  if (head !== undefined && page.path !== "peer") {
    const place = { store, rest: [], tools: top, note: () => undefined };
    ends.push(head.mount(top, { ...place, size: overview ? "page" : "panel" }));
  }
  const grid = h("div", { class: "grid" });
  main.append(grid);
  for (const name of page.panels) {
    if (name === "map" && !store.state.head.map && overview) continue;
    const lead = overview ? LEADS[name] : undefined;
    const end = putPanel(grid, name, store, { size: page.whole ? "page" : "panel", rest, lead });
    if (end !== null) ends.push(end);
  }
  return ends;
}

function keys(help: () => void): void {
  addEventListener("keydown", (event) => {
    const target = event.target as HTMLElement;
    if (target.closest("input:not([type=range]), select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "?") help();
    else if (target.closest("dialog")) return;
    else if (event.key === "d") setTheme(theme() === "dark" ? "light" : "dark");
    else if (/^[1-9]$/.test(event.key)) {
      const page = shown[Number(event.key) - 1];
      if (page !== undefined) location.hash = `#/${page.path}`;
    } else return;
    event.preventDefault();
  });
}
