/** A panel: heading, words, tools, and the view in it. */

import { h, setText } from "../dom";
import { views } from "../registry";
import type { Store } from "../store";
import type { Place } from "../view";

/** Puts the view `name` into `parent`; null when there is no such view. */
export function putPanel(
  parent: HTMLElement,
  name: string,
  store: Store,
  options: { size: Place["size"]; rest?: readonly string[]; lead?: string | undefined },
): (() => void) | null {
  const view = views[name];
  if (view === undefined) return null;
  const id = `panel-${name}`;
  const note = h("span", { class: "panel-note" });
  const tools = h("div", { class: "panel-tools" });
  const body = h("div", { class: "panel-body" });
  const title =
    options.lead === undefined ? view.title : h("a", { href: `#/${options.lead}` }, view.title);
  const section = h(
    "section",
    { class: "panel", "data-panel": name, "aria-labelledby": id },
    h("header", { class: "panel-head" }, h("h2", { id }, title), note, tools),
    body,
  );
  parent.append(section);
  const end = view.mount(body, {
    store,
    size: options.size,
    rest: options.rest ?? [],
    tools,
    note: (text) => setText(note, text),
  });
  return () => {
    end();
    section.remove();
  };
}
