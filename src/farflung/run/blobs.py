"""Content-addressed bytes between nodes: snapshot chunks, results, token shards, tokenizers.

Any holder may serve a blob, trusted or not: the reader checks it against its hash.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

from farflung.errors import CorruptState, LinkDown, ProtocolError
from farflung.failpoints import hit
from farflung.hashing import digest
from farflung.ids import Hash
from farflung.network.link import Connection
from farflung.network.messages import Blob, Catalogue, CatalogueReply, Fetch

PIECE_BYTES = 4 << 20
REACH_S = 5.0
"""A source without a link by then is passed over; the next try may find it."""
PIECE_S = 30.0
"""A piece that takes longer counts as a lost link."""
SERVED_AT_ONCE = 4
"""Pieces in flight to one link; further requests wait their turn."""

_Key = tuple[str, bytes, int]


class Reacher(Protocol):
    async def reach(self, node: str, deadline_s: float) -> Connection: ...


class BlobExchange:
    """Asks and answers for one node. Used only from its event loop."""

    def __init__(self, mesh: Reacher, read: Callable[[bytes, int, int], bytes | None]) -> None:
        self._mesh = mesh
        self._read = read
        self._pending: dict[_Key, tuple[int, asyncio.Future[bytes | None]]] = {}
        self._catalogues: dict[str, asyncio.Future[CatalogueReply]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._turns: dict[int, asyncio.Semaphore] = {}

    # ---- asking ----------------------------------------------------------------------------

    async def fetch(self, sources: Iterable[str], name: Hash, n_bytes: int) -> bytes:
        """A whole blob from the first source that has it intact.

        Raises LinkDown when no source delivered, CorruptState when only bad bytes came.
        """
        failure: Exception = LinkDown(f"no source for blob {name.hex()[:12]}")
        for node in sources:
            try:
                data = await self._whole(node, name, n_bytes)
            except LinkDown as error:
                failure = error
                continue
            if data is None:
                continue
            if digest(data) == name:
                return data
            failure = CorruptState(f"{node[:8]} sent bytes that are not {name.hex()[:12]}")
        raise failure

    async def piece(self, sources: Iterable[str], name: Hash, offset: int, length: int) -> bytes:
        """A piece from the first source that has it; unchecked. Raises LinkDown."""
        failure = LinkDown(f"no source for blob {name.hex()[:12]}")
        for node in sources:
            try:
                data = await self._piece(node, name, offset, length)
            except LinkDown as error:
                failure = error
                continue
            if data is not None:
                return data
        raise failure

    async def _whole(self, node: str, name: Hash, n_bytes: int) -> bytes | None:
        pieces: list[bytes] = []
        for offset in range(0, n_bytes, PIECE_BYTES):
            piece = await self._piece(node, name, offset, min(PIECE_BYTES, n_bytes - offset))
            if piece is None:
                return None
            pieces.append(piece)
        return b"".join(pieces)

    async def _piece(self, node: str, name: Hash, offset: int, length: int) -> bytes | None:
        key = (node, bytes(name), offset)
        if key in self._pending:
            return await asyncio.shield(self._pending[key][1])
        link = await self._mesh.reach(node, REACH_S)
        future: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._pending[key] = (length, future)
        try:
            async with asyncio.timeout(PIECE_S):
                await link.send(Fetch(hash=name, offset=offset, length=length))
                data = await future
                hit("blob.piece-fetched")
                return data
        except TimeoutError:
            raise LinkDown(f"{node[:8]} sent no piece in {PIECE_S:g} s") from None
        finally:
            self._pending.pop(key, None)

    async def catalogue(self, node: str) -> CatalogueReply:
        """The newest snapshot of a node. Raises LinkDown."""
        link = await self._mesh.reach(node, REACH_S)
        future: asyncio.Future[CatalogueReply] = asyncio.get_running_loop().create_future()
        self._catalogues[node] = future
        try:
            async with asyncio.timeout(PIECE_S):
                await link.send(Catalogue())
                return await future
        except TimeoutError:
            raise LinkDown(f"{node[:8]} did not say what it has") from None
        finally:
            self._catalogues.pop(node, None)

    # ---- fed by the mesh -------------------------------------------------------------------

    def expected(self, node: str, header: Blob) -> int:
        """Exact payload size of an answer; ProtocolError when nobody asked for it."""
        waiting = self._pending.get((node, header.hash, header.offset))
        if waiting is None:
            raise ProtocolError("a blob that nobody asked for")
        return 0 if header.missing else waiting[0]

    def on_blob(self, node: str, header: Blob, payload: memoryview) -> None:
        waiting = self._pending.get((node, header.hash, header.offset))
        if waiting is not None and not waiting[1].done():
            waiting[1].set_result(None if header.missing else bytes(payload))

    def on_catalogue(self, node: str, reply: CatalogueReply) -> None:
        waiting = self._catalogues.get(node)
        if waiting is not None and not waiting.done():
            waiting.set_result(reply)

    def on_lost(self, node: str) -> None:
        lost = LinkDown(f"lost the data link to {node[:8]}")
        for key, (_, future) in list(self._pending.items()):
            if key[0] == node and not future.done():
                future.set_exception(lost)
        waiting = self._catalogues.get(node)
        if waiting is not None and not waiting.done():
            waiting.set_exception(lost)

    def on_fetch(self, link: Connection, ask: Fetch) -> None:
        """Serve in the background, so that a slow reader does not hold up its other frames."""
        if not 0 < ask.length <= PIECE_BYTES or ask.offset < 0:
            raise ProtocolError(f"a fetch may ask for 1 to {PIECE_BYTES} bytes")
        task = asyncio.create_task(self._serve(link, ask))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, link: Connection, ask: Fetch) -> None:
        turn = self._turns.setdefault(id(link), asyncio.Semaphore(SERVED_AT_ONCE))
        async with turn:
            data = self._read(ask.hash, ask.offset, ask.length)
            missing = data is None or len(data) != ask.length
            header = Blob(hash=ask.hash, offset=ask.offset, missing=missing)
            try:
                await link.send_bulk(header, b"" if data is None or missing else data)
            except LinkDown:
                self._turns.pop(id(link), None)
