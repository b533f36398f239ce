"""Snapshots on a disk that is slower than the rounds: they hold fragments of several moments, and a
node that starts from one, or a joiner that copies it, ends at everybody's state."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from test_sim_swarm import assert_sound, play, spec

from farflung.checkpoint.blob_store import BlobStore
from farflung.checkpoint.snapshot import SnapshotManifest, decode_manifest, newest
from farflung.clock import Workers
from farflung.disk import MemoryDisk
from farflung.events import Applied, GenerationClosed, Resynced, SnapshotFetched, Warned
from farflung.hashing import digest
from farflung.peer.follower import Follower
from farflung.peer.snapshot_writer import SnapshotWriter
from farflung.sim.workers import SeededWorkers
from farflung.sim.world import KEEPER, RUN, SimSwarm
from farflung.swarm.records import Commit

T = TypeVar("T")
CHUNK_S = 0.2
"""A round takes 0.3 s, a snapshot has eight chunks."""


class SlowDisk:
    """Workers for which every chunk takes long."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    async def run(self, work: Callable[[], T]) -> T:
        await asyncio.sleep(CHUNK_S)
        return await self._workers.run(work)


@pytest.fixture
def slow_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    init = SnapshotWriter.__init__

    def slow(self: SnapshotWriter, follower: Any, blobs: Any, workers: Workers) -> None:
        init(self, follower, blobs, SlowDisk(workers))

    monkeypatch.setattr(SnapshotWriter, "__init__", slow)


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rounds that nodes passed over because their snapshot held them."""
    rounds: list[int] = []
    real = Follower.pass_over

    def noted(self: Follower, commit: Commit) -> None:
        rounds.append(commit.round)
        real(self, commit)

    monkeypatch.setattr(Follower, "pass_over", noted)
    return rounds


def manifest_of(swarm: SimSwarm, label: str) -> SnapshotManifest:
    """The node's newest snapshot; every chunk has the bytes of its name."""
    store, pointer = BlobStore(swarm.nodes[label].disk), newest(swarm.nodes[label].disk)
    assert pointer is not None
    data = store.get(bytes.fromhex(pointer.manifest))
    assert data is not None
    manifest = decode_manifest(data, RUN)
    for fragment in manifest.fragments:
        for leaf in fragment.leaves:
            assert digest(store.get(bytes.fromhex(leaf)) or b"").hex() == leaf
    return manifest


def confirmed(swarm: SimSwarm, manifest: SnapshotManifest) -> bool:
    """Every version is the journal's; True when they are of several moments."""
    commits = {c.round: c for c in swarm.commits()}
    for index, fragment in enumerate(manifest.fragments):
        if fragment.round >= 0:
            commit = commits[fragment.round]
            assert (commit.fragment, commit.fragment_hash) == (index, fragment.hash)
    return any(f.round >= manifest.next_round for f in manifest.fragments)


@pytest.mark.usefixtures("slow_chunks")
@pytest.mark.parametrize("merge", ["overwrite", "blend", "carry"])
def test_restarts_and_joins_from_a_snapshot_that_was_written_among_commits(
    merge: str, passed: list[int]
) -> None:
    mixed: list[bool] = []

    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(20)
        for label in ("p1", KEEPER):
            await swarm.kill(label)
            mixed.append(confirmed(swarm, manifest_of(swarm, label)))
            swarm.spawn(label)
            await swarm.committed(swarm.picture.committed + 2)
        before = len(swarm.nodes["p1"].events)
        swarm.add("late", "trainer")
        swarm.spawn("late")
        for label, since in (("p1", before), ("late", 0)):
            await swarm.until(
                lambda label=label, since=since: any(  # type: ignore[misc]
                    isinstance(e, Applied) and e.contributed
                    for e in swarm.nodes[label].events[since:]
                )
            )
        await swarm.finished()

    run_spec = spec(fragments=4, window=2, inner_steps=20, rounds=70, merge=merge)
    swarm = play(story, run_spec, peers=3)
    assert swarm.picture.committed == 70
    assert any(mixed) and passed
    assert not [e for n in swarm.nodes.values() for e in n.events if isinstance(e, Resynced)]
    assert [e for e in swarm.nodes["late"].events if isinstance(e, SnapshotFetched)]
    assert_sound(swarm)


@pytest.mark.usefixtures("slow_chunks")
def test_a_slow_disk_closes_no_stay_and_the_last_snapshot_is_of_one_moment() -> None:
    async def story(swarm: SimSwarm) -> None:
        await swarm.finished()

    swarm = play(story, spec(fragments=4, window=2, inner_steps=20, rounds=30), peers=3)
    closed = [e.reason for e in swarm.events if isinstance(e, GenerationClosed)]
    assert [r for r in closed if not r.startswith("left")] == []
    assert not [e for n in swarm.nodes.values() for e in n.events if isinstance(e, Warned)]
    for label in swarm.nodes:
        manifest = manifest_of(swarm, label)
        assert manifest.next_round == 30
        assert not confirmed(swarm, manifest)
    assert_sound(swarm)


BULK = ("blobs/", "results/", "inner/", "snapshot.json", "fetching.json")


def test_the_loop_waits_for_no_file_of_a_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a swarm trains, restarts and joins, chunks, results and pointers are read and written
    in jobs of the pool alone, so that beats wait for no disk."""
    inside: list[bool] = []
    by_the_loop: list[str] = []
    finish = SeededWorkers._finish

    def in_the_pool(self: SeededWorkers, *job: Any) -> None:
        inside.append(True)
        try:
            finish(self, *job)
        finally:
            inside.pop()

    monkeypatch.setattr(SeededWorkers, "_finish", in_the_pool)

    def watch(name: str, small: tuple[str, ...] = ()) -> None:
        real = getattr(MemoryDisk, name)

        def watched(self: MemoryDisk, path: str, *rest: Any) -> Any:
            if path.startswith(BULK) and path not in small and not inside:
                by_the_loop.append(f"{name} {path}")
            return real(self, path, *rest)

        monkeypatch.setattr(MemoryDisk, name, watched)

    async def story(swarm: SimSwarm) -> None:
        # The catalogue that a joiner asks for is a pointer of a hundred bytes.
        watch("read", small=("snapshot.json",))
        for name in ("read_at", "replace", "append", "sync", "names"):
            watch(name)
        await swarm.committed(9)
        await swarm.kill("p1")
        await swarm.committed(14)
        swarm.spawn("p1")
        swarm.add("late", "trainer")
        swarm.spawn("late")
        await swarm.finished()

    swarm = play(story, spec(fragments=2, inner_steps=10, rounds=30), peers=3)
    assert [e for e in swarm.nodes["late"].events if isinstance(e, SnapshotFetched)]
    assert by_the_loop == []
    assert_sound(swarm)
