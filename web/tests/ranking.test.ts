import assert from "node:assert/strict";
import { test } from "node:test";
import type { Peer } from "../src/types";
import { chosen } from "../src/views/peers-columns";
import { pieces } from "../src/views/peer-stays";
import { matching, ordinal, ranked, sorted, visible } from "../src/views/ranking";

function peer(name: string, tokens: number, more: Partial<Peer> = {}): Peer {
  return {
    node: `${name}00`, name, tokens, role: "trainer", state: "active", region: "", device: "", software: "", loss: null, ...more,
  } as Peer;
}

test("equal tokens share a rank, keepers and newcomers have none", () => {
  const rows = ranked([peer("c", 5), peer("a", 9), peer("b", 5), peer("k", 99, { role: "keeper" }), peer("n", 0), peer("z", 1)]);
  assert.deepEqual(rows.map((row) => [row.peer.name, row.rank]), [["k", 0], ["a", 1], ["b", 2], ["c", 2], ["z", 4], ["n", 0]]);
});

test("what is not known comes last in both directions", () => {
  const rows = ranked([peer("a", 3, { loss: 2 }), peer("b", 2), peer("c", 1, { loss: 1 })]);
  const names = (down: boolean): string[] => sorted(rows, { key: "loss", down }).map((row) => row.peer.name);
  assert.deepEqual(names(false), ["c", "a", "b"]);
  assert.deepEqual(names(true), ["a", "c", "b"]);
});

test("equals keep the order of their ranks", () => {
  const rows = ranked([peer("x", 1), peer("y", 3), peer("z", 2)]);
  assert.deepEqual(sorted(rows, { key: "device", down: true }).map((row) => row.peer.name), ["y", "z", "x"]);
});

test("every word of the search must be found, in any field", () => {
  const rows = ranked([peer("ada", 3, { device: "H100", region: "FRA" }), peer("bob", 2, { device: "H100" }), peer("cay", 1, { state: "gone" })]);
  const find = (word: string, more = {}): string[] =>
    matching(rows, { word, state: "", role: "", ...more }, (key) => (key === "FRA" ? "Frankfurt, Germany" : "")).map((row) => row.peer.name);
  assert.deepEqual(find("h100"), ["ada", "bob"]);
  assert.deepEqual(find("  frank H100 "), ["ada"]);
  assert.deepEqual(find("cay00"), ["cay"]);
  assert.deepEqual(find("", { state: "here" }), ["ada", "bob"]);
  assert.deepEqual(find("", { role: "keeper" }), []);
});

test("only rows in sight are drawn, with a few to spare", () => {
  assert.deepEqual(visible(1000, 40, 4000, 800, 5), { first: 95, last: 125 });
  assert.deepEqual(visible(3, 40, 0, 800, 5), { first: 0, last: 3 });
  assert.deepEqual(visible(3, 40, 9000, 800, 5), { first: 0, last: 3 });
  assert.deepEqual(visible(0, 40, 0, 800, 5), { first: 0, last: 0 });
});

test("columns give way in the order of their need; rank and name always stay", () => {
  const keys = (width: number): string[] => chosen(width, true).map(({ key }) => key);
  assert.deepEqual(keys(100), ["rank", "name"]);
  for (const [less, more] of [[400, 700], [700, 1100], [1100, 1800]] as const) {
    assert.ok(keys(less).every((key) => keys(more).includes(key)));
    assert.ok(keys(less).length < keys(more).length);
  }
  assert.ok(keys(1800).includes("software"));
});

test("ordinals", () => {
  assert.deepEqual([1, 2, 3, 4, 11, 12, 13, 21, 112, 1022].map(ordinal), ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "112th", "1,022nd"]);
});

test("stays lie on the strip in order; a short one is seen and the open one ends now", () => {
  const [first, second] = pieces([{ from: 0, to: 0.001, why: "" }, { from: 50, to: null, why: "" }], 0, 100);
  assert.deepEqual([first?.left, first?.width], [0, 0.002]);
  assert.deepEqual([second?.left, second?.width, second?.open], [0.5, 0.5, true]);
});
