"""A snapshot that is written while commits go on: whole versions, bounded memory, no waiting."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import pytest

from farflung.checkpoint.blob_store import BlobStore
from farflung.checkpoint.snapshot import (
    FragmentVersion,
    SnapshotManifest,
    decode_manifest,
    finish_snapshot,
)
from farflung.clock import InlineWorkers
from farflung.config.run import OuterSpec
from farflung.disk import MemoryDisk
from farflung.errors import CorruptState, StorageError
from farflung.hashing import digest
from farflung.outer.layout import Layout
from farflung.outer.nesterov import bits_of
from farflung.outer.state_hash import LEAF_ELEMENTS, fragment_hash
from farflung.peer.bootstrap import install
from farflung.peer.outer_state import Float32, OuterState
from farflung.peer.snapshot_writer import Capture, SnapshotGone, SnapshotWriter

RUN = "0123456789abcdef"
T = TypeVar("T")
CHUNK_BYTES = 4 * LEAF_ELEMENTS


def step(state: OuterState, fragment: int, gradient: Float32) -> None:
    """A commit's outer step."""
    ahead = state.ahead(fragment, bits_of(0.1), bits_of(0.9))
    ahead.add(0, gradient)
    new = ahead.finish()
    state.write(fragment, new)
    state.note(fragment, new.leaves)


def layout(elements: int) -> Layout:
    """Layers that two fragments share out in several ranges, cut in the middle of chunks."""
    part = elements // 4
    return Layout.from_entries([(f"model.layers.{i}.w", (part + i,)) for i in range(4)])


class Node:
    """A follower's state without its network: commits as the apply loop makes them."""

    def __init__(self, elements: int, fragments: int = 2) -> None:
        self.layout, self.outer = layout(elements), OuterSpec(fragments=fragments, window=1)
        self.state = OuterState(self.layout, self.outer)
        rng = np.random.default_rng(2)
        self.state.anchor[:] = rng.standard_normal(self.layout.size, np.float32)
        for fragment in range(fragments):
            anchor = self.state.anchor_of(fragment).copy()
            self.state.put(fragment, -1, anchor, np.full_like(anchor, 0.5))
        self.lock = asyncio.Lock()
        self.journal = {-1: list(self.state.hashes)}
        """After each round: the fragments' hashes."""
        self.disk = MemoryDisk()
        self.blobs = BlobStore(self.disk)
        self.writer: SnapshotWriter | None = None
        self.most_kept = 0

    def begin(self, workers: Any = None) -> SnapshotWriter:
        self.writer = SnapshotWriter(
            self,  # type: ignore[arg-type]
            self.blobs,
            workers or InlineWorkers(),
        )
        return self.writer

    async def commit(self) -> None:
        async with self.lock:
            state, number = self.state, self.state.next_round
            fragment = number % len(state.fragments)
            if self.writer is not None:
                self.writer.keep(fragment)
                capture = self.writer._capture
                self.most_kept = max(self.most_kept, capture.kept_bytes if capture else 0)
            gradient = np.full(state.elements(fragment), 1 + number, np.float32)
            step(state, fragment, gradient)
            state.rounds[fragment] = number
            state.next_round = number + 1
            self.journal[number] = list(state.hashes)

    def restored(self, versions: list[FragmentVersion]) -> OuterState:
        writer = self.writer
        assert writer is not None
        pointer = finish_snapshot(self.disk, self.blobs, RUN, writer.next_round, versions)
        data = self.blobs.get(bytes.fromhex(pointer.manifest))
        assert data is not None
        state = OuterState(self.layout, self.outer)
        install(state, decode_manifest(data, RUN), self.blobs)
        return state

    def check(self, state: OuterState) -> None:
        """Every fragment is a committed version, and holds every commit below `next_round`."""
        for fragment, round_ in enumerate(state.rounds):
            assert state.hashes[fragment] == self.journal[round_][fragment]
            anchor, momentum = state.anchor_of(fragment), state.momentum_of(fragment)
            assert fragment_hash(anchor, momentum) == state.hashes[fragment]
            due = [r for r in range(state.next_round) if r % len(state.rounds) == fragment]
            assert round_ >= max(due, default=-1)


class Meddling:
    """Workers that let commits happen before some of the jobs."""

    def __init__(self, commit: Callable[[], Any], every: int) -> None:
        self._commit, self._every, self.jobs = commit, every, 0

    async def run(self, work: Callable[[], T]) -> T:
        self.jobs += 1
        if self._every and self.jobs % self._every == 0:
            await self._commit()
        await asyncio.sleep(0)
        return work()


@pytest.mark.parametrize("fragments", [1, 2])
@pytest.mark.parametrize("every", [0, 1, 2, 3, 5])
def test_a_snapshot_among_commits_holds_committed_versions(every: int, fragments: int) -> None:
    async def main() -> None:
        node = Node(5 * LEAF_ELEMENTS, fragments)
        await node.commit()
        workers = Meddling(node.commit, every)
        versions = await node.begin(workers).write()
        state = node.restored(versions)
        node.check(state)
        assert state.next_round == 1
        if not every:
            assert state.rounds == node.state.rounds
            assert state.anchor.tobytes() == node.state.anchor.tobytes()
            assert state.momentum.tobytes() == node.state.momentum.tobytes()
        assert node.most_kept <= 8 * max(map(node.state.elements, range(fragments)))

    asyncio.run(main())


