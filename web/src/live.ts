/** A live run: the API, its stream of events, and what happens when the line breaks. */

import { NEWS_KINDS, type News } from "./fold";
import { Store, type LineQuery, type Look, type Source } from "./store";
import type { Frame, Line, Peer, PeerPage, Region, Rounds, Timeline } from "./types";

const BASE = "api/v1/";
const FIRST_RETRY_S = 1;
const LAST_RETRY_S = 30;
const MOST_ENTRIES = 3000; // columns longer than this are asked for anew, down-sampled

/** The server is there and reads the run's log: how far it is, 0..1, and its sentence. */
export class Reading extends Error {
  constructor(readonly share: number, reason: string) {
    super(reason);
  }
}

async function ask<T>(path: string, query: { [name: string]: string | number | undefined } = {}) {
  const known = Object.entries(query).filter(([, value]) => value !== undefined && value !== "");
  const words = new URLSearchParams(known.map(([k, v]) => [k, String(v)]));
  const response = await fetch(`${BASE}${path}${known.length > 0 ? `?${words}` : ""}`);
  if (response.status === 404) return null;
  if (response.status === 503) {
    const told = (await response.json().catch(() => ({}))) as { reading?: number; reason?: string };
    if (typeof told.reading === "number") throw new Reading(told.reading, told.reason ?? "");
  }
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return (await response.json()) as T;
}

const source: Source = {
  async rounds(from, to, points) {
    const answer = await ask<Rounds>("rounds", { from, to, points });
    if (answer === null) throw new Error("rounds: 404");
    return answer;
  },
  async lines(query: LineQuery) {
    return (await ask<Line[]>("lines", { ...query })) ?? [];
  },
  peer: (node) => ask<PeerPage>(`peers/${encodeURIComponent(node)}`),
  async timeline(from, to, peers) {
    return (await ask<Timeline[]>("timeline", { from, to, peers })) ?? [];
  },
};

/** The first frame; null when this place has no API. Throws when it cannot be reached. */
export const firstFrame = (): Promise<Frame | null> => ask<Frame>("frame");

const clock = (): number => Date.now() / 1000;

export function liveStore(frame: Frame, look: Look): Store {
  return new Store(
    { ...frame, mode: "live", contact: { state: "live" }, zoom: null, detail: null, look },
    source,
    (run) => requestAnimationFrame(run),
    clock,
  );
}

/** Keeps `store` fed until the page closes: stream, reconnect with growing pauses, refetch. */
export class Feed {
  private stream: EventSource | null = null;
  private timer = 0;
  private pause = FIRST_RETRY_S;
  private lostAt: number | null = null;
  private refetching = false;
  private placing = false;
  /** News that came while a frame is on its way: they are newer than it, and wait. */
  private held: News[] | null = null;

  constructor(private readonly store: Store) {}

  start(): void {
    this.connect();
    setInterval(() => this.store.tick(), 1000);
    addEventListener("online", () => this.retry());
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden && this.lostAt !== null) this.retry();
    });
  }

  /** Tries at once when the line is broken. */
  retry(): void {
    if (this.lostAt === null) return;
    clearTimeout(this.timer);
    this.connect();
  }

  private connect(): void {
    this.stream?.close();
    const stream = new EventSource(`${BASE}stream`);
    this.stream = stream;
    stream.onopen = () => void this.opened();
    stream.onerror = () => this.broke();
    for (const kind of NEWS_KINDS) {
      stream.addEventListener(kind, (event) => {
        const value = JSON.parse((event as MessageEvent<string>).data) as never;
        this.take({ kind, value } as News);
      });
    }
  }

  private async opened(): Promise<void> {
    if (this.lostAt !== null) {
      this.held = [];
      try {
        const frame = await firstFrame();
        if (frame !== null) this.store.change(frame);
      } catch {
        this.held = null;
        this.broke();
        return;
      }
      const held = this.held;
      this.held = null;
      for (const news of held) this.take(news);
    }
    this.lostAt = null;
    this.pause = FIRST_RETRY_S;
    this.store.heard = clock();
    this.store.change({ contact: { state: "live" } });
  }

  private take(news: News): void {
    if (this.held !== null) {
      this.held.push(news);
      return;
    }
    this.store.news(news);
    if (news.kind === "round") this.thin();
    if (news.kind === "peers") this.place(news.value);
  }

  /** Somebody declared a region that nobody had declared before: asks where it is. */
  private place(peers: Peer[]): void {
    const unknown = peers.some((p) => p.region !== "" && this.store.region(p.region) === undefined);
    if (!unknown || this.placing) return;
    this.placing = true;
    ask<Region[]>("regions")
      .then((regions) => regions !== null && this.store.change({ regions }))
      .catch(() => undefined) // with the next news of peers
      .finally(() => {
        this.placing = false;
      });
  }

  private broke(): void {
    this.stream?.close();
    this.stream = null;
    this.lostAt ??= clock();
    const wait = this.pause * (0.8 + 0.4 * Math.random());
    this.pause = Math.min(LAST_RETRY_S, this.pause * 2);
    this.store.change({
      contact: { state: "lost", since: this.lostAt, retry: clock() + wait },
    });
    clearTimeout(this.timer);
    this.timer = window.setTimeout(() => this.connect(), wait * 1000);
  }

  private thin(): void {
    const { rounds } = this.store.state;
    if (rounds.round.length < MOST_ENTRIES || this.refetching) return;
    this.refetching = true;
    source
      .rounds(0, rounds.to, 1000)
      .then((thinner) => this.store.change({ rounds: thinner }))
      .catch(() => undefined)
      .finally(() => {
        this.refetching = false;
      });
  }
}
