"""What each peer did in a round, as a bar: a straggler is visible at a glance. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from farflung.cli.screens.frame import Json
from farflung.cli.screens.line import STYLES, ScreenLine, cells
from farflung.cli.screens.numbers import span
from farflung.cli.screens.peers_table import NOW

LETTERS = {
    "train": "t",
    "wait": ".",
    "encode": "e",
    "send": "s",
    "reduce": "r",
    "receive": "c",
    "vote": "v",
    "merge": "m",
}
"""Without colours."""
BLOCK = "━"


def doing(frame: Json) -> dict[str, str]:
    """What every node does now, in a word: from the newest round, as far as it is known."""
    words = {p["node"]: p["state"] for p in frame["peers"]}
    newest = frame["timelines"][-1] if frame["timelines"] else None
    if newest is None or newest["outcome"] != "open":
        return words
    for track in newest["peers"]:
        if words.get(track["node"]) == "active":
            words[track["node"]] = _doing(track, newest["phases"])
    return words


def _doing(track: Json, phases: list[str]) -> str:
    if track["left_out"]:
        return "left out"
    spans = track["spans"]
    if len(spans) >= 3:
        return NOW.get(_phase(phases, spans[-3]), "active")
    return "waiting" if track["ready"] is not None else "training"


def drawn_round(frame: Json) -> Json | None:
    """The newest of the rounds of which most is known: peers tell what they did when a round is
    over, one after the other."""

    def known(timeline: Json) -> int:
        return sum(len(track["spans"]) for track in timeline["peers"])

    best: Json | None = None
    for timeline in frame["timelines"]:
        if known(timeline) and (best is None or known(timeline) >= known(best)):
            best = timeline
    return best


def length_s(timeline: Json) -> float:
    stops = [s for track in timeline["peers"] for s in track["spans"][2::3]]
    return max(stops, default=0.0)


def bars(timeline: Json, width: int, *, colour: bool) -> Mapping[str, ScreenLine]:
    """A bar of `width` cells for each node of a round, all on one scale."""
    scale = width / (length_s(timeline) or 1.0)
    return {
        track["node"]: _bar(track["spans"], timeline["phases"], scale, width, colour)
        for track in timeline["peers"]
    }


def _bar(
    spans: list[float], phases: list[str], scale: float, width: int, colour: bool
) -> ScreenLine:
    """Each cell shows the phase that took most of it."""
    most = [0.0] * width
    shown = [""] * width
    for kind, start, stop in zip(spans[::3], spans[1::3], spans[2::3], strict=False):
        phase = _phase(phases, kind)
        low, high = max(0.0, start * scale), min(float(width), stop * scale)
        for x in range(int(low), min(width, int(high) + 1)):
            part = min(high, x + 1) - max(low, x)
            if part > most[x]:
                most[x], shown[x] = part, phase
    out: ScreenLine = []
    for phase in shown:
        char = " " if not phase else BLOCK if colour else LETTERS.get(phase, "?")
        style = phase if colour and phase in STYLES else ""
        if out and out[-1][1] == style:
            out[-1] = (out[-1][0] + char, style)
        else:
            out.append((char, style))
    return out


def legend(timeline: Json, width: int, *, colour: bool) -> ScreenLine:
    """`■ train ■ wait ...` of the phases that this round has, as far as there is room."""
    kinds = {_phase(timeline["phases"], k) for t in timeline["peers"] for k in t["spans"][::3]}
    out: ScreenLine = []
    for phase in LETTERS:
        if phase not in kinds:
            continue
        mark = "■" if colour else LETTERS[phase]
        item: ScreenLine = [(f"{mark} ", phase if colour else "strong"), (f"{phase} ", "dim")]
        if cells(out) + cells(item) > width:
            break
        out += item
    return out


def caption(timeline: Json) -> str:
    return f"round {timeline['round']:,}, {span(length_s(timeline))}"


def _phase(phases: list[str], index: float) -> str:
    at = int(index)
    return phases[at] if 0 <= at < len(phases) else ""
