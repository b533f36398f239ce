/** The columns of the peers' table: which fit, and what stands in their cells. */

import { h } from "../dom";
import { NONE, bytes, count, duration, figure, percent, short } from "../format";
import type { Peer } from "../types";
import { STATE_TONE, STATE_WORDS, nameOf, peerAddress, shareOf } from "./kit";
import type { Key, Row } from "./ranking";

export interface Column {
  key: Key;
  label: string;
  title: string;
  width: number; // pixels, at least
  grow?: number; // share of what is left over
  need: number; // the least needed go first when there is no room
  right?: boolean;
  down?: boolean; // sorted downwards at the first click
  fixed?: boolean; // takes nothing of what is left over
  cell: (row: Row, about: About) => Node | string;
}

/** What a row needs to know besides its peer. */
export interface About {
  place: string; // its city and country
  link: boolean; // names lead to the peer's page
  most: number; // the largest share of a peer: a full bar
}

const number = (
  key: Key,
  label: string,
  title: string,
  width: number,
  need: number,
  text: (peer: Peer) => string,
): Column => ({ key, label, title, width, need, right: true, down: true, cell: ({ peer }) => text(peer) });

export const COLUMNS: readonly Column[] = [
  {
    key: "rank", label: "#", title: "Rank by committed tokens", width: 34, need: 0, fixed: true,
    cell: ({ rank }) => medal(rank),
  },
  {
    key: "name", label: "Peer", title: "Name, and where it says it is", width: 170, grow: 2, need: 0,
    cell: (row, about) => who(row, about),
  },
  {
    key: "state", label: "State", title: "What the coordinator thinks of it", width: 86, need: 2,
    cell: ({ peer }) => state(peer),
  },
  number("tokens", "Tokens", "Committed tokens that it trained", 66, 1, (peer) => short(peer.tokens)),
  {
    key: "share", label: "Share", title: "Share of all committed tokens", width: 96, need: 3, right: true, down: true,
    cell: ({ peer }, { most }) => share(peer.share, most),
  },
  number("tokens_per_s", "Tok/s", "Tokens per second, newest round", 62, 4, (peer) => short(peer.tokens_per_s)),
  number("mfu", "MFU", "Model FLOPs utilisation", 54, 8, (peer) => percent(peer.mfu)),
  { ...number("loss", "Loss", "Its own loss in the newest round, nats per token", 58, 9, (peer) => figure(peer.loss)), down: false },
  number("utilisation", "Computing", "Computing over computing and waiting", 82, 14, (peer) => percent(peer.utilisation)),
  number("rounds", "Rounds", "Rounds that it contributed to", 62, 6, (peer) => count(peer.rounds)),
  number("uptime_s", "Here for", "Length of all its stays", 80, 7, (peer) => duration(peer.uptime_s)),
  number("bytes_up", "Up", "Sent, all rounds", 72, 11, (peer) => bytes(peer.bytes_up)),
  number("bytes_down", "Down", "Received, all rounds", 72, 12, (peer) => bytes(peer.bytes_down)),
  {
    key: "strikes", label: "Strikes", title: "Rejected contributions, failed links, accusations", width: 60, need: 10, right: true, down: true,
    cell: ({ peer }) => (peer.strikes > 0 ? h("span", { class: "peers-strikes" }, count(peer.strikes)) : h("span", { class: "muted" }, "0")),
  },
  {
    key: "device", label: "Device", title: "What it computes on", width: 100, grow: 1, need: 5,
    cell: ({ peer }) => clip(peer.device.replace(/^NVIDIA /, ""), peer.device),
  },
  {
    key: "software", label: "Version", title: "Its software", width: 62, need: 13,
    cell: ({ peer }) => clip(peer.software.replace(/^farflung /, ""), peer.software),
  },
];

const GAP = 12;
const PANEL = new Set<Key>(["rank", "name", "tokens", "share", "tokens_per_s", "device", "uptime_s"]);

