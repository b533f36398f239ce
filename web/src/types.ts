/**
 * The JSON API of a run's window, version 1. The page, `farflung report` and other programs read
 * exactly this; docs/api.md says the same for people. Every text in it is already inert: control
 * and bidi characters are gone, names are cut to 64 characters. It is still text, never HTML.
 *
 * Times are unix seconds of the coordinator's wall clock; null means "not known".
 */

export type Number = number | null;

export type RunState =
  | "waiting" // no round yet
  | "running"
  | "paused" // the coordinator says why in `reason`
  | "finished"
  | "stopped"; // nobody serves the run now; what its log says

/** GET api/v1/head, and the SSE event `head` (at most four a second). */
export interface Head {
  version: 1;
  at: number; // of the newest thing in it
  run: string; // id
  name: string;
  descent: string; // what it began with; "" = fresh weights
  parameters: number;
  term: number;
  state: RunState;
  reason: string; // one sentence of the coordinator: why it is in this state, what ends it
  since: number; // when that state began
  started: Number; // the run's first round
  round: number; // newest open or resolved round; -1: none
  rounds: number; // committed
  rounds_wanted: number;
  abandoned: number;
  rejected: number; // contributions
  tokens: number; // committed
  tokens_wanted: Number;
  eta_s: Number;
  tokens_per_s: Number; // swarm, over the newest rounds
  tflops: Number; // swarm, model FLOPs (6N + 12LdT per token) / 1e12
  mfu: Number; // 0..1, over the peers whose device's peak is known
  utilisation: Number; // 0..1, computing over computing + waiting, newest rounds
  loss: Number; // newest round, nats per token
  bits_per_byte: Number; // newest evaluation
  peers_active: number;
  peers_seen: number; // ever admitted, trainers
  regions: number; // distinct declared regions of active peers
  bytes_up: number; // all peers, all rounds
  bytes_down: number;
  reduction: Number; // times fewer bytes than a bf16 ring all-reduce every step
  state_root: string; // hex
  agreements: number; // peers' state roots equal to the journal's
  disagreements: number;
  drift: { round: number; name: string }[]; // who reported another root; newest first, at most 8
  archived: number; // last round that an archive leads to; -1: none
  uploading: string;
  keeper_disk: string;
  settings: { [name: string]: string | number }; // steps a round, fragments, codec, preset, ...
  sources: { name: string; share: number; samples: number; epochs: number }[];
  map: boolean; // false: the host keeps regions to itself, and none are served
}

/**
 * GET api/v1/rounds?from=0&to=N&points=1000: columns of equal length, one entry per bucket of
 * `stride` rounds (1: every round). Open rounds are not in it.
 */
export interface Rounds {
  from: number;
  to: number; // exclusive
  stride: number;
  round: number[]; // last of its bucket
  at: Number[]; // when it was resolved
  loss: Number[]; // mean of the bucket
  loss_min: Number[];
  loss_max: Number[];
  lr: Number[]; // as a factor of the peak
  grad_norm: Number[]; // median of the peers
  tokens: number[]; // cumulative
  tokens_per_s: Number[];
  peers: number[]; // contributors
  took_s: Number[];
  utilisation: Number[];
  bytes_up: Number[]; // largest of a peer
  abandoned: number[]; // rounds of the bucket
}

/** SSE event `round`: one row of the columns, when a round is resolved. */
export interface RoundRow {
  round: number;
  at: Number;
  loss: Number;
  lr: Number;
  grad_norm: Number;
  tokens: number;
  tokens_per_s: Number;
  peers: number;
  took_s: Number;
  utilisation: Number;
  bytes_up: Number;
  abandoned: number;
}

/** GET api/v1/evaluations; SSE event `evaluation`: one of them. */
export interface Evaluation {
  round: number; // rounds in the measured state
  at: Number;
  bits_per_byte: number;
  nats_per_token: number;
  by: string;
  samples: { prompt: string; text: string }[];
}

export type PeerState = "joined" | "active" | "suspect" | "gone" | "away" | "out";

/**
 * GET api/v1/peers: all nodes ever admitted. SSE event `peers`: those that changed, at most once
 * a second, same shape. Rows are ordered by tokens, descending.
 */
