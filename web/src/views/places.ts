/** What the map shows, as plain values: places, clusters, arcs. Nothing here draws. */

import { geoInterpolate } from "d3-geo";
import type { Links, Peer, PeerState, Region } from "../types";

/** The peers of one declared region. */
export interface Place {
  region: Region;
  peers: Peer[]; // by tokens, descending
  tokens: number;
}

export interface Mark {
  places: Place[]; // the heaviest first: it gives the mark its name and position
  peers: Peer[];
  tokens: number;
  x: number;
  y: number;
  radius: number;
}

/** A great circle between two places, with what moved on it in the newest round. */
export interface Arc {
  from: Region;
  to: Region;
  bytes: number; // both directions
  outward: number; // bytes from `from` to `to`
}

/** Peers by declared region, largest contribution first; who declared none is in `elsewhere`. */
export function places(
  peers: readonly Peer[],
  regions: readonly Region[],
): { places: Place[]; elsewhere: Peer[] } {
  const known = new Map(regions.map((region) => [region.key, region]));
  const found = new Map<string, Place>();
  const elsewhere: Peer[] = [];
  for (const peer of peers) {
    const region = known.get(peer.region);
    if (!region) {
      elsewhere.push(peer);
      continue;
    }
    let place = found.get(region.key);
    if (!place) found.set(region.key, (place = { region, peers: [], tokens: 0 }));
    place.peers.push(peer);
    place.tokens += peer.tokens;
  }
  const sorted = [...found.values()].sort(heavier);
  for (const place of sorted) place.peers.sort((a, b) => b.tokens - a.tokens);
  return { places: sorted, elsewhere };
}

function heavier(a: Place, b: Place): number {
  return b.tokens - a.tokens || b.peers.length - a.peers.length || (a.region.key < b.region.key ? -1 : 1);
}

/** Radius of a disc whose area is the share, between `least` and `most` (share 1). */
export function radius(share: number, least: number, most: number): number {
  const bounded = Math.min(1, Math.max(0, share));
  return Math.sqrt(least * least + bounded * (most * most - least * least));
}

/**
 * Places that would overlap on the screen become one mark, at its heaviest place. Greedy from the
 * heaviest down, through a grid of cells, so that 1,000 places cost about as many look-ups.
 */
export function marks(
  places: readonly Place[],
  at: (region: Region) => readonly [number, number] | null,
  size: (tokens: number) => number,
  gap = 2,
): Mark[] {
  const most = Math.max(1, size(places.reduce((sum, place) => sum + place.tokens, 0)));
  const cell = 2 * most + gap;
  const grid = new Map<string, Mark[]>();
  const made: Mark[] = [];
  for (const place of [...places].sort(heavier)) {
    const point = at(place.region);
    if (!point) continue;
    const [x, y] = point;
    const reach = size(place.tokens);
    const near = neighbour(grid, cell, x, y, reach + gap);
    if (near) {
      near.places.push(place);
      near.peers.push(...place.peers);
      near.tokens += place.tokens;
      near.radius = size(near.tokens);
      continue;
    }
    const mark = { places: [place], peers: [...place.peers], tokens: place.tokens, x, y, radius: reach };
    made.push(mark);
    const key = `${Math.floor(x / cell)} ${Math.floor(y / cell)}`;
    const others = grid.get(key);
    if (others) others.push(mark);
    else grid.set(key, [mark]);
  }
  return made;
}

function neighbour(
  grid: Map<string, Mark[]>,
  cell: number,
  x: number,
  y: number,
  reach: number,
): Mark | null {
  let best: Mark | null = null;
  let least = Infinity;
  const column = Math.floor(x / cell);
  const row = Math.floor(y / cell);
  for (let i = column - 1; i <= column + 1; i++) {
    for (let j = row - 1; j <= row + 1; j++) {
      for (const mark of grid.get(`${i} ${j}`) ?? []) {
        const distance = Math.hypot(mark.x - x, mark.y - y);
        if (distance < mark.radius + reach && distance < least) [best, least] = [mark, distance];
      }
    }
  }
  return best;
}

/** Transfers of the newest round between different regions, both directions as one, largest first. */
export function arcs(links: Links, regions: readonly Region[], most: number): Arc[] {
  const known = new Map(regions.map((region) => [region.key, region]));
  const found = new Map<string, Arc>();
  for (const pair of links.pairs) {
    if (!pair.active || pair.bytes <= 0) continue;
    const from = known.get(links.nodes[pair.from]?.region ?? "");
    const to = known.get(links.nodes[pair.to]?.region ?? "");
    if (!from || !to || from === to) continue;
    const forward = from.key < to.key;
    const key = forward ? `${from.key} ${to.key}` : `${to.key} ${from.key}`;
    let arc = found.get(key);
    if (!arc) {
      arc = forward ? { from, to, bytes: 0, outward: 0 } : { from: to, to: from, bytes: 0, outward: 0 };
      found.set(key, arc);
    }
    arc.bytes += pair.bytes;
    if (arc.from === from) arc.outward += pair.bytes;
  }
  return [...found.values()].sort((a, b) => b.bytes - a.bytes).slice(0, most);
}

/** `steps` + 1 points on the great circle from a to b, [longitude, latitude]. */
export function greatCircle(a: Region, b: Region, steps: number): [number, number][] {
  const between = geoInterpolate([a.lon, a.lat], [b.lon, b.lat]);
  return Array.from({ length: steps + 1 }, (_, i) => between(i / steps));
}

const ORDER: PeerState[] = ["suspect", "active", "joined", "away", "gone", "out"];

/** How many peers are in each state, in the order in which a ring shows them. */
export function states(peers: readonly Peer[]): { state: PeerState; count: number }[] {
  const counts = new Map<PeerState, number>();
  for (const peer of peers) counts.set(peer.state, (counts.get(peer.state) ?? 0) + 1);
  return ORDER.flatMap((state) => {
    const count = counts.get(state);
    return count ? [{ state, count }] : [];
  });
}

/** "Frankfurt", or "Frankfurt and 3 more places". */
export function nameOf(mark: Mark): string {
  const city = mark.places[0]?.region.city ?? "";
  const more = mark.places.length - 1;
  return more === 0 ? city : `${city} and ${more} more place${more === 1 ? "" : "s"}`;
}
