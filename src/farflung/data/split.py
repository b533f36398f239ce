"""Splits documents into training and held-out text, before any tokenizer sees them.

Held-out text is a set of contiguous blocks, spread evenly through the whole input: block k covers
the characters around (k + 1/2) * period, with period = block / fraction, moved to the next line
break. Blocks of text, not shuffled rows: neighbouring rows share sentences, so a shuffled row
would be judged by a model that has read the text on both sides of it.

Documents may come in parts of any size: the cuts are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from farflung.errors import ConfigError

BLOCK_CHARS = 4096
SNAP_CHARS = 512
"""A cut moves at most this far to reach a line break, else a space."""
LEAST_FRACTION = 1e-5
"""One period is read ahead: 400 million characters for this fraction."""


@dataclass(frozen=True)
class Document:
    name: str
    text: str
    more: bool = False
    """The next document of the stream goes on with this one. The last part is never empty."""


@dataclass(frozen=True)
class Piece:
    """A contiguous part of one document that belongs to one side of the split."""

    text: str
    held_out: bool
    more: bool = False
    """The next piece of the stream goes on with this one: no end of text between them."""


def check_fraction(fraction: float) -> None:
    """ConfigError for a share of held-out text that cannot be kept."""
    if not (fraction == 0 or LEAST_FRACTION <= fraction <= 0.5):
        raise ConfigError(
            f"--held-out {fraction:g} must be 0 or from {LEAST_FRACTION:f} to 0.5; try 0.02"
        )


def split(documents: Iterable[Document], fraction: float) -> Iterator[Piece]:
    """Pieces in input order; joined they are the input exactly. Reads one period ahead.

    An input shorter than one period (200 K characters for 0.02) gets one block of its own
    `fraction`. Held-out pieces come whole. Raises ConfigError unless fraction is 0 or in
    [0.00001, 0.5].
    """
    check_fraction(fraction)
    if fraction == 0:
        yield from (Piece(d.text, False, d.more) for d in documents if d.text)
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
    start, cutter = 0, None
    for document in _chain(head, source):
        cutter = cutter or _Cutter(start, block, period)
        yield from cutter.feed(document.text, more=document.more)
        start += len(document.text)
        if not document.more:
            cutter = None


def _chain(head: list[Document], rest: Iterator[Document]) -> Iterator[Document]:
    head.reverse()
    while head:  # what was handed out is not kept
        yield head.pop()
    yield from rest


class _Cutter:
    """Cuts one document whose first character is number `start` of the input.

    Positions are those in the document: `_base` is that of the first character in `_text`,
    `_done` that of the first one not yet handed out.
    """

    def __init__(self, start: int, block: int, period: int) -> None:
        first = (period - block) // 2
        number = max(0, (start - first - block) // period)
        self._begin = first + number * period - start
        self._block = block
        self._period = period
        self._text = ""
        self._base = self._done = 0

    def feed(self, text: str, *, more: bool) -> Iterator[Piece]:
        self._text = self._text[self._done - self._base :] + text
        self._base = self._done
        end = self._base + len(self._text)
        while self._begin <= end:
            if more and self._begin + self._block + SNAP_CHARS > end:
                break
            low = max(self._done, self._snap(self._begin, end))
            high = max(low, self._snap(self._begin + self._block, end))
            if low < high:
                if self._done < low:
                    yield Piece(self._take(low), False)
                yield Piece(self._take(high), True)
            self._begin += self._period
        # What no cut can reach goes on; one character stays, to end the piece with.
        ready = min(self._begin - 1, end - 1) if more else end
        if ready > self._done:
            yield Piece(self._take(ready), False, more)

    def _take(self, until: int) -> str:
        taken = self._text[self._done - self._base : until - self._base]
        self._done = until
        return taken

    def _snap(self, position: int, end: int) -> int:
        """The nearest good place to cut at or after `position`, inside the document."""
        if position <= 0 or position >= end:
            return min(max(position, 0), end)
        local = max(0, position - 1 - self._base)
        for mark in ("\n", " "):
            at = self._text.find(mark, local, position + SNAP_CHARS - self._base)
            if at >= 0:
                return at + 1 + self._base
        return position
