"""Content-addressed bytes between nodes: snapshot chunks, results, token shards, tokenizers.

Any holder may serve a blob, trusted or not: the reader checks it against its hash.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from farflung.errors import CorruptState, LinkDown, ProtocolError, StorageError
from farflung.hashing import digest
from farflung.ids import Hash
from farflung.network.link import Connection
from farflung.network.messages import Blob, Catalogue, CatalogueReply, Fetch
from farflung.tasks import Tasks
from farflung.transfer.download_plan import PIECE_BYTES

MAX_PIECE_BYTES = 4 << 20
"""The protocol's limit of one Fetch."""
PIECE_S = 30.0
"""A source that sends nothing for this long while something is asked of it counts as lost."""
LEAST_WAIT_S = 0.01
"""A rest of a wait that is shorter is not waited for: clocks are not that exact."""
CATALOGUE_S = 10.0
YIELD_S = 2.0
"""A piece waits at most this long for the round's own traffic to end."""

_Key = tuple[str, bytes, int]


class Reacher(Protocol):
    async def reach(self, node: str, deadline_s: float) -> Connection: ...

    async def quiet(self) -> None:
        """Returns when this node sends no frame of a round."""


@dataclass(slots=True)
class _Pending:
    """An answer that is owed, whether or not somebody still waits for it."""

    length: int
    link: Connection
    answer: asyncio.Future[bytes | None]


