/** A volunteer's own page: who it is, what it gave, how it goes. Made to be shared. */

import { h, setText } from "../dom";
import { NONE, age, brief, bytes, clock, count, counted, date, duration, figure, percent, short } from "../format";
import type { State } from "../store";
import type { Peer, PeerPage } from "../types";
import type { Place, View } from "../view";
import { STATE_TONE, STATE_WORDS, nameOf, oncePerPicture, placeName, shareOf } from "./kit";
import { Curves } from "./peer-curves";
import { miniMap } from "./peer-map";
import { strip } from "./peer-stays";
import { ordinal, ranked } from "./ranking";
import "./kit.css";
import "./peers.css";
import "./peer.css";

const AGAIN_S = 15; // seconds before its curves are asked for again

export const peer: View = {
  title: "Peer",
  mount(el, place) {
    const page = new OwnPage(el, place);
    const end = place.store.watch(["peers", "regions", "head", "tick"], (state) => page.take(state));
    return () => {
      end();
      page.stop();
    };
  },
};

class OwnPage {
  private readonly node: string;
  private readonly hero = h("div", { class: "peer-hero" });
  private readonly facts = h("dl", { class: "peer-facts" });
  private readonly side = h("aside", { class: "peer-side" });
  private readonly curves: Curves;
  private readonly stays = h("section", { class: "peer-section" });
  private readonly lines = h("section", { class: "peer-section" });
  private readonly redraw = oncePerPicture(() => this.draw());
  private page: PeerPage | null = null;
  private asking = false;
  private asked = -Infinity;
  private stopped = false;
  private sideKey = "";
  private said = "";

  constructor(private readonly el: HTMLElement, private readonly place: Place) {
    this.node = place.rest[0] ?? "";
    this.curves = new Curves();
    el.classList.add("peer");
    place.tools.append(h("a", { class: "button", href: "#/peers" }, "All peers"), this.copyButton(), this.printButton());
  }

  stop(): void {
    this.stopped = true;
    this.redraw.cancel();
    this.curves.stop();
  }

  take(state: State): void {
    const moment = state.head.at;
    const replay = state.mode === "replay";
    if (!state.peers.some(({ node }) => node === this.node)) return this.redraw();
    if (!this.asking && (replay ? moment !== this.asked : moment - this.asked >= AGAIN_S)) void this.ask(moment);
    this.redraw();
  }

  private async ask(moment: number): Promise<void> {
    this.asking = true;
    this.asked = moment;
    try {
      this.page = (await this.place.store.source.peer(this.node)) ?? this.page;
    } catch {
      // the source is lost for a while: what is known stays
    }
    this.asking = false;
    if (!this.stopped) this.redraw();
  }

  private draw(): void {
    const { state } = this.place.store;
    const known = state.peers.find(({ node }) => node === this.node) ?? this.page?.peer;
    if (!known) return this.nobody(state);
    if (!this.hero.isConnected) {
      const top = h("div", { class: "peer-top" }, h("div", {}, this.hero, this.facts), this.side);
      this.el.replaceChildren(top, this.curves.element, this.stays, this.lines);
    }
    const key = JSON.stringify([known, this.page?.rank, state.head.name, state.peers.length]);
    if (key !== this.said) {
      this.said = key;
      this.drawHero(known, state);
      this.drawFacts(known);
    }
    this.drawSide(known, state);
    this.curves.set(this.page?.rounds ?? null, state.mode === "replay");
    this.drawStays(state);
    this.drawLines();
  }

  private nobody(state: State): void {
        this.el.replaceChildren(
      h(
        "div",
        { class: "empty" },
        h("strong", {}, "No such peer here"),
        h("span", {}, `${brief(this.node, 16) || "Nobody"} has not joined ${state.head.name || "this run"}, or not yet at this moment.`),
      ),
    );
  }

  private drawHero(known: Peer, state: State): void {
    const rows = ranked(state.peers);
    const rank = this.page?.rank ?? rows.find(({ peer }) => peer.node === known.node)?.rank ?? 0;
    const trainers = rows.filter((row) => row.rank > 0).length;
    const tone = STATE_TONE[known.state];
    const word = STATE_WORDS[known.state];
    const medal = rank > 0 && rank <= 3 ? ` peers-medal peers-medal-${rank}` : "";
    const place = known.tokens > 0 && rank > 0
      ? h("span", { class: "peer-rank" }, h("span", { class: `peer-number num${medal}` }, ordinal(rank)), ` of ${count(trainers)}`)
      : null;
    this.place.note("");
    this.hero.replaceChildren(
      h("div", { class: "peer-line" }, h("span", { class: `pill ${tone === "idle" ? "" : tone}` }, word), place),
      h("p", { class: "peer-name", title: nameOf(known) }, nameOf(known)),
      h("p", { class: "peer-sentence" }, sentence(known, state)),
      ...(known.why ? [h("p", { class: "peer-why" }, known.why)] : []),
      ...(known.agrees === false
        ? [h("p", { class: "peer-why bad" }, "Its newest state is not the run's: its state root differs from the journal's.")]
        : []),
    );
  }

