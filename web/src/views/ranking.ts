/** Order, search and the visible part of the peers' table, as plain values. */

import type { Peer, PeerState } from "../types";

export type Key =
  | "rank" | "name" | "state" | "tokens" | "share" | "uptime_s" | "rounds" | "strikes" | "device"
  | "software" | "tokens_per_s" | "mfu" | "loss" | "bytes_up" | "bytes_down" | "utilisation";

export interface Order {
  key: Key;
  down: boolean; // largest first
}

export interface Wanted {
  word: string;
  state: PeerState | "" | "here"; // here: joined, active or suspect
  role: Peer["role"] | "";
}

export interface Row {
  peer: Peer;
  rank: number; // by tokens among trainers, from 1; 0: no trainer, or nothing credited
}

/** Ranks by tokens; peers with equal tokens share one. */
export function ranked(peers: readonly Peer[]): Row[] {
  const sorted = [...peers].sort((a, b) => b.tokens - a.tokens || compare(a.name, b.name));
  let rank = 0;
  let place = 0;
  let last = NaN;
  return sorted.map((peer) => {
    if (peer.role !== "trainer" || peer.tokens <= 0) return { peer, rank: 0 };
    place++;
    if (peer.tokens !== last) rank = place;
    last = peer.tokens;
    return { peer, rank };
  });
}

const STATES: Record<PeerState, number> = { active: 0, joined: 1, suspect: 2, away: 3, gone: 4, out: 5 };
const HERE: ReadonlySet<PeerState> = new Set(["active", "joined", "suspect"]);

export function isHere(peer: Peer): boolean {
  return HERE.has(peer.state);
}

/** Sorted copy. What is not known comes last in both directions; equals keep their rank's order. */
export function sorted(rows: readonly Row[], order: Order): Row[] {
  const sign = order.down ? -1 : 1;
  return rows
    .map((row, i) => ({ row, i, value: valueOf(row, order.key) }))
    .sort((a, b) => {
      if (a.value === null || b.value === null) {
        return Number(a.value === null) - Number(b.value === null) || a.i - b.i;
      }
      return sign * compare(a.value, b.value) || a.i - b.i;
    })
    .map(({ row }) => row);
}

function valueOf({ peer, rank }: Row, key: Key): number | string | null {
  switch (key) {
    case "rank":
      return rank || null;
    case "state":
      return STATES[peer.state];
    case "name":
    case "device":
    case "software":
      return peer[key].toLowerCase() || null;
    default:
      return peer[key];
  }
}

function compare<T extends number | string>(a: T, b: T): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** Every word must occur in the name, device, place, version, role or at the id's beginning. */
export function matching(rows: readonly Row[], wanted: Wanted, place: (key: string) => string): Row[] {
  const words = wanted.word.toLowerCase().split(/\s+/).filter(Boolean);
  return rows.filter(({ peer }) => {
    if (wanted.role && peer.role !== wanted.role) return false;
    if (wanted.state === "here" ? !isHere(peer) : wanted.state && peer.state !== wanted.state) {
      return false;
    }
    if (words.length === 0) return true;
    const text = `${peer.name} ${peer.device} ${peer.region} ${place(peer.region)} ${peer.software} ${peer.role}`;
    const low = text.toLowerCase();
    return words.every((word) => low.includes(word) || peer.node.startsWith(word));
  });
}

/** First (inclusive) and last (exclusive) row to draw, with `spare` rows on both sides. */
export function visible(
  count: number,
  height: number,
  top: number,
  view: number,
  spare = 6,
): { first: number; last: number } {
  const first = Math.max(0, Math.min(count, Math.floor(top / height)) - spare);
  const last = Math.min(count, Math.max(0, Math.ceil((top + view) / height)) + spare);
  return { first, last: Math.max(first, last) };
}

/** `1st`, `2nd`, `3rd`, `11th`, `1,022nd`. */
export function ordinal(n: number): string {
  const teen = Math.floor(n / 10) % 10 === 1;
  const end = teen ? "th" : (["th", "st", "nd", "rd"][n % 10] ?? "th");
  return `${n.toLocaleString("en-US")}${end}`;
}
