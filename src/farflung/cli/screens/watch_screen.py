"""One picture of `farflung watch`: exactly as many lines as the terminal is high. Pure."""

from __future__ import annotations

from farflung.cli.screens import parts
from farflung.cli.screens.charts import plotted
from farflung.cli.screens.frame import Json
from farflung.cli.screens.line import Piece, ScreenLine, cells, cropped, spread, strung_in
from farflung.cli.screens.numbers import fixed, short
from farflung.cli.screens.peers_table import GAP, Laid, heading, laid, peer_row
from farflung.cli.screens.round_bars import bars, caption, doing, drawn_round, legend
from farflung.cli.screens.terminal import Terminal
from farflung.cli.screens.text import fit, left, right
from farflung.words import counted

AXIS = 7
"""Columns in front of a curve."""
BAR_LEAST, BAR_MOST = 18, 64
QUIET_COLUMNS = ("samples", "device")
"""What does not change is for `status`."""
TWO_CURVES = 100
"""From this width on a second curve stands beside the loss."""


def watch_lines(
    frame: Json, terminal: Terminal, now: float, *, note: str = "", keys: str = "q quits"
) -> list[ScreenLine]:
    """`note`: what the viewer itself has to say (it cannot reach the host, ...)."""
    head, width = frame["head"], terminal.width
    top = [parts.title(head, terminal), *parts.standing(head, terminal, now)[:2]]
    top += [line for line in (parts.progress(head, width),) if line]
    top += [line for line in _facts(frame, width) if line]
    last = _footer(frame, terminal, note, keys)
    room = terminal.height - len(top) - 1
    curve_rows, peer_rows, line_rows = _shares(room, len(frame["peers"]), len(frame["lines"]))
    body = [
        *_curves(frame, terminal, curve_rows),
        *_peers(frame, terminal, peer_rows),
        *_news(frame, terminal, now, line_rows),
    ]
    body += [[("", "")]] * max(0, room - len(body))
    return [cropped(line, width) for line in (*top, *body[:room], last)]


