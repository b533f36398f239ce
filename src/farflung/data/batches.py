"""Text on its way to the tokenizer: parts of bounded length, batches of parts.

What is cut where depends on the text alone, never on how it was read: so a batch has one identity,
and what was made of it can be kept by that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import msgspec

from farflung.data.split import Piece
from farflung.hashing import digest

PART_CHARS = 1 << 18
"""Longest text that a tokenizer gets. A longer piece is cut where a word ends."""
WINDOW_CHARS = 1 << 12
"""A cut moves at most this far to reach the end of a word."""
BATCH_CHARS = 1 << 20
"""Text handed to the tokenizer at a time: the unit of work, and of what a restart keeps."""

_WORD_END = re.compile(r"(?<=[^\W_])(?=[ \n])")


class TextPart(msgspec.Struct, frozen=True, array_like=True):
    text: str
    held_out: bool
    more: bool
    """The next part of its side goes on with this one: no end of text between them."""


class TextBatch(msgspec.Struct, frozen=True, array_like=True, tag="batch"):
    number: int
    key: bytes
    """BLAKE3 of `parts`."""
    parts: bytes
    """msgpack of a list of TextPart."""
    text_bytes: int
    """UTF-8 bytes of its text."""


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(list[TextPart])


def batches(pieces: Iterable[Piece]) -> Iterator[TextBatch]:
    """Every batch but the last has BATCH_CHARS characters or more, by at most one part."""
    waiting: list[TextPart] = []
    number = size = 0
    for part in parts(pieces):
        waiting.append(part)
        size += len(part.text)
        if size >= BATCH_CHARS:
            yield _batch(number, waiting)
            waiting, size, number = [], 0, number + 1
    if waiting:
        yield _batch(number, waiting)


def parts_of(batch: TextBatch) -> list[TextPart]:
    return _DECODER.decode(batch.parts)


def _batch(number: int, waiting: list[TextPart]) -> TextBatch:
    content = _ENCODER.encode(waiting)
    size = sum(len(p.text) if p.text.isascii() else len(p.text.encode("utf-8")) for p in waiting)
    return TextBatch(number, digest(content), content, size)


def parts(pieces: Iterable[Piece]) -> Iterator[TextPart]:
    """Pieces again, however they were divided, in parts of about PART_CHARS at most."""
    text, at = "", 0
    for piece in pieces:
        text, at = text[at:] + piece.text, 0
        spare = WINDOW_CHARS if piece.more else 0
        while len(text) - at > PART_CHARS + spare:
            cut = _cut(text, at)
            if cut == len(text):
                break
            yield TextPart(text[at:cut], piece.held_out, True)
            at = cut
        if not piece.more:
            yield TextPart(text[at:], piece.held_out, False)
            at = len(text)


def _cut(text: str, start: int) -> int:
    """Between a word and what follows, where no tokenizer of words sees a difference."""
    first, last = start + PART_CHARS, start + PART_CHARS + WINDOW_CHARS
    found = _WORD_END.search(text, first, last)
    if found is not None:
        return found.start()
    return len(text) if len(text) <= last else first
