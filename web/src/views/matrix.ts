/** What the link matrix shows, as plain values. Nothing here draws. */

import type { Links, Region } from "../types";
import { quantiles } from "./lanes";

export type Measure = "bandwidth" | "rtt" | "loss";

export interface Cell {
  value: number; // bytes/s, seconds, or a share; NaN: not measured
  pairs: number; // measured pairs in it
  bytes: number; // of the newest round
  active: boolean;
}

export interface Matrix {
  labels: { key: string; name: string; region: string; peers: number }[];
  cells: (Cell | null)[]; // row (sender) * labels + column (receiver)
  owners: number[]; // share of the newest attempt's slices, one a label
  by: "node" | "region";
}

const UNKNOWN = "?";

/** Senders are rows, receivers columns. By region: the mean of the measured pairs in each cell. */
export function matrix(
  links: Links,
  by: "node" | "region",
  measure: Measure,
  regions: readonly Region[] = [],
): Matrix {
  const cities = new Map(regions.map((region) => [region.key, region]));
  const group = by === "node" ? links.nodes.map((_, i) => i) : grouped(links);
  const labels: Matrix["labels"] = [];
  links.nodes.forEach((node, i) => {
    const at = group[i]!;
    const label = labels[at];
    if (label) {
      label.peers++;
      return;
    }
    const region = cities.get(node.region);
    const place = region ? `${region.city}, ${region.country}` : "place not said";
    labels[at] =
      by === "node"
        ? { key: node.node, name: node.name, region: region ? place : "", peers: 1 }
        : { key: node.region || UNKNOWN, name: place, region: node.region, peers: 1 };
  });
  const size = labels.length;
  const cells: (Cell | null)[] = new Array<Cell | null>(size * size).fill(null);
  for (const pair of links.pairs) {
    const row = group[pair.from];
    const column = group[pair.to];
    if (row === undefined || column === undefined) continue;
    const place = row * size + column;
    const cell = (cells[place] ??= { value: NaN, pairs: 0, bytes: 0, active: false });
    cell.bytes += pair.bytes;
    cell.active ||= pair.active;
    const value = valueOf(pair, measure);
    if (value === null) continue;
    cell.value = cell.pairs === 0 ? value : cell.value + (value - cell.value) / (cell.pairs + 1);
    cell.pairs++;
  }
  const owners = new Array<number>(size).fill(0);
  for (const owner of links.owners) {
    const at = group[owner.node];
    if (at !== undefined) owners[at]! += owner.share;
  }
  return { labels, cells, owners, by };
}

function valueOf(pair: Links["pairs"][number], measure: Measure): number | null {
  return measure === "bandwidth" ? pair.bytes_per_s : measure === "rtt" ? pair.rtt_s : pair.loss;
}

/** Regions in order of their number of nodes, who said none last. */
function grouped(links: Links): number[] {
  const counts = new Map<string, number>();
  for (const { region } of links.nodes) counts.set(region, (counts.get(region) ?? 0) + 1);
  const order = [...counts].sort(
    ([a, n], [b, m]) => Number(a === "") - Number(b === "") || m - n || (a < b ? -1 : 1),
  );
  const index = new Map(order.map(([region], i) => [region, i]));
  return links.nodes.map((node) => index.get(node.region) ?? 0);
}

export interface Scale {
  low: number;
  high: number;
  at: (value: number) => number; // 0 (bad) .. 1 (good)
}

/**
 * Colours follow the logarithm between the 2 % and 98 % quantiles (bandwidth, RTT) or lie between
 * 0 and the 98 % quantile (loss, at least 1 %). 1 is always what a person wishes for.
 */
export function scale(cells: readonly (Cell | null)[], measure: Measure): Scale | null {
  const values: number[] = [];
  for (const cell of cells) if (cell && cell.pairs > 0) values.push(cell.value);
  const [low = 0, high = 0] = quantiles(values, [0.02, 0.98]);
  if (values.length === 0) return null;
  if (measure === "loss") {
    const top = Math.max(0.01, high);
    return { low: 0, high: top, at: (value) => 1 - clamp(value / top) };
  }
  const [a, b] = [Math.log(Math.max(low, 1e-9)), Math.log(Math.max(high, 1e-9))];
  const share = (value: number) =>
    b - a < 1e-3 ? 0.75 : clamp((Math.log(Math.max(value, 1e-9)) - a) / (b - a));
  return { low, high, at: measure === "rtt" ? (value) => 1 - share(value) : share };
}

function clamp(value: number): number {
  return Math.min(1, Math.max(0, value));
}

/** A colour between stops "#rrggbb"; `at` 0..1. */
export function ramp(stops: readonly string[], at: number): string {
  const place = clamp(at) * (stops.length - 1);
  const first = Math.min(stops.length - 2, Math.floor(place));
  const share = place - first;
  const [a, b] = [channels(stops[first]!), channels(stops[first + 1]!)];
  return `rgb(${a.map((value, i) => Math.round(value + (b[i]! - value) * share)).join(",")})`;
}

function channels(hex: string): number[] {
  return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
}

export interface Edge {
  from: string;
  to: string;
  value: number;
  bytes: number;
  active: boolean;
}

/** The measured cells as a list, the worst first: what a phone shows, and what is read aloud. */
export function edges(matrix: Matrix, scale: Scale | null): Edge[] {
  const size = matrix.labels.length;
  const found: Edge[] = [];
  matrix.cells.forEach((cell, i) => {
    if (!cell || cell.pairs === 0) return;
    const from = matrix.labels[Math.floor(i / size)]!.name;
    const to = matrix.labels[i % size]!.name;
    found.push({ from, to, value: cell.value, bytes: cell.bytes, active: cell.active });
  });
  if (!scale) return found;
  return found.sort((a, b) => scale.at(a.value) - scale.at(b.value));
}
