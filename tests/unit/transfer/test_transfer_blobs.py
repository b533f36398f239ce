"""Blobs and rounds share links: who waits for whom, and what a late or missing answer does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from farflung.errors import LinkDown, StorageError
from farflung.events import Event
from farflung.hashing import digest
from farflung.ids import Endpoint, NodeId
from farflung.network.memory import MemoryNetwork
from farflung.network.messages import BulkHeader, CatalogueReply, Member, SliceResult
from farflung.sim.loop import run_virtual
from farflung.transfer.blobs import PIECE_S
from farflung.transfer.download import Downloader
from farflung.transfer.download_plan import LATENCY_S, PIECE_BYTES, Item
from farflung.transfer.mesh import Mesh

RATE = 1 << 20
FRAME = SliceResult(term=1, round=1, attempt=1, slice=0, first=0, stop=1)
FRAME_BYTES = 1 << 20


class Services:
    """Serves blobs from memory and notes when round frames arrive."""

    def __init__(self, blobs: dict[bytes, bytes]) -> None:
        self.blobs = blobs
        self.arrived_s: list[float] = []
        self.breaks = False

    def expected_bytes(self, header: BulkHeader) -> int:
        assert isinstance(header, SliceResult)
        return FRAME_BYTES

    def on_bulk(self, sender: str, header: BulkHeader, payload: memoryview) -> None:
        assert (sender, header, len(payload)) == ("donor", FRAME, FRAME_BYTES)
        self.arrived_s.append(asyncio.get_running_loop().time())

    def on_link_lost(self, node: str) -> None: ...

    def read_blob(self, name: bytes, offset: int, length: int) -> bytes | None:
        if self.breaks:
            raise StorageError("the disk is broken")
        data = self.blobs.get(name)
        return None if data is None else data[offset : offset + length]

    def catalogue(self) -> CatalogueReply:
        return CatalogueReply(manifest=b"", manifest_bytes=0, next_round=0)


class Pair:
    """A joiner and a donor, one link."""

    def __init__(self, blobs: dict[bytes, bytes]) -> None:
        self.network = MemoryNetwork()
        self.events: list[Event] = []
        self.services = {"joiner": Services({}), "donor": Services(blobs)}
        self.meshes = {name: self._mesh(name) for name in self.services}
        self.joiner, self.donor = self.meshes["joiner"], self.meshes["donor"]

    def _mesh(self, name: str) -> Mesh:
        return Mesh(
            node=NodeId(name),
            run="run",
            transport=self.network.transport(NodeId(name)),
            services=self.services[name],
            emit=self.events.append,
        )

    async def open(self) -> None:
        for name, mesh in self.meshes.items():
            endpoint = await mesh.listen(Endpoint(f"{name}:0"))
            for other in self.meshes.values():
                other.know((Member(node=name, endpoints=(endpoint,)),))
        self.network.path(NodeId("donor"), NodeId("joiner")).bytes_per_s = RATE

    def fetcher(self) -> Downloader:
        class Now:
            def now(self) -> float:
                return asyncio.get_running_loop().time()

        return Downloader(
            exchange=self.joiner.blobs,
            donors=lambda: ["donor"],
            linked=self.joiner.linked,
            clock=Now(),
            emit=self.events.append,
        )


def play(story: Callable[[Pair], Awaitable[None]], blobs: dict[bytes, bytes]) -> None:
    async def main() -> None:
        pair = Pair(blobs)
        await pair.open()
        try:
            await story(pair)
        finally:
            for mesh in pair.meshes.values():
                await mesh.close()

    run_virtual(main())


async def keep(item: Item, data: bytes) -> bool:
    return digest(data) == item.name


BIG = bytes(range(256)) * (16 * RATE // 256)
NAME = bytes(digest(BIG))


def test_a_frame_of_a_round_waits_for_half_a_second_of_blobs_at_most() -> None:
    """One link of 1 MiB/s, a download of 16 MiB on it, and a frame of 1 MiB."""

    async def story(pair: Pair) -> None:
        download = asyncio.create_task(
            pair.fetcher().fetch([Item(NAME, len(BIG), "chunk 0")], keep)
        )
        await asyncio.sleep(5)
        sent_s = asyncio.get_running_loop().time()
        await pair.donor.send_bulk("joiner", FRAME, bytes(FRAME_BYTES), 10.0)
        await download
        (arrived_s,) = pair.services["joiner"].arrived_s
        alone_s = FRAME_BYTES / RATE
        assert arrived_s - sent_s <= alone_s + LATENCY_S + 2 * PIECE_BYTES / RATE

    play(story, {NAME: BIG})


def test_an_answer_that_nobody_waits_for_any_more_does_not_end_the_link() -> None:
    async def story(pair: Pair) -> None:
        asking = asyncio.create_task(pair.joiner.blobs.ask("donor", NAME, 0, PIECE_BYTES))
        await asyncio.sleep(0.1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await asyncio.sleep(5)
        assert pair.joiner.linked("donor")
        assert await pair.joiner.blobs.ask("donor", NAME, 0, PIECE_BYTES) == BIG[:PIECE_BYTES]
        assert not pair.events

    play(story, {NAME: BIG})


def test_a_blob_asked_twice_at_a_time_is_sent_once_and_other_lengths_are_right() -> None:
    async def story(pair: Pair) -> None:
        ask = pair.joiner.blobs.ask
        answers = await asyncio.gather(
            ask("donor", NAME, 0, 1000), ask("donor", NAME, 0, 1000), ask("donor", NAME, 0, 10)
        )
        assert answers == [BIG[:1000], BIG[:1000], BIG[:10]]
        assert pair.donor.blobs.served_bytes == 1010

    play(story, {NAME: BIG})


def test_a_disk_that_fails_answers_missing() -> None:
    async def story(pair: Pair) -> None:
        pair.services["donor"].breaks = True
        assert await pair.joiner.blobs.ask("donor", NAME, 0, 1000) is None

    play(story, {NAME: BIG})


def test_a_slow_source_is_waited_for_and_a_silent_one_is_not() -> None:
    async def story(pair: Pair) -> None:
        path = pair.network.path(NodeId("donor"), NodeId("joiner"))
        path.bytes_per_s = PIECE_BYTES / 20
        asks = [
            pair.joiner.blobs.ask("donor", NAME, i * PIECE_BYTES, PIECE_BYTES) for i in range(4)
        ]
        assert [len(a or b"") for a in await asyncio.gather(*asks)] == [PIECE_BYTES] * 4
        started_s = asyncio.get_running_loop().time()
        assert started_s > 2 * PIECE_S
        pair.network.freeze(NodeId("donor"))
        with pytest.raises(LinkDown, match="sent nothing for 30 s"):
            await pair.joiner.blobs.ask("donor", NAME, 0, 1000)
        assert asyncio.get_running_loop().time() - started_s == pytest.approx(PIECE_S, abs=0.1)

    play(story, {NAME: BIG})
