"""The file of an inner optimizer's state, which trainer, agent and peers exchange. No torch.

    u32     length of the header, little-endian
    header  JSON of `Header`, padded with spaces to a multiple of 4
    body    little-endian float32: for each entry its slots, each as long as its parameter

A slot is a tensor of the parameter's shape (AdamW: exp_avg, exp_avg_sq; Muon: momentum_buffer), a
scalar a 0-d tensor (AdamW: step). All sizes follow from the header's names and the run's layout,
never from a length that somebody claims.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import msgspec
import numpy as np

from farflung.errors import CorruptState

STATE_VERSION = 1
HEADER_CAP = 1 << 20
MAX_SLOTS = 4
MAX_SCALARS = 4
_LENGTH = struct.Struct("<I")


class StateEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """State of one parameter."""

    parameter: int
    """Its place in the run's layout."""
    slots: tuple[str, ...]
    scalars: tuple[tuple[str, float], ...] = ()


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: int
    kind: str
    """Which optimizer it is; another kind cannot load it."""
    round: int
    """The last round that it was trained for; -1: none."""
    entries: tuple[StateEntry, ...]
    """In the order of the layout."""


def encode_header(header: Header) -> bytes:
    """Length and padded header; the body follows. Raises CorruptState above the cap."""
    text = msgspec.json.encode(header)
    text += b" " * (-len(text) % 4)
    if len(text) > HEADER_CAP:
        raise CorruptState(f"the inner state's header of {len(text)} bytes exceeds {HEADER_CAP}")
    return _LENGTH.pack(len(text)) + text


def most_bytes(sizes: Sequence[int]) -> int:
    """No valid file of a layout with these parameter sizes (elements) is longer."""
    return _LENGTH.size + HEADER_CAP + 4 * MAX_SLOTS * sum(sizes)


def read_header(data: bytes, sizes: Sequence[int]) -> tuple[Header, int, int]:
    """(header, offset of the body, bytes of the whole file) from the file's first bytes.

    `sizes`: elements of each parameter of the layout. Raises CorruptState.
    """
    if len(data) < _LENGTH.size:
        raise CorruptState("the inner state has no header")
    (length,) = _LENGTH.unpack_from(data)
    start = _LENGTH.size + length
    if length > HEADER_CAP or length % 4 or len(data) < start:
        raise CorruptState("the inner state's header is cut or too long")
    try:
        header = msgspec.json.decode(data[_LENGTH.size : start], type=Header)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CorruptState(f"the inner state's header is malformed: {error}") from None
    if header.version != STATE_VERSION:
        raise CorruptState(f"inner state of version {header.version}, expected {STATE_VERSION}")
    before, elements = -1, 0
    for entry in header.entries:
        if not before < entry.parameter < len(sizes):
            raise CorruptState("the inner state names parameters that the layout lacks")
        names = [*entry.slots, *(name for name, _ in entry.scalars)]
        crowded = len(entry.slots) > MAX_SLOTS or len(entry.scalars) > MAX_SCALARS
        if crowded or len(set(names)) != len(names):
            raise CorruptState(f"the inner state of parameter {entry.parameter} is impossible")
        elements += len(entry.slots) * sizes[entry.parameter]
        before = entry.parameter
    return header, start, start + 4 * elements


def finite(body: bytes | memoryview) -> bool:
    """Whether all float32 of a piece of the body are; its length is a multiple of 4."""
    return bool(np.isfinite(np.frombuffer(body, "<f4")).all())
