"""Blobs and rounds share links: who waits for whom, and what a late or missing answer does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from farflung.checkpoint.blob_store import BlobStore
from farflung.clock import InlineWorkers
from farflung.disk import MemoryDisk
from farflung.errors import LinkDown, StorageError
from farflung.events import Event, LinkClosed, TaskFailed
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
        self.breaks: Exception | None = None
        self.store = BlobStore(MemoryDisk())

    def expected_bytes(self, header: BulkHeader) -> int:
        assert isinstance(header, SliceResult)
        return FRAME_BYTES

    def on_bulk(self, sender: str, header: BulkHeader, payload: memoryview) -> None:
        assert (sender, header, len(payload)) == ("donor", FRAME, FRAME_BYTES)
        self.arrived_s.append(asyncio.get_running_loop().time())

    def on_link_lost(self, node: str) -> None: ...

    async def read_blob(self, name: bytes, offset: int, length: int) -> bytes | None:
        if self.breaks is not None:
            raise self.breaks
        data = self.blobs.get(name)
        if data is None:
            return self.store.read(name, offset, length)
        return data[offset : offset + length]

    def catalogue(self) -> CatalogueReply:
        if self.breaks is not None:
            raise self.breaks
        return CatalogueReply(manifest=b"", manifest_bytes=0, next_round=0)


class Pair:
    """A joiner and a donor, one link."""

    def __init__(self, blobs: dict[bytes, bytes]) -> None:
        self.network = MemoryNetwork()
        self.events: list[Event] = []
        self.failures: list[Exception] = []
        self.services = {"joiner": Services({}), "donor": Services(blobs)}
        self.meshes = {name: self._mesh(name) for name in self.services}
        self.joiner, self.donor = self.meshes["joiner"], self.meshes["donor"]

    def _mesh(self, name: str) -> Mesh:
        return Mesh(NodeId(name), "run", self.network.transport(NodeId(name)), self.events.append)

    async def open(self) -> None:
        for name, mesh in self.meshes.items():
            await mesh.open(self.services[name], Endpoint(f"{name}:0"))
            for other in self.meshes.values():
                other.know((Member(node=name, endpoints=mesh.endpoints),))
        self.network.path(NodeId("donor"), NodeId("joiner")).bytes_per_s = RATE

    def fetcher(self) -> Downloader:
        class Now:
            def now(self) -> float:
                return asyncio.get_running_loop().time()

        return Downloader(
            self.joiner, lambda: ["donor"], Now(), InlineWorkers(), self.events.append
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
        pair.services["donor"].breaks = StorageError("the disk is broken")
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


# ---- faults --------------------------------------------------------------------------------


def failures(pair: Pair) -> list[str]:
    return [e.task for e in pair.events if isinstance(e, TaskFailed)]


def test_a_shard_that_vanished_is_missing_and_its_link_serves_on(tmp_path: Path) -> None:
    """Its file was removed under the node that serves it from where it is."""
    there, gone = tmp_path / "there.bin", tmp_path / "gone.bin"
    there.write_bytes(b"tokens")
    gone.write_bytes(b"more tokens")

    async def story(pair: Pair) -> None:
        for path in (there, gone):
            pair.services["donor"].store.add_file(digest(path.read_bytes()), path)
        name = digest(gone.read_bytes())
        gone.unlink()
        ask = pair.joiner.blobs.ask
        answers = await asyncio.gather(
            ask("donor", name, 0, 11), ask("donor", digest(b"tokens"), 0, 6)
        )
        assert answers == [None, b"tokens"]
        assert await ask("donor", digest(b"tokens"), 2, 4) == b"kens"
        assert not pair.events and not pair.failures

    play(story, {})


def test_a_fault_while_serving_closes_the_link_and_the_next_one_serves() -> None:
    async def story(pair: Pair) -> None:
        ask, donor = pair.joiner.blobs.ask, pair.services["donor"]
        assert await ask("donor", NAME, 0, 10) == BIG[:10]
        donor.breaks = KeyError("no such table")
        started_s = asyncio.get_running_loop().time()
        with pytest.raises(LinkDown, match="lost the data link"):
            await asyncio.gather(ask("donor", NAME, 0, 20), ask("donor", NAME, 20, 20))
        assert asyncio.get_running_loop().time() - started_s < 1.0
        donor.breaks = None
        assert await ask("donor", NAME, 0, 20) == BIG[:20]
        assert failures(pair) == ["serve blobs"] and not pair.failures

    play(story, {NAME: BIG})


def test_a_fault_in_a_reader_closes_its_link_and_the_next_one_reads() -> None:
    async def story(pair: Pair) -> None:
        donor = pair.services["donor"]
        donor.breaks = KeyError("no such table")
        with pytest.raises(LinkDown, match="lost the data link"):
            await pair.joiner.blobs.catalogue("donor")
        assert not pair.joiner.linked("donor") and not pair.donor.linked("joiner")
        donor.breaks = None
        assert (await pair.joiner.blobs.catalogue("donor")).next_round == 0
        assert failures(pair) == ["read from joiner"] and not pair.failures

    play(story, {})


def test_a_disk_that_cannot_answer_ends_the_link_with_a_warning() -> None:
    async def story(pair: Pair) -> None:
        pair.services["donor"].breaks = StorageError("the disk is broken")
        with pytest.raises(LinkDown):
            await pair.joiner.blobs.catalogue("donor")
        assert [e.sentence for e in pair.events if isinstance(e, LinkClosed)] == [
            "data link to joiner closed: the disk is broken"
        ]
        assert not failures(pair)

    play(story, {})


def test_a_fault_in_a_dial_is_a_lost_link_for_all_who_wait_and_the_next_dial_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story(pair: Pair) -> None:
        async def faulty(*_: object, **__: object) -> None:
            await asyncio.sleep(0.1)
            raise UnicodeError("label too long")

        with monkeypatch.context() as patched:
            patched.setattr(pair.joiner._transport, "dial", faulty)
            reaches = [pair.joiner.reach("donor", 1.0) for _ in range(3)]
            for error in await asyncio.gather(*reaches, return_exceptions=True):
                assert isinstance(error, LinkDown) and "label too long" in str(error)
        await pair.joiner.reach("donor", 1.0)
        assert failures(pair) == ["dial donor"] and not pair.failures

    play(story, {})


def test_a_mesh_that_closes_leaves_no_dial_and_nobody_waiting() -> None:
    async def story(pair: Pair) -> None:
        pair.network.partition(NodeId("joiner"), NodeId("donor"))
        reaching = asyncio.create_task(pair.joiner.reach("donor", 60.0))
        await asyncio.sleep(0.1)
        await pair.joiner.close()
        with pytest.raises(LinkDown, match="closes its links"):
            await reaching
        assert not len(pair.joiner._tasks)
        assert not pair.events

    play(story, {})


def test_a_fault_while_asking_ends_the_download(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(pair: Pair) -> None:
        async def faulty(*_: object) -> None:
            raise KeyError("no such table")

        monkeypatch.setattr(pair.joiner.blobs, "ask", faulty)
        with pytest.raises(KeyError, match="no such table"):
            await pair.fetcher().fetch([Item(NAME, len(BIG), "chunk 0")], keep)
        assert failures(pair)[0] == "ask donor"

    play(story, {NAME: BIG})