export interface Peer {
  node: string; // id, hex
  name: string;
  role: "trainer" | "keeper" | "evaluator";
  state: PeerState;
  why: string; // of suspect, gone, out: the reason
  region: string; // key of Region, "" = not declared or map off
  device: string; // "H200", "Xeon, 2 threads"
  software: string; // "farflung 0.1.0"
  joined: Number;
  uptime_s: number; // of all its stays
  rounds: number; // contributed
  steps: number;
  samples: number; // credited
  tokens: number; // credited, committed
  share: number; // of all committed tokens, 0..1
  strikes: number; // rejected contributions, failed edges, accusations
  loss: Number;
  tokens_per_s: Number;
  mfu: Number;
  utilisation: Number;
  grad_norm: Number;
  memory_bytes: Number; // peak on the accelerator
  bytes_up: number;
  bytes_down: number;
  agrees: boolean | null; // newest state root against the journal's
}

/** GET api/v1/peers/NODE: one volunteer's own page. */
export interface PeerPage {
  peer: Peer;
  rank: number; // by tokens, from 1
  rounds: { round: number[]; loss: Number[]; tokens_per_s: Number[]; wait_s: Number[]; bytes_up: Number[] };
  stays: { from: number; to: Number; why: string }[];
  lines: Line[];
}

/** GET api/v1/regions: where declared regions are. */
export interface Region {
  key: string; // IATA code of the city's airport, "FRA"
  city: string;
  country: string; // ISO 3166 code
  lat: number;
  lon: number;
}

export type Phase =
  | "train" // inner steps
  | "wait" // for a plan, or for others
  | "encode"
  | "send" // contributions to owners
  | "reduce" // an owner: statistics and sum
  | "receive" // results
  | "vote" // store, step ahead, vote; until the commit
  | "merge"; // the commit is applied and landed

/**
 * GET api/v1/timeline?from=R&to=R&peers=64: what each peer did when. SSE event `timeline`: a round
 * that was resolved, or grew (at most twice a second). `spans` is flat: phase index into `phases`,
 * start and stop in seconds after `opened`.
 */
export interface Timeline {
  round: number;
  fragment: number;
  opened: number;
  resolved: Number;
  outcome: "open" | "committed" | "abandoned";
  attempts: number;
  phases: Phase[];
  peers: { node: string; name: string; spans: number[]; ready: Number; left_out: string }[];
  more: number; // peers left out of this answer; the slowest are kept
}

/**
 * GET api/v1/links; SSE event `links` (at most every two seconds). Sparse: only measured pairs.
 * `owners`: share of the newest attempt's slices.
 */
export interface Links {
  round: number;
  nodes: { node: string; name: string; region: string }[];
  pairs: {
    from: number; // index into nodes
    to: number;
    bytes_per_s: Number; // while it sent
    rtt_s: Number;
    loss: Number; // retransmitted share of segments, 0..1
    bytes: number; // in the newest round
    active: boolean; // moved bytes in the newest round
  }[];
  owners: { node: number; share: number }[];
  more: number; // nodes left out; the largest contributors are kept
}

export type LineKind = "round" | "peer" | "trouble" | "state" | "evaluation" | "note";

/** One readable sentence of the event log. GET api/v1/lines?before=SERIAL&limit=200&kind=trouble&q=word. SSE event `line`. */
export interface Line {
  serial: number;
  at: number;
  kind: LineKind;
  round: Number;
  name: string; // of the peer that it is about; ""
  text: string;
}

/** GET api/v1/frame: all that the first screen needs, in one answer. */
export interface Frame {
  head: Head;
  rounds: Rounds;
  evaluations: Evaluation[];
  peers: Peer[];
  peers_total?: number; // nodes ever admitted, where `peers` holds only some (a coordinator's answer)
  regions: Region[]; // the declared ones
  timelines: Timeline[]; // newest last, at most 6
  links: Links;
  lines: Line[]; // newest first, at most 200
}

/**
 * A replay (farflung report --html): `data/run.js` calls `farflung({...})` with this. Moments hold
 * what a slider needs at that time; the columns of `rounds` are cut by the page. Large pieces lie
 * in files of their own, `data/moment-017.js`, fetched as script elements when the slider gets
 * there, so that everything opens from a disk.
 */
export interface Replay {
  version: 1;
  frame: Frame; // the end
  moments: { round: number; at: number; file: string }[]; // at most 240, oldest first
}

/** `data/moment-NNN.js` calls `farflung_moment(NNN, {...})`. */
export interface Moment {
  head: Head;
  peers: Peer[];
  timelines: Timeline[];
  links: Links;
  lines: Line[]; // newest first, up to that time, at most 200
}