def _shares(room: int, peers: int, lines: int) -> tuple[int, int, int]:
    """Rows of the curve, the peers and the log, each with the empty one above it."""
    log = min(lines + 1, max(4, room // 4)) if lines and room >= 12 else 0
    curve = max(5, min(16, (room - log) * 2 // 5)) if room - log >= 10 else 0
    table = min(peers + 2, room - log - curve)
    spare = room - log - curve - table
    more_curve = min(spare, 16 - curve) if curve else 0
    return curve + more_curve, table, log + (spare - more_curve if log else 0)


def _facts(frame: Json, width: int) -> list[ScreenLine]:
    head = frame["head"]
    score = frame["evaluations"][-1]["bits_per_byte"] if frame["evaluations"] else None
    first: list[str | Piece] = [
        (parts.rounds_text(head), "strong"),
        parts.tokens_text(head),
        f"loss {fixed(head['loss'], 3)}" if head["loss"] is not None else "",
        f"{fixed(score, 3)} bits per byte" if score is not None else "",
    ]
    lost = f"{head['abandoned']:,} abandoned" if head["abandoned"] else ""
    active = counted(head["peers_active"], "peer")
    second = [active, *parts.speed_parts(head), *parts.traffic(head), lost]
    return [strung_in(first, width), strung_in(second, width)]


# ---- curves --------------------------------------------------------------------------------


def _curves(frame: Json, terminal: Terminal, rows: int) -> list[ScreenLine]:
    if rows < 4:
        return []
    width, rounds = terminal.width, frame["rounds"]
    second = _second(frame)
    two = width >= TWO_CURVES and second is not None
    each = (width - 3) // 2 if two else width
    out = _curve("loss", rounds["loss"], each, rows - 1, terminal, 3)
    if two and second is not None:
        name, values, digits = second
        beside = _curve(name, values, width - each - 3, rows - 1, terminal, digits)
        out = [[*_filled(a, each), ("   ", ""), *b] for a, b in zip(out, beside, strict=True)]
    return [[("", "")], *out]


def _second(frame: Json) -> tuple[str, list[float | None], int] | None:
    scores = [e["bits_per_byte"] for e in frame["evaluations"]]
    if len(scores) > 2:
        return "bits per byte of held-out text", scores, 3
    speeds = frame["rounds"]["tokens_per_s"]
    return ("tokens/s", speeds, -1) if any(v is not None for v in speeds) else None


def _curve(
    name: str, values: list[float | None], width: int, rows: int, terminal: Terminal, digits: int
) -> list[ScreenLine]:
    """A name, and a curve of `rows - 1` lines with its range at the left."""
    drawn, low, high = plotted(values, width - AXIS - 2, rows - 1, braille=terminal.unicode)
    known = any(v is not None for v in values)

    def number(value: float) -> str:
        return short(value) if digits < 0 else f"{value:#.4g}"[:AXIS]

    out: list[ScreenLine] = [
        [(" " * (AXIS + 2), ""), (name if known else f"{name}: none yet", "dim")]
    ]
    for i, line in enumerate(drawn):
        label = number(high) if i == 0 else number(low) if i == len(drawn) - 1 else ""
        label = label if known else ""
        out.append(
            [(right(label, AXIS), "dim"), (" │" if known else "  ", "dim"), (line, "accent")]
        )
    return out


def _filled(line: ScreenLine, width: int) -> ScreenLine:
    return [*cropped(line, width), (" " * max(0, width - cells(line)), "")]


# ---- peers ---------------------------------------------------------------------------------


def _peers(frame: Json, terminal: Terminal, rows: int) -> list[ScreenLine]:
    """A row per peer: who takes part first, with what it did in the newest round."""
    if rows < 3 or not frame["peers"]:
        return []
    here = sorted(frame["peers"], key=lambda p: p["state"] not in ("active", "suspect"))
    shown = here[: rows - 2]
    more = frame["peers_total"] - len(shown)
    words = doing(frame)
    timeline = drawn_round(frame)
    least = max(BAR_LEAST, terminal.width * 3 // 10)
    reserve = least + len(GAP) if timeline is not None else 0
    plan = laid(
        shown, terminal.width, {p["node"]: words[p["node"]] for p in shown}, reserve=reserve
    )
    top, lines = heading(plan), [peer_row(p, words[p["node"]], plan) for p in shown]
    if timeline is not None:
        width = min(BAR_MOST, least + plan.spare)
        top = [*top, (GAP + left(caption(timeline), width), "dim")]
        drawn = bars(timeline, width, colour=terminal.colour)
        lines = [
            [*line, (GAP, ""), *drawn.get(p["node"], [])]
            for line, p in zip(lines, shown, strict=True)
        ]
    if more > 0:
        top = _with_more(top, more, terminal.width, plan, timeline is not None)
    return [[("", "")], top, *lines]


def _with_more(top: ScreenLine, more: int, width: int, plan: Laid, barred: bool) -> ScreenLine:
    """The heading says how many there is no room for."""
    text = f"peer (+{more:,})"
    if plan.name >= len(text):
        return [(left(text, plan.name) + top[0][0][plan.name :], "dim"), *top[1:]]
    return top if barred else spread(top, [(f"{more:,} more", "dim")], width)


# ---- the log, the last line ----------------------------------------------------------------


def _news(frame: Json, terminal: Terminal, now: float, rows: int) -> list[ScreenLine]:
    if rows < 2:
        return []
    return [[("", "")], *parts.news(frame["lines"][: rows - 1], terminal, now)]


def _footer(frame: Json, terminal: Terminal, note: str, keys: str) -> ScreenLine:
    end: ScreenLine = [(keys, "dim")]
    if note:
        return spread([(fit(note, terminal.width - len(keys) - 2), "warn")], end, terminal.width)
    timeline, room = drawn_round(frame), terminal.width - len(keys) - 2
    start = [] if timeline is None else legend(timeline, room, colour=terminal.colour)
    return spread(start, end, terminal.width)
