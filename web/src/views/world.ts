/** Land and borders of map/world.json, decoded once. */

import { feature, mesh } from "topojson-client";
import type { MultiLineString, MultiPolygon } from "geojson";
import type { GeometryCollection, MultiPolygon as Land, Topology } from "topojson-specification";

type Objects = { countries: GeometryCollection; land: Land };

/** As map/world.mjs writes it: every arc is a delta-coded string, arcs are split by spaces. */
export interface Packed {
  transform: { scale: number[]; translate: number[] };
  objects: unknown;
  arcs: string;
}

/** Steps (x, y) of one arc, on the grid: zigzag, five bits a character, as in encoded polylines. */
export function decodeArc(text: string): [number, number][] {
  const values: number[] = [];
  let value = 0;
  let shift = 0;
  for (let i = 0; i < text.length; i++) {
    const bits = text.charCodeAt(i) - 63;
    value |= (bits & 31) << shift;
    shift += 5;
    if (bits >= 32) continue;
    values.push(value & 1 ? -((value + 1) >> 1) : value >> 1);
    value = shift = 0;
  }
  const steps: [number, number][] = [];
  for (let i = 0; i + 1 < values.length; i += 2) steps.push([values[i]!, values[i + 1]!]);
  return steps;
}

export function decodeWorld(packed: Packed): { land: MultiPolygon; borders: MultiLineString } {
  const topology = {
    type: "Topology",
    transform: packed.transform,
    objects: packed.objects,
    arcs: packed.arcs.split(" ").map(decodeArc),
  } as unknown as Topology<Objects>;
  return {
    land: feature(topology, topology.objects.land).geometry as MultiPolygon,
    borders: mesh(topology, topology.objects.countries, (a, b) => a !== b),
  };
}
