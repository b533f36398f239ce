"""Text of strangers in columns: inert, and as wide as it is counted.

Peers choose their names and reasons. Nothing of them may steer a terminal, hide or reorder what
stands beside them, or push a column out of its place.
"""

from __future__ import annotations

import unicodedata

from rich.cells import cell_len, chop_cells, set_cell_size

LONGEST = 4096
"""Characters of a text that are looked at: the rest of a name of 10 kB is nobody's news."""
MOST_MARKS = 2
"""Combining marks that one character keeps: enough for any script, too few to climb over lines."""
_SELECTORS = {chr(c) for c in (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))}
_BLANKS = "\u115f\u1160\u3164\uffa0\u2800"
"""Printable, and yet nothing to see."""
_LAST_FLAG = "\N{REGIONAL INDICATOR SYMBOL LETTER Z}"
_LAST_TONE = "\N{EMOJI MODIFIER FITZPATRICK TYPE-6}"
_ASCII = {
    **dict(zip("▁▂▃▄▅▆▇█", "_.-:=+*#", strict=True)),
    "░": ".",
    "▒": ":",
    "▓": "%",
    "·": "-",
    "…": "~",
    "●": "*",
    "○": "o",
    "×": "x",
    "→": ">",
    "━": "=",
    "─": "-",
    "│": "|",
    "┤": "|",
    "└": "+",
    "▲": "^",
    "▼": "v",
    "╸": "-",
    "▶": ">",
    "■": "#",
    "↑": "^",
    "↓": "v",
    "—": "-",
    "–": "-",
    "’": "'",
}


def inert(text: str) -> str:
    """One line without anything that a terminal obeys, hides or reorders.

    Control characters and line ends become spaces; zero-width and bidi characters go; so do
    combining marks beyond two on a character, and what changes a neighbour's width (emoji
    selectors, skin tones). Flags become their letters. Runs of spaces become one.
    """
    kept: list[str] = []
    marks = 0
    for char in unicodedata.normalize("NFC", text[:LONGEST]):
        if "\N{REGIONAL INDICATOR SYMBOL LETTER A}" <= char <= _LAST_FLAG:
            char = chr(ord("A") + ord(char) - 0x1F1E6)
        if _unseen(char):
            continue
        if _blank(char):
            kept.append(" ")
            continue
        marks = marks + 1 if not cell_len(char) else 0
        if marks > MOST_MARKS or (marks and (not kept or kept[-1] == " ")):
            continue
        kept.append(char)
    return " ".join("".join(kept).split())


def _unseen(char: str) -> bool:
    """Nothing is to be seen of it but what it does to others."""
    if "\N{EMOJI MODIFIER FITZPATRICK TYPE-1-2}" <= char <= _LAST_TONE:
        return True
    return unicodedata.category(char) in ("Cf", "Me") or char in _SELECTORS


def _blank(char: str) -> bool:
    return unicodedata.category(char)[0] in "CZ" or char in _BLANKS or not char.isprintable()


def fit(text: str, width: int) -> str:
    """An inert text in at most `width` cells; what is cut off is a `…`."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, max(0, width - 1)).rstrip() + "…" if width > 0 else ""


def left(text: str, width: int) -> str:
    """In exactly `width` cells, from the left."""
    cut = fit(text, width)
    return cut + " " * (width - cell_len(cut))


def right(text: str, width: int) -> str:
    """In exactly `width` cells, to the right."""
    cut = fit(text, width)
    return " " * (width - cell_len(cut)) + cut


def wrapped(text: str, width: int, most: int = 2) -> list[str]:
    """An inert text in at most `most` lines of `width` cells, broken between words."""
    lines: list[str] = []
    rest = text
    while rest and len(lines) < most - 1 and cell_len(rest) > width:
        head = chop_cells(rest, width)[0]
        cut = head.rfind(" ")
        head = head[:cut] if cut > width // 2 else head
        lines.append(head)
        rest = rest[len(head) :].lstrip()
    return [*lines, fit(rest, width)] if rest else lines


def ascii_only(text: str) -> str:
    """The same number of cells without a character that an ASCII terminal lacks."""
    if text.isascii():
        return text
    return "".join(c if c.isascii() else _ASCII.get(c, "?" * cell_len(c)) for c in text)
