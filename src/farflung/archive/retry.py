"""Another try for what a network or a busy store did not deliver, later each time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from farflung.archive.store import ObjectStore, Pieces, StoreDenied, StoreError

T = TypeVar("T")

TRIES = 6
FIRST_S = 0.5
"""Wait before the second try; twice as long before each further one, half of it by chance."""
ANSWER_S = 60.0
SLOWEST = 20_000
"""Bytes per second: below it an answer counts as none."""


class RetryingStore:
    """An ObjectStore that tries each operation again; the last failure is raised."""

    def __init__(self, store: ObjectStore, rng: random.Random, *, first_s: float = FIRST_S) -> None:
        self._store = store
        self._rng = rng
        self._first_s = first_s

    @property
    def address(self) -> str:
        return self._store.address

    async def get(self, name: str) -> bytes | None:
        return await self._try(name, lambda: self._store.get(name), 64 << 20)

    async def get_range(self, name: str, offset: int, length: int) -> bytes:
        async def exactly() -> bytes:
            data = await self._store.get_range(name, offset, length)
            if len(data) != length:
                raise StoreError(f"{name}: {len(data)} of {length} bytes came")
            return data

        return await self._try(name, exactly, length)

    async def put(self, name: str, data: bytes) -> None:
        await self._try(name, lambda: self._store.put(name, data), len(data))

    async def put_pieces(self, name: str, n_bytes: int, pieces: Pieces) -> None:
        await self._try(name, lambda: self._store.put_pieces(name, n_bytes, pieces), None)

    async def list(self, prefix: str) -> dict[str, int]:
        return await self._try(prefix, lambda: self._store.list(prefix), None)

    async def size(self, name: str) -> int | None:
        return await self._try(name, lambda: self._store.size(name), 0)

    async def delete(self, name: str) -> None:
        await self._try(name, lambda: self._store.delete(name), 0)

    async def _try(self, name: str, work: Callable[[], Awaitable[T]], n_bytes: int | None) -> T:
        """`n_bytes`: what the answer may take time for; None: as long as something moves."""
        limit_s = None if n_bytes is None else ANSWER_S + n_bytes / SLOWEST
        for number in range(1, TRIES):
            try:
                return await self._once(name, work, limit_s)
            except StoreDenied:
                raise
            except StoreError:
                wait_s = self._first_s * 2 ** (number - 1)
                await asyncio.sleep(wait_s * (0.5 + self._rng.random() / 2))
        return await self._once(name, work, limit_s)

    async def _once(self, name: str, work: Callable[[], Awaitable[T]], limit_s: float | None) -> T:
        try:
            async with asyncio.timeout(limit_s):
                return await work()
        except TimeoutError:
            raise StoreError(f"{self.address}/{name}: no answer in {limit_s:.0f} s") from None
