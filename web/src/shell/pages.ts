/** The pages: which panels stand on each, in reading order. */

export interface Page {
  /** What follows `#/`. */
  readonly path: string;
  readonly title: string;
  /** Names of the registry. */
  readonly panels: readonly string[];
  /** Its panels have the page to themselves. */
  readonly whole?: boolean;
  /** Not among the tabs. */
  readonly hidden?: boolean;
}

export const PAGES: readonly Page[] = [
  {
    path: "",
    title: "Overview",
    panels: ["loss", "map", "speed", "swarm", "use", "bpb", "timeline", "peers", "samples", "log"],
  },
  {
    path: "training",
    title: "Training",
    panels: ["loss", "bpb", "lr", "grad", "speed", "swarm", "use", "bytes", "took"],
  },
  { path: "map", title: "World", panels: ["map"], whole: true },
  { path: "timeline", title: "Rounds", panels: ["timeline"], whole: true },
  { path: "links", title: "Links", panels: ["links"], whole: true },
  { path: "peers", title: "Peers", panels: ["peers"], whole: true },
  { path: "peer", title: "Peer", panels: ["peer"], whole: true, hidden: true },
  { path: "samples", title: "Samples", panels: ["samples"], whole: true },
  { path: "log", title: "Log", panels: ["log"], whole: true },
  { path: "about", title: "About", panels: ["sources", "setup", "about"] },
];

/** Where the heading of a panel on the overview leads. */
export const LEADS: { readonly [panel: string]: string } = {
  loss: "training",
  speed: "training",
  swarm: "training",
  use: "training",
  bpb: "training",
  map: "map",
  timeline: "timeline",
  links: "links",
  peers: "peers",
  samples: "samples",
  log: "log",
};

export interface Address {
  readonly page: Page;
  readonly rest: readonly string[];
}

/** `#/peer/a3f` -> the peer's page and `["a3f"]`; what is unknown leads to the overview. */
export function addressOf(hash: string): Address {
  const [path = "", ...rest] = hash.replace(/^#\/?/, "").split("/").map(unescaped);
  const page = PAGES.find((one) => one.path === path) ?? PAGES[0];
  if (page === undefined) throw new Error("there are no pages");
  return { page, rest };
}

function unescaped(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** `loss,map` -> the names that exist; nothing known: the loss. */
export function embedded(asked: string, known: (name: string) => boolean): string[] {
  const names = [...new Set(asked.split(",").map((name) => name.trim()))].filter(known);
  return names.length > 0 ? names : ["loss"];
}
