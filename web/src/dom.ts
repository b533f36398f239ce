/** Elements from code. Strings become text nodes: there is no way to markup from here. */

type Child = Node | string | null | undefined | false;
type Handler = (event: never) => void;
type Attributes = { [name: string]: string | number | boolean | null | undefined | Handler };

const SVG = "http://www.w3.org/2000/svg";

function fill<T extends Element>(element: T, attributes: Attributes, children: Child[]): T {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") {
      element.addEventListener(name.replace(/^on/, ""), value as EventListener);
    } else {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  for (const child of children) if (child || child === "") element.append(child);
  return element;
}

/** `h("button", { class: "quiet", onclick: () => … }, "Reset")`. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function s<K extends keyof SVGElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: Child[]
): SVGElementTagNameMap[K] {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** Sets text only when it differs: no work for the browser, no lost selection. */
export function setText(node: Node, text: string): void {
  if (node.textContent !== text) node.textContent = text;
}

export function setAttribute(element: Element, name: string, value: string | null): void {
  if (value === null) element.removeAttribute(name);
  else if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

/** A small choice among few: buttons of which one is pressed. */
export function segmented<T extends string>(
  label: string,
  choices: readonly (readonly [T, string])[],
  chosen: T,
  choose: (value: T) => void,
): HTMLElement {
  const box = h("div", { class: "segmented", role: "group", "aria-label": label });
  const buttons = choices.map(([value, text]) =>
    h(
      "button",
      {
        type: "button",
        "aria-pressed": String(value === chosen),
        onclick: () => {
          choices.forEach(([other], i) =>
            buttons[i]?.setAttribute("aria-pressed", String(other === value)),
          );
          choose(value);
        },
      },
      text,
    ),
  );
  box.append(...buttons);
  return box;
}

/** The value of a custom property: `token("--accent")`, for canvases. */
export function token(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

export function reducedMotion(): boolean {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}

/** Calls `redraw` when the colours change: the switch, or the system's. Returns its end. */
export function onTheme(redraw: () => void): () => void {
  document.addEventListener("farflung:theme", redraw);
  return () => document.removeEventListener("farflung:theme", redraw);
}
