"""The canonical order of all parameters in one flat fp32 vector; its hash names the run's model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import msgspec

from farflung.errors import ConfigError
from farflung.hashing import digest
from farflung.ids import Hash

MAX_JSON_BYTES = 16 << 20
"""A layout of 100,000 tensors needs 8 MB; more is no model."""
MAX_ELEMENTS = 1 << 42
"""4.4e12 parameters: offsets and byte counts then stay far inside 63 bits."""
MAX_NAME = 512
MAX_RANK = 16

_Dimension = Annotated[int, msgspec.Meta(ge=0, le=MAX_ELEMENTS)]
_Shape = Annotated[tuple[_Dimension, ...], msgspec.Meta(max_length=MAX_RANK)]


Frozen = tuple[str, tuple[int, ...], str]
"""Name, shape and hash of the values (hex) of a parameter that is not trained."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One parameter tensor: elements [offset, offset + size) of the flat vector, row-major."""

    name: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        return math.prod(self.shape)


class _WithFrozen(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The JSON of a layout whose run has frozen parameters."""

    trained: list[tuple[str, _Shape]]
    frozen: list[tuple[str, _Shape, str]]


@dataclass(frozen=True)
class Layout:
    """Entries in order, without gaps. ConfigError for what breaks that (see `_check_entry`)."""

    entries: tuple[Entry, ...]
    frozen: tuple[Frozen, ...] = ()
    """Parameters that are no part of the vector: every trainer's program brings them, equal."""

    def __post_init__(self) -> None:
        names: set[str] = set()
        offset = 0
        for entry in self.entries:
            _check_entry(entry, names, offset)
            names.add(entry.name)
            offset += entry.size
        for name, _, _ in self.frozen:
            _check_name(name, names)
            names.add(name)
        if offset > MAX_ELEMENTS:
            raise ConfigError(f"the layout has {offset} elements; at most {MAX_ELEMENTS} fit")

    @classmethod
    def from_entries(
        cls, entries: Iterable[tuple[str, Sequence[int]]], frozen: Iterable[Frozen] = ()
    ) -> Layout:
        """The layout of `(name, shape)` pairs, in their order. Raises ConfigError."""
        placed: list[Entry] = []
        offset = 0
        for name, shape in entries:
            placed.append(Entry(name, tuple(int(d) for d in shape), offset))
            offset += placed[-1].size
        return cls(tuple(placed), tuple(frozen))

    @classmethod
    def from_json(cls, data: bytes) -> Layout:
        """The inverse of `to_json`; white space is allowed. Raises ConfigError for all else."""
        if len(data) > MAX_JSON_BYTES:
            raise ConfigError(f"the layout has {len(data)} bytes; at most {MAX_JSON_BYTES} fit")
        try:
            pairs = msgspec.json.decode(data, type=list[tuple[str, _Shape]] | _WithFrozen)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"the layout must be JSON [[name, [dimension, ...]], ...]: {error}"
            ) from None
        if isinstance(pairs, _WithFrozen):
            return cls.from_entries(pairs.trained, pairs.frozen)
        return cls.from_entries(pairs)

    def to_json(self) -> bytes:
        """Canonical: `[[name,[dimension,...]],...]` in UTF-8, without white space; with frozen
        parameters `{"frozen":[[name,[dimension,...],hash],...],"trained":[...]}`."""
        pairs = [(entry.name, entry.shape) for entry in self.entries]
        if not self.frozen:
            return msgspec.json.encode(pairs)
        return msgspec.json.encode({"frozen": self.frozen, "trained": pairs})

    @cached_property
    def size(self) -> int:
        """Elements of the flat vector."""
        return sum(entry.size for entry in self.entries)

    @cached_property
    def hash(self) -> Hash:
        """BLAKE3 of `to_json`."""
        return digest(self.to_json())


def _check_name(name: str, names: set[str]) -> None:
    if not 0 < len(name) <= MAX_NAME:
        raise ConfigError(f"parameter name {name[:40]!r} must have 1 to {MAX_NAME} letters")
    if name in names:
        raise ConfigError(f"parameter {name!r} is listed twice; tied weights are sent once")


def _check_entry(entry: Entry, names: set[str], offset: int) -> None:
    _check_name(entry.name, names)
    if any(dimension < 0 for dimension in entry.shape):
        raise ConfigError(f"parameter {entry.name!r} has a negative dimension in {entry.shape}")
    if entry.offset != offset:
        raise ConfigError(f"parameter {entry.name!r} is at {entry.offset}, expected {offset}")
