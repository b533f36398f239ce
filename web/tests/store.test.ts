import assert from "node:assert/strict";
import { test } from "node:test";
// @ts-expect-error: plain JavaScript, for the page's development
import * as fixtures from "../dev/fixtures.mjs";
import { atMoment, cutRounds, fold, withLine, withPeers, withRow, withTimeline } from "../src/fold";
import { sought } from "../src/replay";
import { addressOf, embedded } from "../src/shell/pages";
import { Store, type State } from "../src/store";
import type { Frame, Line, Peer, RoundRow, Timeline } from "../src/types";

const run = fixtures.run("four");
const frame = fixtures.frame(run, 20) as Frame;

function storeOf(): { store: Store; picture: () => void } {
  const queue: (() => void)[] = [];
  const state: State = {
    ...frame, mode: "live", contact: { state: "live" }, zoom: null, detail: null, look: { x: "round", log: false, smoothing: 0.8 },
  };
  const nobody = () => Promise.reject(new Error("nobody"));
  const store = new Store(state, { rounds: nobody, lines: nobody, peer: nobody, timeline: nobody }, (f) => queue.push(f), () => 7);
  return { store, picture: () => queue.splice(0).forEach((f) => f()) };
}

test("many news are drawn once, and only where they matter", () => {
  const { store, picture } = storeOf();
  const calls = { rounds: 0, peers: 0 };
  store.watch(["rounds", "head"], () => (calls.rounds += 1));
  const end = store.watch(["peers"], () => (calls.peers += 1));
  assert.deepEqual(calls, { rounds: 1, peers: 1 });
  for (let r = 20; r < 25; r += 1) store.news({ kind: "round", value: fixtures.row(run, r) as RoundRow });
  store.news({ kind: "head", value: fixtures.head(run, 25) });
  assert.deepEqual(calls, { rounds: 1, peers: 1 });
  picture();
  assert.deepEqual(calls, { rounds: 2, peers: 1 });
  assert.equal(store.state.rounds.round.at(-1), 24);
  end();
  store.change({ peers: [] });
  picture();
  assert.equal(calls.peers, 1);
});

test("the clock of a replay stands at its moment", () => {
  const { store } = storeOf();
  assert.equal(store.now(), 7);
  store.change({ mode: "replay" });
  assert.equal(store.now(), frame.head.at);
});

test("rows join the columns once, in order", () => {
  const row = fixtures.row(run, 20) as RoundRow;
  const more = withRow(frame.rounds, row);
  assert.equal(more.round.length, 21);
  assert.equal(more.to, 21);
  const again = withRow(more, { ...row, loss: 1 });
  assert.equal(again.round.length, 21);
  assert.equal(again.loss[20], 1);
  assert.equal(withRow(more, fixtures.row(run, 3) as RoundRow), more);
  const coarse = { ...more, stride: 10 };
  assert.equal(withRow(coarse, row), coarse, "an entry of ten rounds is not replaced by one");
  for (const column of Object.values(again)) if (Array.isArray(column)) assert.equal(column.length, 21);
});

test("a frame grown by news equals the frame that is asked for later", () => {
  let grown = frame;
  for (let r = 20; r < 30; r += 1) grown = { ...grown, ...fold(grown, { kind: "round", value: fixtures.row(run, r) }) };
  const later = fixtures.frame(run, 30) as Frame;
  assert.deepEqual(grown.rounds, later.rounds);
});

test("a moment shows nothing of its future", () => {
  const end = fixtures.frame(run, 50) as Frame;
  const then = atMoment(end, fixtures.moment(run, 20), 19);
  assert.equal(then.rounds.round.at(-1), 19);
  assert.ok(then.evaluations.every((e) => e.round <= 20) && then.evaluations.length > 0);
  assert.deepEqual(then.head, fixtures.head(run, 20));
  assert.equal(cutRounds(end.rounds, 99), end.rounds);
  assert.equal(cutRounds(end.rounds, -1).round.length, 0);
});

test("peers are replaced and ranked; timelines and lines are bounded and unique", () => {
  const [first, second] = frame.peers as [Peer, Peer];
  const ranked = withPeers(frame.peers, [{ ...second, tokens: first.tokens + 1 }]);
  assert.equal(ranked[0]?.node, second.node);
  assert.equal(ranked.length, frame.peers.length);
  let timelines: Timeline[] = [];
  for (let r = 0; r < 40; r += 1) timelines = withTimeline(timelines, fixtures.timeline(run, r));
  timelines = withTimeline(timelines, fixtures.timeline(run, 39));
  assert.deepEqual(timelines.map((t) => t.round), [28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39]);
  const newest = { ...(frame.lines[0] as Line), serial: 1e6 };
  const lines = withLine(frame.lines, newest);
  assert.equal(lines[0], newest);
  assert.equal(withLine(lines, newest), lines);
});

test("lines are sought by kind, word and age", () => {
  const troubles = sought(frame.lines, { kind: "trouble", limit: 5 });
  assert.ok(troubles.length > 0 && troubles.every((line) => line.kind === "trouble"));
  const middle = frame.lines[10] as Line;
  assert.ok(sought(frame.lines, { before: middle.serial }).every((line) => line.serial < middle.serial));
  assert.equal(sought(frame.lines, { q: "no such word" }).length, 0);
  assert.ok(sought(frame.lines, { q: "COMMITTED" }).length > 0);
});

test("addresses lead to pages; what is unknown leads to the overview", () => {
  assert.equal(addressOf("").page.path, "");
  assert.equal(addressOf("#/log/trouble").page.path, "log");
  assert.deepEqual(addressOf("#/peer/a3%2Ff").rest, ["a3/f"]);
  assert.deepEqual(addressOf("#/peer/%zz").rest, ["%zz"]);
  assert.equal(addressOf("#/nowhere").page.path, "");
  const known = (name: string): boolean => ["loss", "map"].includes(name);
  assert.deepEqual(embedded("map, loss,map,x", known), ["map", "loss"]);
  assert.deepEqual(embedded("x", known), ["loss"]);
});
