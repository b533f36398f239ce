/** What a part of the page is to the shell that shows it. */

import type { Store } from "./store";

/** Where a view stands, and what it may use there. */
export interface Place {
  readonly store: Store;
  /** `panel`: among others on the overview; `page`: it has the page; `embed`: chromeless. */
  readonly size: "panel" | "page" | "embed";
  /** What follows the view's name in the address: `["a3f…"]` of `#/peer/a3f…`. */
  readonly rest: readonly string[];
  /** A slot in the panel's heading, right: switches, filters. */
  readonly tools: HTMLElement;
  /** Sets the muted words beside the heading. */
  note(text: string): void;
}

export interface View {
  /** The panel's heading. */
  readonly title: string;
  /**
   * Builds the view inside `el` and keeps it up to date until the returned function is called.
   * The store holds a whole frame by then. Data become text nodes, never markup.
   */
  mount(el: HTMLElement, place: Place): () => void;
}
