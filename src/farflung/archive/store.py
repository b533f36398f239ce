"""What an archive stands on: named objects that are whole or not there.

Names are relative, with forward slashes, below one address (`s3://bucket/prefix`, a folder).
Every call may wait for a network; none blocks the event loop.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Protocol

from farflung.errors import FarflungError

Pieces = Callable[[], AsyncIterator[bytes]]
"""The content of a large object, from its start, as often as it is asked for."""
PIECE_BYTES = 8 << 20
"""Larger objects are sent and fetched in pieces of this size: what is held in memory at a time."""


class StoreError(FarflungError):
    """The store did not answer, or not with what was asked: it may later."""


class StoreDenied(StoreError):
    """The store refuses this user, or there is no such bucket: another try at once is of no use."""


class ObjectStore(Protocol):
    """Raises StoreError. A put is atomic: a reader sees the former object or the whole new one."""

    @property
    def address(self) -> str:
        """For people."""

    async def get(self, name: str) -> bytes | None:
        """The whole object; None when it is not there."""

    async def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Exactly these bytes of an object that is there."""

    async def put(self, name: str, data: bytes) -> None: ...

    async def put_pieces(self, name: str, n_bytes: int, pieces: Pieces) -> None:
        """An object of `n_bytes` that is too large for the memory."""

    async def list(self, prefix: str) -> dict[str, int]:
        """Name -> bytes of all objects whose name begins with `prefix` and a slash."""

    async def size(self, name: str) -> int | None:
        """None when it is not there."""

    async def delete(self, name: str) -> None:
        """No error when it is gone."""
