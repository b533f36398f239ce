import assert from "node:assert/strict";
import { test } from "node:test";
import type { Links, Peer, Region } from "../src/types";
import { arcs, greatCircle, marks, nameOf, places, radius, states } from "../src/views/places";
import { decodeArc, decodeWorld } from "../src/views/world";
import packed from "../map/world.json";

const FRA: Region = { key: "FRA", city: "Frankfurt", country: "DE", lat: 50, lon: 8.5 };
const CDG: Region = { key: "CDG", city: "Paris", country: "FR", lat: 49, lon: 2.5 };
const SFO: Region = { key: "SFO", city: "San Francisco", country: "US", lat: 37.6, lon: -122.4 };
const AKL: Region = { key: "AKL", city: "Auckland", country: "NZ", lat: -37, lon: 174.8 };
const ALL = [FRA, CDG, SFO, AKL];

function peer(node: string, region: string, tokens: number, state: Peer["state"] = "active"): Peer {
  return { node, name: node, region, tokens, state } as Peer;
}

test("peers are grouped by declared region, the heaviest place first", () => {
  const found = places(
    [peer("a", "FRA", 5), peer("b", "SFO", 30), peer("c", "FRA", 10), peer("d", "", 99), peer("e", "XXX", 1)],
    ALL,
  );
  assert.deepEqual(found.places.map(({ region, tokens }) => [region.key, tokens]), [["SFO", 30], ["FRA", 15]]);
  assert.deepEqual(found.places[1]?.peers.map(({ node }) => node), ["c", "a"]);
  assert.deepEqual(found.elsewhere.map(({ node }) => node), ["d", "e"]);
});

test("a disc's area grows with the share, between its bounds", () => {
  assert.equal(radius(0, 3, 20), 3);
  assert.equal(radius(1, 3, 20), 20);
  assert.equal(radius(7, 3, 20), 20);
  const area = (share: number): number => radius(share, 0, 20) ** 2;
  assert.ok(Math.abs(area(0.5) / area(0.25) - 2) < 1e-9);
});

test("places that would overlap become one mark at the heaviest; a closer look parts them", () => {
  const found = places([peer("a", "FRA", 50), peer("b", "CDG", 20), peer("c", "SFO", 5)], ALL).places;
  const size = (tokens: number): number => radius(tokens / 50, 4, 10);
  const at = (k: number) => (region: Region): [number, number] => [k * region.lon, -k * region.lat];
  const far = marks(found, at(1), size);
  assert.deepEqual(far.map((mark) => mark.places.map(({ region }) => region.key)), [["FRA", "CDG"], ["SFO"]]);
  assert.equal(far[0]?.tokens, 70);
  assert.equal(nameOf(far[0]!), "Frankfurt and 1 more place");
  const near = marks(found, at(10), size);
  assert.equal(near.length, 3);
});

test("no peer is lost in clusters, and clusters do not overlap their neighbours' centres", () => {
  const regions = Array.from({ length: 400 }, (_, i) => ({
    key: `R${i}`, city: `c${i}`, country: "DE", lat: ((i * 37) % 120) - 55, lon: ((i * 97) % 360) - 180,
  }));
  const peers = regions.flatMap((region, i) => [peer(`a${i}`, region.key, i), peer(`b${i}`, region.key, 1)]);
  const made = marks(places(peers, regions).places, ({ lon, lat }) => [lon * 3, lat * 3], (t) => radius(t / 400, 3, 18));
  assert.equal(made.reduce((sum, mark) => sum + mark.peers.length, 0), 800);
  assert.ok(made.length < 400);
});

test("transfers between the same two places are one arc with both directions", () => {
  const node = (name: string, region: string) => ({ node: name, name, region });
  const pair = (from: number, to: number, bytes: number, active = true) =>
    ({ from, to, bytes, active, bytes_per_s: null, rtt_s: null, loss: null });
  const links: Links = {
    round: 1, owners: [], more: 0,
    nodes: [node("a", "FRA"), node("b", "SFO"), node("c", "FRA"), node("d", "")],
    pairs: [pair(0, 1, 100), pair(1, 0, 30), pair(2, 1, 10), pair(0, 2, 999), pair(3, 1, 50), pair(1, 2, 7, false)],
  };
  const found = arcs(links, ALL, 10);
  assert.equal(found.length, 1);
  assert.deepEqual([found[0]?.from.key, found[0]?.to.key, found[0]?.bytes, found[0]?.outward], ["FRA", "SFO", 140, 110]);
});

test("a great circle ends where it should and goes over the pole's side, not along the parallel", () => {
  const line = greatCircle(FRA, SFO, 16);
  assert.equal(line.length, 17);
  const close = (a: number, b: number): boolean => Math.abs(a - b) < 1e-9;
  assert.ok(close(line[0]![0], FRA.lon) && close(line[0]![1], FRA.lat));
  assert.ok(close(line[16]![0], SFO.lon) && close(line[16]![1], SFO.lat));
  assert.ok(Math.max(...line.map(([, lat]) => lat)) > 60);
});

test("a ring shows every state once", () => {
  const found = states([peer("a", "", 1), peer("b", "", 1), peer("c", "", 1, "gone"), peer("d", "", 1, "suspect")]);
  assert.deepEqual(found, [{ state: "suspect", count: 1 }, { state: "active", count: 2 }, { state: "gone", count: 1 }]);
});

test("arcs of the packed world decode as they were coded", () => {
  assert.deepEqual(decodeArc("?@A_G"), [[0, -1], [1, 128]]);
});

test("the packed world has land on every continent but one, and borders", () => {
  const { land, borders } = decodeWorld(packed);
  const all = land.coordinates.flat(2);
  assert.ok(land.coordinates.length > 80);
  assert.ok(borders.coordinates.length > 150);
  assert.ok(all.every(([lon, lat]) => Math.abs(lon!) <= 180.01 && lat! > -60 && lat! < 84));
});
