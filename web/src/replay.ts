/** A finished run from files: `data/run.js`, and a moment of it at a time. */

import { atMoment } from "./fold";
import { Store, type LineQuery, type Look, type Source } from "./store";
import type { Frame, Line, Moment, PeerPage, Replay } from "./types";

declare global {
  interface Window {
    farflung?: (replay: Replay) => void;
    farflung_moment?: (index: number, moment: Moment) => void;
  }
}

function loadScript(src: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = src;
    script.onload = () => {
      script.remove();
      resolve();
    };
    script.onerror = () => reject(new Error(`${src} cannot be read`));
    document.head.append(script);
  });
}

export async function loadReplay(): Promise<Replay> {
  let found: Replay | null = null;
  window.farflung = (replay) => {
    found = replay;
  };
  await loadScript("data/run.js");
  if (found === null) throw new Error("data/run.js holds no run");
  return found;
}

/** Answers from the frame that is shown: there is nobody to ask for more. */
function sourceOf(shown: () => Frame): Source {
  return {
    rounds: () => Promise.resolve(shown().rounds),
    lines: (query: LineQuery) => Promise.resolve(sought(shown().lines, query)),
    timeline: (from, to) =>
      Promise.resolve(shown().timelines.filter((t) => t.round >= from && t.round <= to)),
    peer(node): Promise<PeerPage | null> {
      const { peers, lines } = shown();
      const peer = peers.find((p) => p.node === node);
      if (peer === undefined) return Promise.resolve(null);
      return Promise.resolve({
        peer,
        rank: peers.filter((p) => p.role === peer.role).indexOf(peer) + 1,
        rounds: { round: [], loss: [], tokens_per_s: [], wait_s: [], bytes_up: [] },
        stays: [],
        lines: lines.filter((line) => line.name === peer.name),
      });
    },
  };
}

export function sought(lines: readonly Line[], query: LineQuery): Line[] {
  const words = (query.q ?? "").toLowerCase();
  return lines
    .filter(
      (line) =>
        line.serial < (query.before ?? Infinity) &&
        (query.kind === undefined || line.kind === query.kind) &&
        `${line.text} ${line.name}`.toLowerCase().includes(words),
    )
    .slice(0, query.limit ?? 200);
}

export function replayStore(replay: Replay, look: Look): Store {
  const store: Store = new Store(
    {
      ...replay.frame,
      mode: "replay",
      contact: { state: "replay" },
      zoom: null,
      detail: null,
      look,
    },
    sourceOf(() => store.state),
    (run) => requestAnimationFrame(run),
    () => Date.now() / 1000,
  );
  return store;
}

const RUN_S = 24; // a whole run at speed 1

/** The slider's hand: where the replay stands, and how it goes on. */
export class Player {
  /** Stands after the last moment: the end. */
  index: number;
  playing = false;
  speed = 1;
  private timer = 0;
  private readonly known = new Map<number, Moment>();
  private wanted = -1;
  private readonly heard = new Set<() => void>();

  constructor(
    readonly replay: Replay,
    private readonly store: Store,
  ) {
    this.index = replay.moments.length - 1;
    window.farflung_moment = (index, moment) => this.known.set(index, moment);
  }

  get length(): number {
    return this.replay.moments.length;
  }

  onChange(listener: () => void): void {
    this.heard.add(listener);
  }

  /** Shows moment `index`, as soon as its file has come. A later wish overtakes an earlier one. */
  async go(index: number): Promise<void> {
    this.index = Math.min(Math.max(0, index), this.length - 1);
    this.wanted = this.index;
    this.tell();
    const target = this.index;
    const moment = await this.moment(target);
    if (this.wanted !== target || moment === undefined) return;
    const at = this.replay.moments[target];
    if (at === undefined) return;
    this.store.change(atMoment(this.replay.frame, moment, at.round));
    void this.moment(target + 1); // the next one will be there in time
  }

  play(on: boolean): void {
    this.playing = on;
    clearTimeout(this.timer);
    if (on) {
      if (this.index >= this.length - 1) void this.go(0);
      this.step();
    }
    this.tell();
  }

  faster(speed: number): void {
    this.speed = speed;
    this.tell();
  }

  private step(): void {
    const pause = Math.max(60, (RUN_S * 1000) / this.length / this.speed);
    this.timer = window.setTimeout(() => {
      void this.go(this.index + 1).then(() => {
        if (this.index >= this.length - 1) this.play(false);
        else if (this.playing) this.step();
      });
    }, pause);
  }

  private async moment(index: number): Promise<Moment | undefined> {
    const entry = this.replay.moments[index];
    if (entry === undefined) return undefined;
    if (!this.known.has(index)) {
      try {
        await loadScript(entry.file);
      } catch {
        return undefined;
      }
    }
    return this.known.get(index);
  }

  private tell(): void {
    for (const listener of this.heard) listener();
  }
}
