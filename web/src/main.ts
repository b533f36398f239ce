/** Finds the run, live or from files, and shows it. */

import "uplot/dist/uPlot.min.css";
import "./style.css";
import "./shell/shell.css";
import "./charts/chart.css";
import "./panels/panels.css";
import { followZoom } from "./charts/detail";
import { h, setText } from "./dom";
import { percent } from "./format";
import { Feed, firstFrame, liveStore, Reading } from "./live";
import { followSystem, keptLook } from "./look";
import { loadReplay, Player, replayStore } from "./replay";
import { replayBar } from "./shell/replaybar";
import { startEmbed, startShell } from "./shell/shell";
import type { Store } from "./store";
import type { Frame, Replay } from "./types";

const RETRY_S = 4;
const READING_S = 1;
const FONTS_MS = 400;

/** `replay` when this page is a file, or says so itself: a static export does. */
function wantsReplay(): boolean {
  const says = document.querySelector<HTMLMetaElement>('meta[name="farflung-source"]')?.content;
  return says === "replay" || (says !== "live" && location.protocol === "file:");
}

function show(store: Store, retry: () => void): HTMLElement | null {
  followSystem();
  followZoom(store);
  const embed = new URLSearchParams(location.search).get("embed");
  if (embed === null) return startShell(store, retry);
  startEmbed(store, embed);
  return null;
}

function showReplay(replay: Replay): void {
  const store = replayStore(replay, keptLook());
  const root = show(store, () => undefined);
  if (replay.moments.length > 1 && root !== null) {
    root.append(replayBar(new Player(replay, store), store));
    root.classList.add("replaying");
  }
}

function showLive(frame: Frame): void {
  const store = liveStore(frame, keptLook());
  const feed = new Feed(store);
  show(store, () => feed.retry());
  feed.start();
}

/** The fonts, or a moment's patience: text that is drawn before them would jump. */
async function fonts(): Promise<void> {
  const wanted = ['400 1rem "Inter"', '400 1rem "Source Serif"'].map((f) => document.fonts.load(f));
  const patience = new Promise((go) => setTimeout(go, FONTS_MS));
  await Promise.race([Promise.allSettled(wanted), patience]);
}

/** Words in the middle of an empty page: before the run is there. */
function waiting(): (title: string, text: string) => void {
  const strong = h("strong", {});
  const words = h("span", {});
  document.body.replaceChildren(h("main", { class: "empty opening", role: "status" }, strong, words));
  return (title, text) => {
    setText(strong, title);
    setText(words, text);
  };
}

async function start(): Promise<void> {
  const say = waiting();
  const ready = fonts();
  if (wantsReplay()) {
    try {
      const replay = await loadReplay();
      await ready;
      showReplay(replay);
    } catch {
      say("No run here.", "data/run.js beside this page cannot be read. Copy the whole folder of the report.");
    }
    return;
  }
  for (;;) {
    try {
      const frame = await firstFrame();
      await ready;
      if (frame !== null) showLive(frame);
      else showReplay(await loadReplay());
      return;
    } catch (error) {
      const reading = error instanceof Reading;
      if (reading) say(`Reading the run's log: ${percent(error.share)}`, error.message);
      else say("The run cannot be reached.", `Its host does not answer. Trying again every ${RETRY_S} seconds.`);
      await new Promise((go) => setTimeout(go, (reading ? READING_S : RETRY_S) * 1000));
    }
  }
}

void start();
