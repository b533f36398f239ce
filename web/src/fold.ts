/** How news become state: pure functions, the same for a live run and for a replay. */

import type {
  Evaluation,
  Frame,
  Head,
  Line,
  Links,
  Moment,
  Peer,
  RoundRow,
  Rounds,
  Timeline,
} from "./types";

/** One event of `api/v1/stream`. */
export type News =
  | { kind: "head"; value: Head }
  | { kind: "round"; value: RoundRow }
  | { kind: "evaluation"; value: Evaluation }
  | { kind: "peers"; value: Peer[] }
  | { kind: "timeline"; value: Timeline }
  | { kind: "links"; value: Links }
  | { kind: "line"; value: Line };

export const NEWS_KINDS = [
  "head",
  "round",
  "evaluation",
  "peers",
  "timeline",
  "links",
  "line",
] as const;

const KEPT_TIMELINES = 12;
const KEPT_LINES = 1000;

/** The parts of `frame` that `news` changes. */
export function fold(frame: Frame, news: News): Partial<Frame> {
  switch (news.kind) {
    case "head":
      return { head: news.value };
    case "round":
      return { rounds: withRow(frame.rounds, news.value) };
    case "evaluation":
      return { evaluations: withEvaluation(frame.evaluations, news.value) };
    case "peers":
      return { peers: withPeers(frame.peers, news.value) };
    case "timeline":
      return { timelines: withTimeline(frame.timelines, news.value) };
    case "links":
      return { links: news.value };
    case "line":
      return { lines: withLine(frame.lines, news.value) };
  }
}

/**
 * Columns with one more row. A row that is there already is replaced, or ignored where its entry
 * stands for several rounds; an older one is ignored.
 */
export function withRow(rounds: Rounds, row: RoundRow): Rounds {
  const last = rounds.round.at(-1) ?? -1;
  if (row.round < last || (row.round === last && rounds.stride > 1)) return rounds;
  const end = row.round === last ? rounds.round.length - 1 : rounds.round.length;
  const put = <T>(column: T[], value: T): T[] => [...column.slice(0, end), value];
  return {
    from: rounds.round.length === 0 ? row.round : rounds.from,
    to: row.round + 1,
    stride: rounds.stride,
    round: put(rounds.round, row.round),
    at: put(rounds.at, row.at),
    loss: put(rounds.loss, row.loss),
    loss_min: put(rounds.loss_min, row.loss),
    loss_max: put(rounds.loss_max, row.loss),
    lr: put(rounds.lr, row.lr),
    grad_norm: put(rounds.grad_norm, row.grad_norm),
    tokens: put(rounds.tokens, row.tokens),
    tokens_per_s: put(rounds.tokens_per_s, row.tokens_per_s),
    peers: put(rounds.peers, row.peers),
    took_s: put(rounds.took_s, row.took_s),
    utilisation: put(rounds.utilisation, row.utilisation),
    bytes_up: put(rounds.bytes_up, row.bytes_up),
    abandoned: put(rounds.abandoned, row.abandoned),
  };
}

/** The columns up to and including `round`. */
export function cutRounds(rounds: Rounds, round: number): Rounds {
  let n = rounds.round.length;
  while (n > 0 && (rounds.round[n - 1] ?? 0) > round) n -= 1;
  if (n === rounds.round.length) return rounds;
  const cut = <T>(column: T[]): T[] => column.slice(0, n);
  return {
    from: rounds.from,
    to: Math.min(rounds.to, round + 1),
    stride: rounds.stride,
    round: cut(rounds.round),
    at: cut(rounds.at),
    loss: cut(rounds.loss),
    loss_min: cut(rounds.loss_min),
    loss_max: cut(rounds.loss_max),
    lr: cut(rounds.lr),
    grad_norm: cut(rounds.grad_norm),
    tokens: cut(rounds.tokens),
    tokens_per_s: cut(rounds.tokens_per_s),
    peers: cut(rounds.peers),
    took_s: cut(rounds.took_s),
    utilisation: cut(rounds.utilisation),
    bytes_up: cut(rounds.bytes_up),
    abandoned: cut(rounds.abandoned),
  };
}

/** What the page shows when a replay stands at `moment`. */
export function atMoment(end: Frame, moment: Moment, round: number): Frame {
  return {
    ...end,
    head: moment.head,
    rounds: cutRounds(end.rounds, round),
    evaluations: end.evaluations.filter(
      (e) => e.round <= round + 1 && (e.at === null || e.at <= moment.head.at + 1),
    ),
    peers: moment.peers,
    timelines: moment.timelines,
    links: moment.links,
    lines: moment.lines,
  };
}

export function withEvaluation(known: Evaluation[], one: Evaluation): Evaluation[] {
  const others = known.filter((e) => e.round !== one.round || e.by !== one.by);
  return [...others, one].sort((a, b) => a.round - b.round);
}

export function withPeers(known: Peer[], changed: Peer[]): Peer[] {
  const by = new Map(known.map((peer) => [peer.node, peer]));
  for (const peer of changed) by.set(peer.node, peer);
  return [...by.values()].sort((a, b) => b.tokens - a.tokens || (a.name < b.name ? -1 : 1));
}

export function withTimeline(known: Timeline[], one: Timeline): Timeline[] {
  const others = known.filter((t) => t.round !== one.round);
  return [...others, one].sort((a, b) => a.round - b.round).slice(-KEPT_TIMELINES);
}

export function withLine(known: Line[], one: Line): Line[] {
  const newest = known[0];
  if (newest === undefined || one.serial > newest.serial) {
    return [one, ...known].slice(0, KEPT_LINES);
  }
  if (known.some((line) => line.serial === one.serial)) return known;
  return [...known, one].sort((a, b) => b.serial - a.serial).slice(0, KEPT_LINES);
}
