"""A line of a screen: pieces of text with the name of a style each. Pure; colours come later."""

from __future__ import annotations

from collections.abc import Iterable

from rich.cells import cell_len, set_cell_size

Piece = tuple[str, str]
"""(text, one of STYLES)"""
ScreenLine = list[Piece]

STYLES = {
    "": "",
    "dim": "bright_black",
    "strong": "bold",
    "good": "green",
    "warn": "yellow",
    "bad": "red",
    "accent": "cyan",
    "name": "bold cyan",
    "train": "green",
    "wait": "bright_black",
    "encode": "bright_magenta",
    "send": "bright_blue",
    "reduce": "yellow",
    "receive": "cyan",
    "vote": "magenta",
    "merge": "bright_white",
}
"""Sixteen colours at most, which follow the terminal's own theme, light or dark."""


def plain(line: ScreenLine) -> str:
    return "".join(text for text, _ in line)


def cells(line: ScreenLine) -> int:
    """Columns that a terminal needs for it."""
    return sum(cell_len(text) for text, _ in line)


def cropped(line: ScreenLine, width: int) -> ScreenLine:
    """Its first `width` columns."""
    out: ScreenLine = []
    room = width
    for text, style in line:
        n = cell_len(text)
        if n > room:
            if room > 0:
                out.append((set_cell_size(text, room), style))
            return out
        out.append((text, style))
        room -= n
    return out


def spread(start: ScreenLine, end: ScreenLine, width: int) -> ScreenLine:
    """`start` at the left, `end` at the right edge; without `end` where there is no room."""
    gap = width - cells(start) - cells(end)
    return [*start, (" " * gap, ""), *end] if gap >= 2 else cropped(start, width)


def strung(parts: Iterable[str | Piece], between: str = " · ", style: str = "") -> ScreenLine:
    """Those that are not empty, with dots between them."""
    out: ScreenLine = []
    for part in parts:
        text, kind = (part, style) if isinstance(part, str) else part
        if not text:
            continue
        if out:
            out.append((between, "dim"))
        out.append((text, kind))
    return out


def strung_in(parts: Iterable[str | Piece], width: int, style: str = "") -> ScreenLine:
    """As many of the first parts as there is room for."""
    out: ScreenLine = []
    for part in parts:
        longer = [*out, *([(" · ", "dim")] if out else []), *strung([part], style=style)]
        if not strung([part]):
            continue
        if cells(longer) > width:
            break
        out = longer
    return out
