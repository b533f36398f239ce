"""Folders made again from an archive: by hash, on from where it stopped, with other peers."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from archive_samples import ROUNDS, WORKERS, Keeper, files_of, run, spec

from farflung.archive.fetch import Fetched, StateFetch, fetch_data
from farflung.archive.index import INDEX, ArchivedFile, decode_index
from farflung.archive.memory_store import MemoryStore
from farflung.archive.source import ArchiveSource, NodeSource, SnapshotSource
from farflung.archive.survey import read_history, steady_survey, survey
from farflung.checkpoint.snapshot import newest
from farflung.disk import MemoryDisk
from farflung.errors import CorruptState, UserError
from farflung.failpoints import Killed
from farflung.hashing import digest
from farflung.ids import Role
from farflung.sim.loop import run_virtual
from farflung.sim.world import JOURNAL, KEEPER, RUN, SimSwarm
from farflung.swarm.ledger import audit

MOMENT = 2


def archive(*moments: int) -> MemoryStore:
    store = MemoryStore()
    for moment in moments or (1, MOMENT):
        run(Keeper.at(moment).send(store))
    return store


async def fetched(store: MemoryStore, disk: MemoryDisk) -> Fetched:
    source = await ArchiveSource.open(store)
    history = await read_history(source, WORKERS)
    return await StateFetch(source, history, disk, WORKERS).fetch(await source.journal())


def test_a_folder_is_made_that_leads_to_the_archives_newest_round() -> None:
    disk = MemoryDisk()
    done = run(fetched(archive(), disk))
    assert done.reaches >= done.next_round - 1 >= 3 and not done.skipped
    pointer = newest(disk)
    assert pointer is not None and pointer.next_round == done.next_round
    assert all(digest(disk.read(f"blobs/{n}") or b"").hex() == n for n in disk.names("blobs"))
    assert not [n for n in files_of(disk) if "key" in n]


def test_a_fetch_that_dies_at_any_operation_goes_on_and_moves_nothing_twice() -> None:
    store = archive()
    whole = MemoryDisk()
    total = run(fetched(store, whole)).bytes
    for at in itertools.count(1):
        disk, left = MemoryDisk(), itertools.count(at - 1, -1)

        def die(left: itertools.count[int] = left) -> None:
            if next(left) == 0:
                raise Killed

        disk.on_write = die
        try:
            run(fetched(store, disk))
        except Killed:
            pass
        else:
            break
        after = disk.crash()
        here = sum(len(d) for n, d in files_of(after).items() if "/" in n)
        assert newest(after) is None  # the pointer is the last: nobody takes a half for a whole
        assert run(fetched(store, after)).bytes == total - here
        assert files_of(after) == files_of(whole)
    assert at > 8


def test_damage_on_this_disk_is_fetched_again() -> None:
    store, disk = archive(), MemoryDisk()
    run(fetched(store, disk))
    whole = files_of(disk)
    for name in [n for n in whole if "/" in n]:
        disk.replace(name, whole[name][:-1] + bytes([whole[name][-1] ^ 1]))
        assert run(fetched(store, disk)).bytes == len(whole[name])
        assert files_of(disk) == whole


def test_a_damaged_newest_snapshot_gives_way_to_the_one_before() -> None:
    store = archive()
    names = [s.name for s in decode_index(store.objects[INDEX], "").snapshots]
    older = {n for n, d in store.objects.items() if names[0].encode() in n.encode()}
    assert older
    only_new = set(archive().objects) - set(archive(1).objects)
    victim = next(n for n in only_new if n.startswith("blobs/") and names[-1] not in n)
    store.objects[victim] = b"other bytes"
    done = run(fetched(store, MemoryDisk()))
    assert victim in done.skipped[0]
    first = decode_index(store.objects[INDEX], "").snapshots[-2].next_round
    assert done.next_round == first and done.reaches >= 4  # by the results that are kept for it


def test_nothing_whole_is_a_sentence_that_names_the_object() -> None:
    store = archive(1)
    for name in [n for n in store.objects if n.startswith("blobs/")]:
        store.objects[name] = b"?"
    with pytest.raises(CorruptState, match=r"no whole snapshot: memory/blobs/[0-9a-f]{64} is"):
        run(fetched(store, MemoryDisk()))


def test_a_journal_that_was_changed_is_refused() -> None:
    store = archive(1)
    piece = next(n for n in store.objects if n.startswith("journal/"))
    data = bytearray(store.objects[piece])
    data[len(data) // 2] ^= 1
    store.objects[piece] = bytes(data)
    with pytest.raises(CorruptState, match=piece):
        run(fetched(store, MemoryDisk()))
    with pytest.raises(UserError, match=r"holds no archive\.json"):
        run(fetched(MemoryStore(), MemoryDisk()))


def test_an_answer_that_is_cut_short_is_asked_again() -> None:
    store = archive()
    cuts = itertools.count()
    store.cut = lambda name: 100 if name.startswith("blobs/") and next(cuts) % 2 == 0 else None
    assert not run(fetched(store, MemoryDisk())).skipped
    assert next(cuts) > 10


def test_what_an_upload_removes_while_somebody_looks_is_no_damage() -> None:
    """The index is read; then the whole archive moves on; the old names are gone."""
    store = MemoryStore()
    run(Keeper.at(1).send(store, keep=1))
    later = iter([2, 3])
    opened = itertools.count()

    async def reopen() -> SnapshotSource:
        source = await ArchiveSource.open(store)
        next(opened)
        for moment in itertools.islice(later, 1):
            await Keeper.at(moment).send(store, keep=1)
        return source

    found = run(steady_survey(reopen, WORKERS, verify=True))
    assert not [row.damage for row in found.rows if row.damage]
    assert found.rows[-1].place.next_round == 9 and next(opened) == 3
    victim = next(n for n in store.objects if n.startswith("blobs/"))
    del store.objects[victim]  # and damage stays damage
    found = run(steady_survey(reopen, WORKERS))
    assert any(victim in row.damage for row in found.rows)
    del store.objects[next(n for n in store.objects if n.startswith("journal/"))]
    with pytest.raises(CorruptState, match="is missing"):
        run(steady_survey(reopen, WORKERS))


# ---- a node's folder -----------------------------------------------------------------------


def test_a_keepers_folder_is_listed_and_its_first_damaged_object_named(tmp_path: Path) -> None:
    for name, data in files_of(Keeper.at(4).disk).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    source = NodeSource(tmp_path, RUN, WORKERS)
    found = run(survey(source, WORKERS, verify=True))
    assert [row.damage for row in found.rows] == [""] * len(found.rows)
    assert len(found.rows) >= 2 and found.rows[0].place.genesis
    assert found.rows[-1].place.next_round == ROUNDS
    assert found.rows[-1].tokens == found.rows[-1].tokens > found.rows[0].tokens == 0
    manifests = {row.place.name for row in found.rows}
    victim = next(n for n in sorted((tmp_path / "blobs").iterdir()) if n.name not in manifests)
    data = victim.read_bytes()
    victim.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert not any(row.damage for row in run(survey(source, WORKERS)).rows)  # its size is right
    deep = run(survey(source, WORKERS, verify=True))
    assert any(f"blobs/{victim.name} is damaged" in row.damage for row in deep.rows)
    victim.unlink()
    quick = run(survey(source, WORKERS))
    assert any(f"blobs/{victim.name} is missing" in row.damage for row in quick.rows)


# ---- the run goes on -----------------------------------------------------------------------


@pytest.mark.parametrize("peers", [3, 5])
def test_a_resumed_run_ends_like_any_other_with_another_number_of_peers(peers: int) -> None:
    """Every machine of the first half is lost; the archive is all there is."""
    store = archive()
    keeper = MemoryDisk()
    done = run(fetched(store, keeper))

    async def main() -> SimSwarm:
        swarm = SimSwarm(spec(), seed=0)
        swarm.disk.replace(JOURNAL, keeper.read(JOURNAL) or b"")
        node = swarm.add(KEEPER, Role.KEEPER)
        node.disk = keeper
        await swarm.start_coordinator()
        swarm.spawn(KEEPER)
        for i in range(peers):
            swarm.add(f"new{i}", Role.TRAINER)
            swarm.spawn(f"new{i}")
        try:
            await swarm.finished()
            roots.update(swarm.roots())
        finally:
            await swarm.stop()
        return swarm

    roots: dict[str, bytes] = {}
    swarm = run_virtual(main())
    commits = swarm.commits()
    assert len(commits) == ROUNDS and done.reaches < ROUNDS - 1
    resumed = [c for c in commits if c.round > done.reaches]
    assert max(len(c.contributors) for c in resumed) == peers
    assert set(roots.values()) == {commits[-1].state_root}
    assert (audit(swarm.records()).duplicated) == 0
    straight = list(straight_losses().values())
    assert swarm.picture.loss_last < 0.5 * straight[0]
    assert swarm.picture.loss_last == pytest.approx(straight[-1], rel=0.5)


def straight_losses() -> dict[int, float]:
    """Of the same run without an interruption."""

    async def main() -> dict[int, float]:
        swarm = await SimSwarm.start(spec(), peers=3)
        try:
            await swarm.finished()
        finally:
            await swarm.stop()
        return dict(swarm.picture.losses)

    return run_virtual(main())


# ---- token shards --------------------------------------------------------------------------


class Shards:
    """A source with two data files."""

    address = "shards"

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.asked: list[tuple[int, int]] = []

    async def data(self) -> list[ArchivedFile]:
        return [
            ArchivedFile(file=name, name=digest(data).hex(), n_bytes=len(data))
            for name, data in self.files.items()
        ]

    async def blob_range(self, name: bytes, offset: int, length: int) -> bytes:
        self.asked.append((offset, length))
        data = next(d for d in self.files.values() if digest(d) == name)
        return data[offset : offset + length]


def test_a_shard_that_was_cut_off_is_gone_on_with_and_a_damaged_one_fetched_anew(
    tmp_path: Path,
) -> None:
    source = Shards({"manifest.json": b"{}", "train.bin": bytes(range(256)) * 64})
    (tmp_path / "train.bin.part").write_bytes(source.files["train.bin"][:1000])
    assert run(fetch_data(source, tmp_path, WORKERS))  # type: ignore[arg-type]
    assert source.asked[0] == (1000, 256 * 64 - 1000)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == source.files
    (tmp_path / "train.bin").write_bytes(b"damaged")
    (tmp_path / "train.bin.part").write_bytes(b"damaged too")
    assert run(fetch_data(source, tmp_path, WORKERS))  # type: ignore[arg-type]
    assert (tmp_path / "train.bin").read_bytes() == source.files["train.bin"]
    assert not run(fetch_data(Shards({}), tmp_path, WORKERS))  # type: ignore[arg-type]
