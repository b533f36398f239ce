"""The table of peers: as many columns as there is room for. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len

from farflung.cli.screens.frame import Json
from farflung.cli.screens.line import ScreenLine
from farflung.cli.screens.numbers import NONE, fixed, percent, short, size
from farflung.cli.screens.text import left, right

GAP = "  "
NAME_LEAST, NAME_MOST = 8, 28
STATES = {
    "active": ("●", "good"),
    "joined": ("○", "accent"),
    "suspect": ("●", "warn"),
    "gone": ("○", "bad"),
    "away": ("○", "dim"),
    "out": ("○", "bad"),
}
"""Of a peer: (mark, style)."""
NOW = {
    "train": "training",
    "wait": "waiting",
    "encode": "encoding",
    "send": "sending",
    "reduce": "reducing",
    "receive": "receiving",
    "vote": "voting",
    "merge": "merging",
}
"""What a peer does, by the phase it is in."""


@dataclass(frozen=True, kw_only=True)
class Column:
    head: str
    text: Callable[[Json], str]
    rank: int
    """The highest goes first where the room is short."""
    words: bool = False
    """To the left; numbers go to the right."""
    always: bool = False
    """Shown although nothing is known of it."""


COLUMNS = (
    Column(head="rounds", text=lambda p: _rounds(p), rank=3, always=True),
    Column(head="tokens", text=lambda p: short(p["tokens"]) if p["tokens"] else NONE, rank=2),
    Column(head="samples", text=lambda p: f"{p['samples']:,}", rank=12),
    Column(head="share", text=lambda p: percent(p["share"]) if p["share"] else NONE, rank=5),
    Column(head="tok/s", text=lambda p: short(p["tokens_per_s"]), rank=1),
    Column(head="loss", text=lambda p: fixed(p["loss"], 3), rank=4),
    Column(head="busy", text=lambda p: percent(p["utilisation"]), rank=9),
    Column(head="MFU", text=lambda p: percent(p["mfu"]), rank=8),
    Column(head="up", text=lambda p: size(p["bytes_up"]) if p["bytes_up"] else NONE, rank=6),
    Column(head="down", text=lambda p: size(p["bytes_down"]) if p["bytes_down"] else NONE, rank=7),
    Column(head="device", text=lambda p: p["device"] or NONE, rank=11, words=True),
)


@dataclass(frozen=True, kw_only=True)
class Laid:
    """Columns and their widths for some peers."""

    name: int
    state: int
    columns: tuple[tuple[Column, int], ...]
    spare: int
    """Cells that are left at the right."""


def laid(peers: Sequence[Json], width: int, words: Mapping[str, str], *, reserve: int = 0) -> Laid:
    """What fits in `width` with `reserve` cells left for something else; `words`: the state of
    each node."""
    columns = [(c, _natural(c, peers)) for c in COLUMNS if c.always or _known(c, peers)]
    name = max([cell_len(_label(p)) for p in peers] + [len("peer")])
    state = max([len(w) for w in words.values()] + [len("state")]) + 2
    fixed_ = state + len(GAP) + reserve

    def spare() -> int:
        taken = sum(w + len(GAP) for _, w in columns)
        return width - fixed_ - taken

    while columns and spare() < max(NAME_LEAST, min(name, 14)):
        columns.remove(max(columns, key=lambda c: c[0].rank))
    shown = max(NAME_LEAST, min(name, NAME_MOST, spare()))
    return Laid(name=shown, state=state, columns=tuple(columns), spare=max(0, spare() - shown))


def heading(plan: Laid) -> ScreenLine:
    row = [left("peer", plan.name), left("state", plan.state)]
    row += [_cell(c, c.head, w) for c, w in plan.columns]
    return [(GAP.join(row), "dim")]


def peer_row(peer: Json, word: str, plan: Laid) -> ScreenLine:
    mark, style = STATES.get(peer["state"], ("○", "dim"))
    quiet = peer["state"] not in ("active", "suspect")
    row: ScreenLine = [
        (left(_label(peer), plan.name), "dim" if quiet else ""),
        (GAP, ""),
        (f"{mark} ", style),
        (left(word, plan.state - 2), "dim" if quiet else ""),
    ]
    for column, width in plan.columns:
        text = _cell(column, column.text(peer), width)
        row += [(GAP, ""), (text, "dim" if quiet or text.strip() == NONE else "")]
    return row


def _rounds(peer: Json) -> str:
    return f"{peer['rounds']:,}" if peer["rounds"] or peer["role"] == "trainer" else NONE


def _label(peer: Json) -> str:
    """Its name, and what it is for where that is not what everybody is for."""
    name, role = peer["name"] or peer["node"][:8], peer["role"]
    return name if role in ("trainer", name) else f"{name} ({role})"


def _cell(column: Column, text: str, width: int) -> str:
    return left(text, width) if column.words else right(text, width)


def _natural(column: Column, peers: Sequence[Json]) -> int:
    widest = max([cell_len(column.text(p)) for p in peers] + [len(column.head)])
    return min(widest, 26)


def _known(column: Column, peers: Sequence[Json]) -> bool:
    return any(column.text(p) not in (NONE, "0") for p in peers)