  private drawFacts(known: Peer): void {
    const facts: [string, string, string][] = [
      ["Tokens", short(known.tokens), `${count(known.tokens)} committed tokens`],
      ["Share", shareOf(known.share), "of all committed tokens"],
      ["Rounds", count(known.rounds), `${count(known.steps)} steps, ${count(known.samples)} samples`],
      ["Here for", duration(known.uptime_s), "length of all its stays"],
      ["Tokens/s", short(known.tokens_per_s), "newest round"],
      ["MFU", percent(known.mfu), "model FLOPs utilisation"],
      ["Computing", percent(known.utilisation), "computing over computing and waiting"],
      ["Loss", figure(known.loss), "nats per token, newest round"],
      ["Sent", bytes(known.bytes_up), "all rounds"],
      ["Received", bytes(known.bytes_down), "all rounds"],
    ];
    if (known.memory_bytes !== null) facts.push(["Memory", bytes(known.memory_bytes), "peak on the accelerator"]);
    if (known.strikes > 0) facts.push(["Strikes", count(known.strikes), "rejected contributions, failed links, accusations"]);
    this.facts.replaceChildren(
      ...facts
        .filter(([, value]) => value !== NONE)
        .map(([name, value, title]) => h("div", { title }, h("dt", {}, name), h("dd", { class: "num" }, value))),
    );
  }

  private drawSide(known: Peer, state: State): void {
    const region = state.head.map ? state.regions.find(({ key }) => key === known.region) : undefined;
    const key = [region?.key, known.device, known.software, known.joined, known.role].join(" ");
    if (key === this.sideKey) return;
    this.sideKey = key;
    const where = region ? placeName(region) : state.head.map ? "did not say where" : "kept private by the host";
    const row = (name: string, value: string): Node[] =>
      value ? [h("dt", {}, name), h("dd", { title: value }, value)] : [];
    this.side.replaceChildren(
      ...(region ? [miniMap(region)] : []),
      h(
        "dl",
        { class: "peer-about" },
        ...row("Place", where),
        ...row("Device", known.device),
        ...row("Role", known.role === "trainer" ? "" : known.role),
        ...row("Joined", known.joined === null ? "" : date(known.joined)),
        ...row("Software", known.software),
        h("dt", {}, "Identity"),
        h("dd", { class: "mono peer-node", title: known.node }, known.node),
      ),
    );
  }

  private drawStays(state: State): void {
    const stays = this.page?.stays ?? [];
    this.stays.hidden = stays.length === 0;
    if (stays.length === 0) return;
    const now = this.place.store.now();
    const begin = state.head.started ?? stays[0]!.from;
    const rows = [...stays].reverse().slice(0, 12).map(({ from, to, why }) =>
      h(
        "li",
        {},
        h("span", { class: "num" }, date(from)),
        h("span", { class: "num" }, duration((to ?? now) - from)),
        h("span", { class: "muted" }, to === null ? "still here" : why || "left"),
      ),
    );
    const rest = stays.length - 12;
    this.stays.replaceChildren(
      h("h3", {}, "Stays", h("span", { class: "panel-note" }, counted(stays.length, "stay"))),
      strip(stays, Math.min(begin, stays[0]!.from), now),
      h("ol", { class: "peer-stays" }, ...rows),
      ...(rest > 0 ? [h("p", { class: "muted view-foot" }, `and ${counted(rest, "earlier stay")}`)] : []),
    );
  }

  private drawLines(): void {
    const lines = this.page?.lines ?? [];
    this.lines.hidden = lines.length === 0;
    const now = this.place.store.now();
    this.lines.replaceChildren(
      h("h3", {}, "Log"),
      h(
        "ol",
        { class: "peer-log" },
        ...lines.slice(0, 40).map((line) =>
          h("li", { class: line.kind === "trouble" ? "bad" : null }, h("time", { class: "num muted", title: `${date(line.at)}, ${clock(line.at)}` }, age(line.at, now)), h("span", {}, line.text)),
        ),
      ),
    );
  }

  // ---- sharing ----

  private copyButton(): HTMLElement {
    const button = h("button", { type: "button", class: "button peer-copy" }, "Copy link");
    const told = h("span", { class: "hidden-visually", "aria-live": "polite" });
    button.addEventListener("click", () => {
      void copied(location.href).then((done) => {
        setText(button, done ? "Copied" : "Copy it from here:");
        setText(told, done ? "The link is copied." : "");
        if (!done) this.offerAddress(button);
        setTimeout(() => setText(button, "Copy link"), 2500);
      });
    });
    return h("span", {}, button, told);
  }

  /** Where a page may not write to the clipboard: the address, selected. */
  private offerAddress(button: HTMLElement): void {
    const field = h("input", { class: "field", readonly: true, value: location.href, "aria-label": "Address of this page" });
    button.after(field);
    field.select();
    field.addEventListener("blur", () => field.remove());
  }

  private printButton(): HTMLElement {
    return h("button", { type: "button", class: "button peer-print", onclick: () => print() }, "Print");
  }
}

async function copied(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}

/** What it did, as one would tell it. */
export function sentence(known: Peer, state: State): string {
  const run = state.head.name || "this run";
  if (known.role === "keeper") return `Keeps the state of ${run} and hands it to whoever joins.`;
  if (known.role === "evaluator") return `Measures ${run} on held-out text and takes part in no round.`;
  if (known.tokens <= 0) return `Has joined ${run}; nothing of its work is committed yet.`;
  const rounds = counted(known.rounds, "round");
  return `Trained ${short(known.tokens)} tokens of ${run} in ${rounds} over ${duration(known.uptime_s)}: ${shareOf(known.share)} of everything so far.`;
}
