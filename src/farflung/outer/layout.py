"""The layout: the canonical order of all parameters in one flat fp32 vector."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from farflung.errors import ProtocolError
from farflung.hashing import digest
from farflung.ids import Hash

MAX_JSON_BYTES = 64 << 20


@dataclass(frozen=True)
class Entry:
    name: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Layout:
    entries: tuple[Entry, ...]

    @classmethod
    def from_entries(cls, entries: Iterable[tuple[str, Iterable[int]]]) -> Layout:
        """ValueError for duplicate names and negative dimensions."""
        out: list[Entry] = []
        seen: set[str] = set()
        at = 0
        for name, shape in entries:
            dims = tuple(int(d) for d in shape)
            if name in seen:
                raise ValueError(f"layout: {name!r} appears twice")
            if any(d < 0 for d in dims):
                raise ValueError(f"layout: {name!r} has a negative dimension in {dims}")
            seen.add(name)
            out.append(Entry(name, dims, at))
            at += out[-1].size
        return cls(tuple(out))

    @property
    def size(self) -> int:
        """Elements of the flat vector."""
        return self.entries[-1].offset + self.entries[-1].size if self.entries else 0

    def to_json(self) -> bytes:
        """Canonical: [[name, [dims]], ...] without spaces."""
        plain = [[e.name, list(e.shape)] for e in self.entries]
        return json.dumps(plain, separators=(",", ":"), ensure_ascii=True).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Layout:
        """ProtocolError for anything but the canonical form."""
        if len(data) > MAX_JSON_BYTES:
            raise ProtocolError(f"a layout of {len(data)} bytes is above {MAX_JSON_BYTES}")
        try:
            layout = cls.from_entries([(str(name), shape) for name, shape in json.loads(data)])
        except (ValueError, TypeError, RecursionError) as error:
            raise ProtocolError(f"the layout is malformed: {error}") from None
        if layout.to_json() != data:
            raise ProtocolError("the layout is not in canonical form")
        return layout

    @cached_property
    def hash(self) -> Hash:
        return digest(self.to_json())