def test_replay_passes_over_what_the_snapshot_holds_and_ends_at_the_same_state() -> None:
    async def main() -> None:
        node = Node(3 * LEAF_ELEMENTS)
        versions = await node.begin(Meddling(node.commit, 2)).write()
        await node.commit()
        state = node.restored(versions)
        assert max(state.rounds) >= state.next_round  # else this would show nothing
        for number in range(state.next_round, node.state.next_round):
            fragment = number % 2
            if state.rounds[fragment] < number:
                gradient = np.full(state.elements(fragment), 1 + number, np.float32)
                step(state, fragment, gradient)
            if max(state.rounds) <= number:
                assert state.hashes == node.journal[number]
        assert state.anchor.tobytes() == node.state.anchor.tobytes()
        assert state.momentum.tobytes() == node.state.momentum.tobytes()

    asyncio.run(main())


def test_a_disk_that_keeps_up_with_the_rounds_gives_the_state_of_one_moment() -> None:
    """Fragments are written in the order in which commits will change them."""

    async def main() -> None:
        node = Node(2 * LEAF_ELEMENTS)
        await node.commit()
        await node.commit()
        await node.commit()
        writer = node.begin(Meddling(node.commit, 0))
        first = node.state.next_round % 2
        order: list[int] = []
        capture = writer._write

        async def noted(state: OuterState, fragment: int) -> FragmentVersion:
            order.append(fragment)
            version = await capture(state, fragment)
            await node.commit()  # one round per fragment
            return version

        writer._write = noted  # type: ignore[method-assign]
        state = node.restored(await writer.write())
        assert order == [first, 1 - first]
        assert state.hashes == node.journal[2]
        assert node.most_kept == 0

    asyncio.run(main())


def test_memory_stays_at_a_few_chunks() -> None:
    class Sink(MemoryDisk):
        """Takes bytes and forgets them."""

        def replace(self, path: str, data: bytes | memoryview) -> None:
            assert len(data) <= CHUNK_BYTES
            super().replace(path, b"")

    async def main() -> None:
        node = Node(24 * LEAF_ELEMENTS)
        node.blobs = BlobStore(Sink())
        tracemalloc.start()
        await node.begin().write()
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 3 * CHUNK_BYTES < 8 * node.layout.size / 10

    asyncio.run(main())


def test_chunks_that_did_not_change_are_neither_read_nor_hashed_nor_written() -> None:
    async def main() -> None:
        node = Node(4 * LEAF_ELEMENTS)
        await node.begin().write()
        await node.commit()  # of fragment 0
        written: list[str] = []
        replace = node.disk.replace

        def noted(path: str, data: bytes | memoryview) -> None:
            written.append(path)
            replace(path, data)

        node.disk.replace = noted  # type: ignore[method-assign]
        versions = await node.begin().write()
        new = {f"blobs/{leaf}" for leaf in versions[0].leaves}
        assert written and set(written) <= new
        node.check(node.restored(versions))

    asyncio.run(main())


def test_names_are_the_hashes_of_what_is_stored() -> None:
    async def main() -> None:
        node = Node(3 * LEAF_ELEMENTS)
        await node.begin(Meddling(node.commit, 2)).write()
        for name in node.disk.names("blobs"):
            assert digest(node.disk.read(f"blobs/{name}") or b"").hex() == name

    asyncio.run(main())


def test_a_commit_copies_what_is_left_of_its_fragment_once() -> None:
    node = Node(4 * LEAF_ELEMENTS, fragments=1)
    capture = Capture(node.state, 0)
    before = node.state.anchor.tobytes() + node.state.momentum.tobytes()
    assert capture.write_next(node.blobs)
    for _ in range(2):
        capture.keep()
        assert capture.kept_bytes == len(before) - CHUNK_BYTES
        node.state.anchor[:], node.state.momentum[:] = 1, 2
    while capture.write_next(node.blobs):
        pass
    assert capture.kept_bytes == 0
    stored = b"".join(node.blobs.get(leaf) or b"" for leaf in capture.leaves)
    assert stored == before


def test_a_state_that_is_replaced_leaves_no_chunk_under_a_false_name() -> None:
    async def main() -> None:
        node = Node(6 * LEAF_ELEMENTS)

        async def replace() -> None:
            writer.abandon()
            node.state.anchor[:] = 7
            node.state.momentum[:] = 7

        writer = node.begin(Meddling(replace, 3))
        with pytest.raises(SnapshotGone):
            await writer.write()
        assert node.disk.names("blobs")
        for name in node.disk.names("blobs"):
            assert digest(node.disk.read(f"blobs/{name}") or b"").hex() == name

    asyncio.run(main())


def test_a_full_disk_ends_the_snapshot_only() -> None:
    async def main() -> None:
        node = Node(2 * LEAF_ELEMENTS)
        node.disk.full = True
        with pytest.raises(StorageError, match="no space left"):
            await node.begin().write()
        node.disk.full = False
        await node.commit()
        node.check(node.restored(await node.begin().write()))

    asyncio.run(main())


@pytest.mark.parametrize("damage", ["missing", "changed", "cut"])
def test_a_damaged_chunk_is_found_before_the_state_counts(damage: str) -> None:
    async def main() -> None:
        node = Node(3 * LEAF_ELEMENTS)
        versions = await node.begin().write()
        path = f"blobs/{versions[1].leaves[1]}"
        data = node.disk.read(path) or b""
        if damage == "missing":
            node.disk.remove(path)
        else:
            node.disk.replace(path, data[:-4] if damage == "cut" else b"x" + data[1:])
        state = OuterState(node.layout, node.outer)
        manifest = SnapshotManifest(version=1, run=RUN, next_round=9, fragments=tuple(versions))
        with pytest.raises(CorruptState):
            install(state, manifest, node.blobs)
        assert state.next_round == 0

    asyncio.run(main())
