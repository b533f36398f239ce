"""Splits documents into training and held-out text, before any tokenizer sees them.

Held-out text is a set of contiguous blocks, spread evenly through the whole input: block k covers
the characters around (k + 1/2) * period, with period = block / fraction, moved to the next line
break. Blocks of text, not shuffled rows: neighbouring rows share sentences, so a shuffled row
would be judged by a model that has read the text on both sides of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from farflung.errors import ConfigError

BLOCK_CHARS = 4096
SNAP_CHARS = 512
"""A cut moves at most this far to reach a line break, else a space."""


@dataclass(frozen=True)
class Document:
    name: str
    text: str


@dataclass(frozen=True)
class Piece:
    """A contiguous part of one document that belongs to one side of the split."""

    text: str
    held_out: bool


def split(documents: Iterable[Document], fraction: float) -> Iterator[Piece]:
    """Pieces in input order; joined they are the input exactly. Reads one period ahead.

    An input shorter than one period (200 K characters for 0.02) gets one block of its own
    `fraction`. Raises ConfigError unless fraction is in [0, 0.5].
    """
    if not 0 <= fraction <= 0.5:
        raise ConfigError(f"held_out_fraction={fraction} must be in [0, 0.5]; try 0.02")
    if fraction == 0:
        yield from (Piece(d.text, False) for d in documents if d.text)
        return
    block, period = BLOCK_CHARS, round(BLOCK_CHARS / fraction)
    source = iter(documents)
    head, seen = [], 0
    for document in source:
        head.append(document)
        seen += len(document.text)
        if seen >= period:
            break
    if seen < period:
        block, period = round(seen * fraction), max(seen, 1)
    start = 0
    for document in _chain(head, source):
        yield from _cut(document.text, start, block, period)
        start += len(document.text)


def _chain(head: list[Document], rest: Iterator[Document]) -> Iterator[Document]:
    yield from head
    yield from rest


def _cut(text: str, start: int, block: int, period: int) -> Iterator[Piece]:
    """Pieces of one document whose first character is number `start` of the input."""
    first = (period - block) // 2
    done = 0
    for k in range(max(0, (start - first - block) // period), (start + len(text)) // period + 1):
        begin = first + k * period - start
        low = max(done, _snap(text, begin))
        high = max(low, _snap(text, begin + block))
        if low < high:
            if done < low:
                yield Piece(text[done:low], False)
            yield Piece(text[low:high], True)
            done = high
    if done < len(text):
        yield Piece(text[done:], False)


def _snap(text: str, position: int) -> int:
    """The nearest good place to cut at or after `position`, inside the text."""
    if position <= 0 or position >= len(text):
        return min(max(position, 0), len(text))
    for mark in ("\n", " "):
        at = text.find(mark, position - 1, position + SNAP_CHARS)
        if at >= 0:
            return at + 1
    return position
