"""An object store in memory that can fail, dawdle, cut answers short and die, for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from farflung.archive.store import Pieces, StoreError


class MemoryStore:
    """Objects in a dictionary; shared between all that are given the same `objects`."""

    def __init__(self, objects: dict[str, bytes] | None = None) -> None:
        self.objects = {} if objects is None else objects
        self.before: Callable[[str, str], None] = lambda _operation, _name: None
        """Called before each operation: a place for a failure or a death."""
        self.delay_s = 0.0
        self.cut: Callable[[str], int | None] = lambda _name: None
        """Bytes after which an answer ends, for a name; None: it comes whole."""
        self.log: list[tuple[str, str]] = []
        """(operation, name), in order."""

    @property
    def address(self) -> str:
        return "memory"

    async def get(self, name: str) -> bytes | None:
        await self._enter("get", name)
        data = self.objects.get(name)
        return None if data is None else data[: self.cut(name)]

    async def get_range(self, name: str, offset: int, length: int) -> bytes:
        await self._enter("get_range", name)
        data = self.objects.get(name, b"")[offset : offset + length]
        if len(data) != length:
            raise StoreError(f"{name} ends before byte {offset + length}")
        return data[: self.cut(name)]

    async def put(self, name: str, data: bytes) -> None:
        await self._enter("put", name)
        self.objects[name] = bytes(data)

    async def put_pieces(self, name: str, n_bytes: int, pieces: Pieces) -> None:
        await self._enter("put_pieces", name)
        data = b"".join([piece async for piece in pieces()])
        if len(data) != n_bytes:
            raise StoreError(f"{name} has {len(data)} bytes, not {n_bytes}")
        self.objects[name] = data

    async def list(self, prefix: str) -> dict[str, int]:
        await self._enter("list", prefix)
        return {n: len(d) for n, d in self.objects.items() if n.startswith(f"{prefix}/")}

    async def size(self, name: str) -> int | None:
        await self._enter("size", name)
        data = self.objects.get(name)
        return None if data is None else len(data)

    async def delete(self, name: str) -> None:
        await self._enter("delete", name)
        self.objects.pop(name, None)

    async def _enter(self, operation: str, name: str) -> None:
        self.log.append((operation, name))
        self.before(operation, name)
        await asyncio.sleep(self.delay_s)