class BlobExchange:
    """Asks and answers for one node. Used only from its event loop."""

    def __init__(
        self,
        mesh: Reacher,
        read: Callable[[bytes, int, int], Awaitable[bytes | None]],
        tasks: Tasks,
    ) -> None:
        """`read` says None or raises StorageError for what is not here. `tasks`: the mesh's."""
        self._mesh = mesh
        self._read = read
        self._pending: dict[_Key, _Pending] = {}
        self._heard_s: dict[str, float] = {}
        """When the last answer of a node came."""
        self._catalogues: dict[str, asyncio.Future[CatalogueReply]] = {}
        self._queues: dict[Connection, deque[Fetch]] = {}
        """Requests by link; a server task per link takes them in order, one at a time."""
        self._tasks = tasks
        self.served_bytes = 0

    # ---- asking ----------------------------------------------------------------------------

    async def fetch(self, sources: Iterable[str], name: Hash, n_bytes: int) -> bytes:
        """A whole small blob from the first source that has it intact.

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
                data = await self.ask(node, name, offset, length)
            except LinkDown as error:
                failure = error
                continue
            if data is not None:
                return data
        raise failure

    async def _whole(self, node: str, name: Hash, n_bytes: int) -> bytes | None:
        pieces: list[bytes] = []
        for offset in range(0, n_bytes, PIECE_BYTES):
            piece = await self.ask(node, name, offset, min(PIECE_BYTES, n_bytes - offset))
            if piece is None:
                return None
            pieces.append(piece)
        return b"".join(pieces)

    async def ask(self, node: str, name: bytes, offset: int, length: int) -> bytes | None:
        """One piece from one node, unchecked; None when it is not there. Raises LinkDown.

        Safe to cancel: the answer is still expected and then dropped.
        """
        key = (node, bytes(name), offset)
        while True:
            owed = self._pending.get(key)
            if owed is None:
                owed = await self._send(key, length)
            answer = await self._answer(node, owed)
            if owed.length == length:
                return answer

    async def _answer(self, node: str, owed: _Pending) -> bytes | None:
        """Wait while the source sends anything at all: a slow link is no lost one."""
        now = asyncio.get_running_loop().time
        asked_s = now()
        while True:
            left_s = max(asked_s, self._heard_s.get(node, 0.0)) + PIECE_S - now()
            if left_s < LEAST_WAIT_S:
                raise LinkDown(f"{node[:8]} sent nothing for {PIECE_S:g} s")
            await asyncio.wait({owed.answer}, timeout=left_s)
            if owed.answer.done():
                return owed.answer.result()

    async def _send(self, key: _Key, length: int) -> _Pending:
        node, name, offset = key
        link = await self._mesh.reach(node, PIECE_S)
        if key in self._pending:  # another caller asked while this one waited for the link
            return self._pending[key]
        future: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda f: f.cancelled() or f.exception())
        owed = self._pending[key] = _Pending(length, link, future)
        try:
            await link.send(Fetch(hash=name, offset=offset, length=length))
        except LinkDown as error:
            if self._pending.get(key) is owed:
                del self._pending[key]
            if not future.done():
                future.set_exception(error)  # for those who asked for the same piece meanwhile
            raise
        return owed

    async def catalogue(self, node: str) -> CatalogueReply:
        """The newest snapshot of a node. Raises LinkDown."""
        try:
            async with asyncio.timeout(CATALOGUE_S):
                link = await self._mesh.reach(node, CATALOGUE_S)
                if node not in self._catalogues:
                    future: asyncio.Future[CatalogueReply]
                    future = asyncio.get_running_loop().create_future()
                    future.add_done_callback(lambda f: f.cancelled() or f.exception())
                    self._catalogues[node] = future
                await link.send(Catalogue())
                return await asyncio.shield(self._catalogues[node])
        except TimeoutError:
            raise LinkDown(f"{node[:8]} did not say what it has") from None

    # ---- fed by the mesh -------------------------------------------------------------------

    def expected(self, node: str, header: Blob) -> int:
        """Exact payload size of an answer; ProtocolError when nobody asked for it."""
        owed = self._pending.get((node, header.hash, header.offset))
        if owed is None:
            raise ProtocolError("a blob that nobody asked for")
        return 0 if header.missing else owed.length

    def on_blob(self, node: str, header: Blob, payload: memoryview) -> None:
        self._heard_s[node] = asyncio.get_running_loop().time()
        owed = self._pending.pop((node, header.hash, header.offset), None)
        if owed is not None and not owed.answer.done():
            owed.answer.set_result(None if header.missing else bytes(payload))

    def on_catalogue(self, node: str, reply: CatalogueReply) -> None:
        waiting = self._catalogues.pop(node, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(reply)

    def on_lost(self, node: str, link: Connection) -> None:
        """A data link ended: what was asked on it is not answered any more."""
        self._queues.pop(link, None)
        lost = LinkDown(f"lost the data link to {node[:8]}")
        for key, owed in list(self._pending.items()):
            if owed.link is link:
                del self._pending[key]
                if not owed.answer.done():
                    owed.answer.set_exception(lost)
        waiting = self._catalogues.pop(node, None)
        if waiting is not None and not waiting.done():
            waiting.set_exception(lost)

    # ---- answering -------------------------------------------------------------------------

    def on_fetch(self, link: Connection, ask: Fetch) -> None:
        """Serve in the background, so that a slow reader does not hold up its other frames."""
        if not 0 < ask.length <= MAX_PIECE_BYTES or ask.offset < 0:
            raise ProtocolError(f"a fetch may ask for 1 to {MAX_PIECE_BYTES} bytes")
        if link in self._queues:
            self._queues[link].append(ask)
            return
        self._queues[link] = deque([ask])
        self._tasks.start(
            self._serve(link), "serve blobs", on_failure=lambda _: link.close("internal error")
        )

    async def _serve(self, link: Connection) -> None:
        """Answer a link's requests in order, one at a time; the frames of a round go first."""
        try:
            while queue := self._queues.get(link):
                await self._answer_one(link, queue.popleft())
        except LinkDown:
            pass  # its reader says so
        finally:  # whatever happens, a later request finds no server that is gone
            self._queues.pop(link, None)

    async def _answer_one(self, link: Connection, ask: Fetch) -> None:
        try:
            async with asyncio.timeout(YIELD_S):
                await self._mesh.quiet()
        except TimeoutError:
            pass  # rounds that never pause must not starve a joiner
        try:
            data = await self._read(ask.hash, ask.offset, ask.length)
        except StorageError:
            data = None
        missing = data is None or len(data) != ask.length
        header = Blob(hash=ask.hash, offset=ask.offset, missing=missing)
        await link.send_bulk(header, b"" if data is None or missing else data)
        self.served_bytes += 0 if data is None or missing else len(data)
