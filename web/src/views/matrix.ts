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

/**
 * Senders are rows, receivers columns; both run from west to east, who did not say where last.
 * By region: the mean of the measured pairs in each cell.
 */
export function matrix(
  links: Links,
  by: "node" | "region",
  measure: Measure,
  regions: readonly Region[] = [],
): Matrix {
  const cities = new Map(regions.map((region) => [region.key, region]));
  const group = by === "node" ? byNode(links, cities) : byRegion(links, cities);
  const labels: Matrix["labels"] = [];
  links.nodes.forEach((node, i) => {
    const label = labels[group[i]!];
    if (label) label.peers++;
    else labels[group[i]!] = labelOf(node, by, cities);
  });
  const size = labels.length;
  const cells: (Cell | null)[] = new Array<Cell | null>(size * size).fill(null);
  for (const pair of links.pairs) {
    const row = group[pair.from];
    const column = group[pair.to];
    if (row === undefined || column === undefined) continue;
    const place = row * size + column;
    count((cells[place] ??= { value: NaN, pairs: 0, bytes: 0, active: false }), pair, measure);
  }
  const owners = new Array<number>(size).fill(0);
  for (const owner of links.owners) {
    const at = group[owner.node];
    if (at !== undefined) owners[at]! += owner.share;
  }
  return { labels, cells, owners, by };
}

type Pair = Links["pairs"][number];
type Cities = ReadonlyMap<string, Region>;

function labelOf(
  node: Links["nodes"][number],
  by: "node" | "region",
  cities: Cities,
): Matrix["labels"][number] {
  const region = cities.get(node.region);
  const place = region ? region.city : "place not said";
  if (by === "region") return { key: node.region || UNKNOWN, name: place, region: place, peers: 1 };
  return { key: node.node, name: node.name, region: region ? place : "", peers: 1 };
}

/** A running mean of what is known. */
function count(cell: Cell, pair: Pair, measure: Measure): void {
  cell.bytes += pair.bytes;
  cell.active ||= pair.active;
  const value = valueOf(pair, measure);
  if (value === null) return;
  cell.value = cell.pairs === 0 ? value : cell.value + (value - cell.value) / (cell.pairs + 1);
  cell.pairs++;
}

function valueOf(pair: Pair, measure: Measure): number | null {
  return measure === "bandwidth" ? pair.bytes_per_s : measure === "rtt" ? pair.rtt_s : pair.loss;
}

function lonOf(key: string, cities: Cities): number {
  return cities.get(key)?.lon ?? Infinity;
}

/** The place of each node among the rows. */
function byNode(links: Links, cities: Cities): number[] {
  const order = links.nodes.map((node, i) => ({ i, lon: lonOf(node.region, cities), key: node.region }));
  order.sort((a, b) => rising(a.lon, b.lon) || (a.key < b.key ? -1 : a.key > b.key ? 1 : a.i - b.i));
  const group: number[] = [];
  order.forEach(({ i }, row) => (group[i] = row));
  return group;
}

function byRegion(links: Links, cities: Cities): number[] {
  const known = (key: string): string => (cities.has(key) ? key : "");
  const keys = [...new Set(links.nodes.map(({ region }) => known(region)))];
  keys.sort((a, b) => rising(lonOf(a, cities), lonOf(b, cities)) || (a < b ? -1 : 1));
  const index = new Map(keys.map((key, i) => [key, i]));
  return links.nodes.map((node) => index.get(known(node.region)) ?? 0);
}

function rising(a: number, b: number): number {
  return a === b ? 0 : a < b ? -1 : 1;
}

export interface Scale {
  low: number;
  high: number;
  at: (value: number) => number; // 0 (least) .. 1 (most)
}

/**
 * Colours follow the logarithm between the 2 % and 98 % quantiles (bandwidth, RTT), or lie between
 * 0 and the 98 % quantile (loss; at least 1 %). null: nothing measured.
 */
export function scale(cells: readonly (Cell | null)[], measure: Measure): Scale | null {
  const values: number[] = [];
  for (const cell of cells) if (cell && cell.pairs > 0) values.push(cell.value);
  if (values.length === 0) return null;
  const [low = 0, high = 0] = quantiles(values, [0.02, 0.98]);
  if (measure === "loss") {
    const top = Math.max(0.01, high);
    return { low: 0, high: top, at: (value) => clamp(value / top) };
  }
  const [a, b] = [Math.log(Math.max(low, 1e-9)), Math.log(Math.max(high, 1e-9))];
  const at = (value: number): number =>
    b - a < 1e-3 ? 0.6 : clamp((Math.log(Math.max(value, 1e-9)) - a) / (b - a));
  return { low, high, at };
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

/** `steps` colours of a ramp, so that a drawing of 10,000 cells computes none. */
export function ramped(stops: readonly string[], steps = 64): string[] {
  return Array.from({ length: steps }, (_, i) => ramp(stops, i / (steps - 1)));
}

/** Whether dark words are read better than white ones on `rgb(r,g,b)` (WCAG 2 luminance). */
export function isLight(colour: string): boolean {
  const [r = 0, g = 0, b = 0] = (colour.match(/\d+/g) ?? []).map((text) => {
    const value = globalThis.Number(text) / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179;
}

function channels(hex: string): number[] {
  return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
}

export interface Edge {
  row: number;
  column: number;
  cell: Cell;
}

/** The measured cells as a list, the worst first: what a phone shows, and what is read aloud. */
export function edges(matrix: Matrix, measure: Measure): Edge[] {
  const size = matrix.labels.length;
  const found: Edge[] = [];
  matrix.cells.forEach((cell, i) => {
    if (cell && cell.pairs > 0) found.push({ row: Math.floor(i / size), column: i % size, cell });
  });
  const sign = measure === "bandwidth" ? 1 : -1;
  return found.sort((a, b) => sign * (a.cell.value - b.cell.value) || b.cell.bytes - a.cell.bytes);
}
