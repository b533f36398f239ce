"""Where the coordinator's journal stood when its process died: later it must begin the same."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from farflung.swarm.journal import HEADER

_PREFIX = struct.Struct("<II")


@dataclass(frozen=True, kw_only=True)
class Mark:
    """The whole frames of a journal file at one time."""

    at_s: float
    length: int
    """Bytes up to the end of the last whole frame."""
    digest: str
    torn: int
    """Bytes after it: a frame that was being written, never sent."""


def marked(path: Path, now_s: float) -> Mark:
    """The mark of a file as it is now; an absent one has length 0."""
    data = path.read_bytes() if path.exists() else b""
    length = whole_frames(data)
    return Mark(
        at_s=now_s,
        length=length,
        digest=blake3(data[:length]).hexdigest(),
        torn=len(data) - length,
    )


def whole_frames(data: bytes) -> int:
    """Bytes of the header and of the frames whose length fits the file."""
    if len(data) < len(HEADER):
        return 0
    at = len(HEADER)
    while at + _PREFIX.size <= len(data):
        length, _ = _PREFIX.unpack_from(data, at)
        if at + _PREFIX.size + length > len(data):
            break
        at += _PREFIX.size + length
    return at


def kept(data: bytes, mark: Mark) -> bool:
    """Whether a later journal file begins with what was marked."""
    return len(data) >= mark.length and blake3(data[: mark.length]).hexdigest() == mark.digest
