"""Pieces that the screens of `status` and `watch` share. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from farflung.cli.screens.charts import bar, sparkline
from farflung.cli.screens.frame import Json
from farflung.cli.screens.line import (
    Piece,
    ScreenLine,
    cells,
    cropped,
    spread,
    strung_in,
)
from farflung.cli.screens.numbers import NONE, fixed, flops, parameters, percent, short, size, span
from farflung.cli.screens.terminal import Terminal
from farflung.cli.screens.text import fit, right, wrapped
from farflung.cli.waiting import of_run
from farflung.words import counted

LABEL = 10
"""Columns of what stands in front of a row."""
_MARKS = {
    "running": ("●", "good", "running"),
    "waiting": ("●", "warn", "waiting"),
    "paused": ("●", "warn", "paused"),
    "finished": ("●", "accent", "complete"),
    "stopped": ("○", "bad", "not running"),
}
_NEWS = {"trouble": "bad", "peer": "accent", "state": "warn", "evaluation": "good"}
_AGE = 8


def title(head: Json, terminal: Terminal) -> ScreenLine:
    """The run's name at the left, its state at the right."""
    mark, style, word = _MARKS.get(head["state"], ("●", "warn", head["state"] or NONE))
    state: ScreenLine = [(f"{mark} ", style), (word, style)]
    room = terminal.width - cells(state) - 2
    name: ScreenLine = [(fit(head["name"] or NONE, max(12, room - 20)), "name")]
    if cells(name) + 3 + len(head["run"]) <= room and head["run"]:
        name.append((f" ({head['run']})", "dim"))
    about = [parameters(head["parameters"]), f"term {head['term']}" if head["term"] > 1 else ""]
    rest = strung_in([a for a in about if a], room - cells(name) - 3, "dim")
    if rest:
        name += [("   ", ""), *rest]
    return spread(name, state, terminal.width)


def standing(head: Json, terminal: Terminal, now: float) -> list[ScreenLine]:
    """Why the run is in its state, since when, what ends it and who must act."""
    text = of_run(head["state"], head["reason"], head["uploading"], head["since"], now)
    style = "warn" if head["state"] in ("waiting", "paused") else "dim"
    return [[(line, style)] for line in wrapped(text, terminal.sentence_width, 4) if line]


def progress(head: Json, width: int) -> ScreenLine:
    """A bar over the whole width, the share that is done, and the time left."""
    share = _share(head)
    if share is None:
        return []
    eta = (
        ""
        if head["eta_s"] is None or head["state"] != "running"
        else f"   eta {span(head['eta_s'])}"
    )
    text = f" {percent(share, 1 if share < 0.1 else 0)}{eta}"
    done, left_ = bar(share, max(10, width - len(text)))
    return [(done, "accent"), (left_, "dim"), (text, "")]


def _share(head: Json) -> float | None:
    if head["tokens_wanted"]:
        return float(head["tokens"] / head["tokens_wanted"])
    return float(head["rounds"] / head["rounds_wanted"]) if head["rounds_wanted"] else None


def rounds_text(head: Json) -> str:
    of = f" of {head['rounds_wanted']:,}" if head["rounds_wanted"] else ""
    return f"round {head['rounds']:,}{of}"


def tokens_text(head: Json) -> str:
    of = f" of {short(head['tokens_wanted'])}" if head["tokens_wanted"] else ""
    return f"{short(head['tokens'])}{of} tokens"


def speed_parts(head: Json) -> list[str]:
    """Of the swarm, as far as it is known; what matters most first."""
    return [
        f"{short(head['tokens_per_s'])} tok/s" if head["tokens_per_s"] else "",
        f"MFU {percent(head['mfu'])}" if head["mfu"] else "",
        f"{percent(head['utilisation'])} computing" if head["utilisation"] is not None else "",
        flops(head["tflops"]) if head["tflops"] else "",
    ]


def loss_line(frame: Json, width: int) -> ScreenLine:
    """The newest loss, and how it came there."""
    loss, curve = frame["head"]["loss"], frame["rounds"]["loss"]
    if loss is None:
        return []
    known = [v for v in curve if v is not None]
    drawn = sparkline(curve, max(8, min(40, width - 32))) if len(known) > 1 else ""
    start: ScreenLine = [(fixed(loss, 4), "strong"), (" nats per token", "dim")]
    return cropped([*start, ("   ", ""), (drawn, "accent")] if drawn else start, width)


def held_out(frame: Json) -> list[str]:
    scores = frame["evaluations"]
    if not scores:
        return []
    last = scores[-1]
    by = [f"by {last['by']}"] if last["by"] else []
    rounds = counted(last["round"], "round")
    return [f"{fixed(last['bits_per_byte'], 3)} bits per byte after {rounds}", *by]


def traffic(head: Json) -> list[str]:
    saved = head["reduction"]
    moved = f"up {size(head['bytes_up'])}, down {size(head['bytes_down'])}"
    known = head["bytes_up"] or head["bytes_down"]
    return [moved if known else "", f"{short(saved)}× less than data-parallel" if saved else ""]


def agreement(head: Json) -> list[Piece]:
    """Whether all peers hold the same weights."""
    if head["disagreements"]:
        named = ", ".join(str(d.get("name", "")) for d in head["drift"] if isinstance(d, dict))
        text = f"{counted(head['disagreements'], 'report')} of other weights"
        return [(text + (f": {named}" if named else ""), "bad")]
    if not head["state_root"]:
        return []
    told = f"{short(head['agreements'])} reports agree" if head["agreements"] else ""
    return [(head["state_root"][:16], ""), (told, "good")]


def labelled(label: str, line: ScreenLine, width: int) -> list[ScreenLine]:
    """A row of facts with its name in front; nothing when there are none."""
    if not line:
        return []
    return [cropped([(label.ljust(LABEL), "dim"), *line], width)]


def news(
    lines: Sequence[Json], terminal: Terminal, now: float, *, rows: int = 1
) -> list[ScreenLine]:
    """Lines of the log with their age; each at most `rows` high."""
    out: list[ScreenLine] = []
    for line in lines:
        age = "" if line["at"] is None else span(now - line["at"])
        style = _NEWS.get(line["kind"], "")
        start = right(age, _AGE) + "  "
        texts = wrapped(line["text"], max(20, terminal.sentence_width - len(start)), rows)
        for i, text in enumerate(texts):
            out.append([(start if i == 0 else " " * len(start), "dim"), (text, style)])
    return out
