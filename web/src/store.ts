/** The one store. Live news and replayed moments go into it; every view reads from it. */

import { fold, type News } from "./fold";
import type { Frame, Line, LineKind, Peer, PeerPage, Region, Rounds, Timeline } from "./types";

export type Mode = "live" | "replay";

/** How the page hangs on its source. */
export type Contact =
  | { state: "live" }
  | { state: "lost"; since: number; retry: number } // unix seconds of the next attempt
  | { state: "replay" };

/** What views may ask beyond the frame. A replay answers from what it has. */
export interface Source {
  rounds(from: number, to: number, points: number): Promise<Rounds>;
  /** Newest first, older than `before`. */
  lines(query: LineQuery): Promise<Line[]>;
  peer(node: string): Promise<PeerPage | null>;
  timeline(from: number, to: number, peers: number): Promise<Timeline[]>;
}

export interface LineQuery {
  before?: number;
  limit?: number;
  kind?: LineKind;
  q?: string;
}

/** The frame, and what the page knows besides. */
export interface State extends Frame {
  readonly mode: Mode;
  readonly contact: Contact;
  /** The part of the run that all charts show, in rounds; null: all of it. */
  readonly zoom: Zoom | null;
  /** Finer columns of the zoomed part, once they have come. */
  readonly detail: Rounds | null;
  readonly look: Look;
}

/** How this viewer wants the charts. */
export interface Look {
  readonly x: "round" | "tokens" | "time";
  readonly log: boolean;
  /** Weight of the past in the smoothed line, 0..0.99. */
  readonly smoothing: number;
}

export interface Zoom {
  readonly from: number;
  readonly to: number;
}

/** Names of what may change; `tick` comes once a second while the run is live, for ages. */
export type Topic = Exclude<keyof State, "mode"> | "tick";

type Listener = (state: State) => void;

export class Store {
  readonly source: Source;
  private current: State;
  private readonly listeners = new Map<Topic, Set<Listener>>();
  private readonly due = new Set<Topic>();
  private scheduled = false;
  /** Unix seconds, when the source was last heard. */
  heard: number;

  /** `later` runs a function soon, once per picture; `clock` gives unix seconds. */
  constructor(
    state: State,
    source: Source,
    private readonly later: (run: () => void) => void,
    private readonly clock: () => number,
  ) {
    this.current = state;
    this.source = source;
    this.heard = clock();
  }

  get state(): State {
    return this.current;
  }

  /** Unix seconds: the clock of a live run, the moment that a replay shows. */
  now(): number {
    return this.current.mode === "live" ? this.clock() : this.current.head.at;
  }

  peer(node: string): Peer | undefined {
    return this.current.peers.find((peer) => peer.node === node);
  }

  region(key: string): Region | undefined {
    return this.current.regions.find((region) => region.key === key);
  }

  /**
   * Calls `listener` now, and again after every change of one of `topics`: at most once per
   * picture, however many news came. Returns the function that ends it.
   */
  watch(topics: readonly Topic[], listener: Listener): () => void {
    for (const topic of topics) {
      const known = this.listeners.get(topic);
      if (known === undefined) this.listeners.set(topic, new Set([listener]));
      else known.add(listener);
    }
    listener(this.current);
    return () => {
      for (const topic of topics) this.listeners.get(topic)?.delete(listener);
    };
  }

  /** Changes parts of the state; views hear of it with the next picture. */
  change(parts: Partial<State>): void {
    this.current = { ...this.current, ...parts };
    for (const topic of Object.keys(parts) as Topic[]) this.due.add(topic);
    this.schedule();
  }

  news(news: News): void {
    this.heard = this.clock();
    this.change(fold(this.current, news));
  }

  tick(): void {
    this.due.add("tick");
    this.schedule();
  }

  private schedule(): void {
    if (this.scheduled) return;
    this.scheduled = true;
    this.later(() => {
      this.scheduled = false;
      this.deliver();
    });
  }

  private deliver(): void {
    const called = new Set<Listener>();
    for (const topic of this.due) {
      for (const listener of this.listeners.get(topic) ?? []) called.add(listener);
    }
    this.due.clear();
    for (const listener of called) listener(this.current);
  }
}