/** As many columns as fit, the most needed ones. */
export function chosen(width: number, whole: boolean): Column[] {
  const offered = COLUMNS.filter(({ key }) => whole || PANEL.has(key));
  const kept = new Set<Column>();
  let taken = 0;
  for (const column of [...offered].sort((a, b) => a.need - b.need)) {
    if (column.need > 0 && taken + column.width + GAP > width) break;
    kept.add(column);
    taken += column.width + GAP;
  }
  return offered.filter((column) => kept.has(column));
}

export function template(columns: readonly Column[]): string {
  return columns
    .map(({ width, grow, fixed }) => (fixed ? `${width}px` : `minmax(${width}px, ${grow ?? 0.5}fr)`))
    .join(" ");
}

export function cells(columns: readonly Column[], row: Row, about: About): Node[] {
  return columns.map((column) =>
    h("div", { role: "cell", class: column.right ? "right" : `peers-col-${column.key}` }, column.cell(row, about)),
  );
}

/** Two lines on a phone: who and how much, then what on and how fast. */
export function phoneRow(row: Row, { place, link, most }: About): HTMLElement {
  const { peer } = row;
  const rate = peer.tokens_per_s === null ? STATE_WORDS[peer.state] : `${short(peer.tokens_per_s)} tok/s`;
  const facts = [peer.device.replace(/^NVIDIA /, ""), place.split(",")[0]].filter(Boolean).join(" · ") || NONE;
  return h(
    "div",
    { class: "peers-card", role: "cell" },
    medal(row.rank),
    h("span", { class: "peers-line" }, dot(peer), name(peer, link), drift(peer)),
    h("span", { class: "peers-amount num" }, short(peer.tokens)),
    h("span", { class: "peers-line muted ellipsis", title: facts }, facts),
    h("span", { class: "peers-amount num muted" }, rate),
    track(peer.share, most),
  );
}

export function medal(rank: number): HTMLElement {
  if (rank === 0) return h("span", { class: "peers-rank muted" }, NONE);
  const honoured = rank <= 3 ? ` peers-medal peers-medal-${rank}` : "";
  return h("span", { class: `peers-rank num${honoured}` }, String(rank));
}

function who({ peer }: Row, { place, link }: About): HTMLElement {
  const role = peer.role === "trainer" ? null : h("span", { class: "peers-role" }, peer.role);
  return h(
    "span",
    { class: "peers-who" },
    dot(peer),
    name(peer, link),
    role,
    drift(peer),
    h("span", { class: "peers-place ellipsis muted", title: place }, place.split(",")[0] ?? ""),
  );
}

function name(peer: Peer, link: boolean): HTMLElement {
  const text = nameOf(peer);
  return link
    ? h("a", { class: "peers-name ellipsis", href: peerAddress(peer.node), title: text }, text)
    : h("span", { class: "peers-name ellipsis", title: text }, text);
}

function dot(peer: Peer): HTMLElement {
  const word = STATE_WORDS[peer.state];
  return h("span", { class: `dot ${STATE_TONE[peer.state]}`, title: peer.why ? `${word}: ${peer.why}` : word });
}

function drift(peer: Peer): HTMLElement | null {
  if (peer.agrees !== false) return null;
  return h("span", { class: "peers-drift", title: "Its newest state root is not the journal's" }, "drifted");
}

function state(peer: Peer): HTMLElement {
  const word = STATE_WORDS[peer.state];
  return h("span", { class: `peers-state ${STATE_TONE[peer.state]}`, title: peer.why ? `${word}: ${peer.why}` : word }, word);
}

function share(value: number, most: number): HTMLElement {
  return h("span", { class: "peers-share" }, track(value, most), h("span", {}, shareOf(value)));
}

function track(value: number, most: number): HTMLElement {
  const bar = h("span", { class: "peers-bar", "aria-hidden": "true" });
  bar.style.width = `${most > 0 ? Math.min(100, (100 * value) / most) : 0}%`;
  return h("span", { class: "peers-track", title: shareOf(value) }, bar);
}

function clip(text: string, title = text): HTMLElement {
  return h("span", { class: "ellipsis peers-clip", title }, text || NONE);
}
