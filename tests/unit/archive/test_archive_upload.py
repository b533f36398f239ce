"""An upload may die anywhere: a reader finds a whole snapshot, and the next upload completes it."""

from __future__ import annotations

import itertools

import pytest
from archive_samples import MOMENTS, Keeper, run, surveyed

from farflung.archive.index import INDEX, decode_index
from farflung.archive.memory_store import MemoryStore
from farflung.archive.store import StoreError
from farflung.archive.upload import ArchiveRefused, SnapshotOvertaken
from farflung.checkpoint.snapshot import newest
from farflung.errors import CorruptState
from farflung.failpoints import Killed
from farflung.hashing import digest


def uploaded(*to: int, **rules: int) -> MemoryStore:
    """An archive that saw the keeper at these moments."""
    store = MemoryStore()
    for moment in to:
        run(Keeper.at(moment).send(store, **rules))
    return store


def unlisted(store: MemoryStore) -> set[str]:
    """Objects that a whole new upload would not have sent."""
    fresh = MemoryStore(dict(store.objects))
    before = set(fresh.objects)
    run(Keeper.at(len(MOMENTS)).send(fresh, keep=1))
    run(Keeper.at(len(MOMENTS)).send(fresh, keep=1))
    return before - set(fresh.objects)


def test_every_snapshot_of_an_archive_is_whole_and_leads_to_the_newest_round() -> None:
    store = uploaded(0, 1, 2, 3, 4)
    found = run(surveyed(store))
    assert [row.damage for row in found.rows] == [""] * len(found.rows)
    assert len({row.place.next_round for row in found.rows}) == len(found.rows) >= 4
    assert found.rows[-1].place.next_round == 12 and found.rows[-1].reaches == 11
    assert [row.tokens for row in found.rows] == sorted(row.tokens for row in found.rows)
    assert found.rows[0].place.genesis and found.rows[0].tokens == 0


def test_an_object_is_sent_once_however_often_it_is_needed() -> None:
    store = uploaded(1)
    first = [name for operation, name in store.log if operation == "put"]
    assert len(first) == len(set(first))
    store.log.clear()
    assert run(Keeper.at(1).send(store)).bytes == 0
    puts = [name for operation, name in store.log if operation == "put"]
    assert puts == []


def test_the_index_is_the_last_that_is_written_and_comes_before_anything_is_removed() -> None:
    store = uploaded(1)
    store.log.clear()
    run(Keeper.at(3).send(store, keep=1))
    operations = [(o, n) for o, n in store.log if o in ("put", "delete")]
    at = operations.index(("put", INDEX))
    assert {o for o, _ in operations[:at]} == {"put"}
    assert {o for o, _ in operations[at + 1 :]} == {"delete"}


@pytest.mark.parametrize("keep", [1, 4])
def test_an_upload_that_dies_at_any_operation_leaves_a_whole_snapshot(keep: int) -> None:
    before = uploaded(1, keep=keep)
    old = run(surveyed(before)).rows[-1].place.name
    new = newest(Keeper.at(3).disk)
    assert new is not None and new.manifest != old
    whole = uploaded(1, 3, keep=keep)
    for at in itertools.count(1):
        store = MemoryStore(dict(before.objects))
        died = _dies(store, at, keep)
        found = run(surveyed(store))
        assert [row.damage for row in found.rows] == [""] * len(found.rows), at
        assert found.rows[-1].place.name in (old, new.manifest), at
        again = MemoryStore(dict(store.objects))
        run(Keeper.at(3).send(again, keep=keep))
        assert {n for n in again.objects if n != INDEX} == {
            n for n in whole.objects if n != INDEX
        }, at
        assert run(surveyed(again)).rows[-1].place.name == new.manifest
        if not died:
            break
    assert at > 10


def _dies(store: MemoryStore, at: int, keep: int) -> bool:
    left = itertools.count(at - 1, -1)

    def before(_operation: str, _name: str) -> None:
        if next(left) == 0:
            raise Killed

    store.before = before
    try:
        run(Keeper.at(3).send(store, keep=keep))
    except Killed:
        return True
    finally:
        store.before = lambda _operation, _name: None
    return False


def test_a_first_upload_that_dies_leaves_nothing_that_looks_like_an_archive() -> None:
    for at in itertools.count(1):
        store = MemoryStore()
        died = _dies(store, at, 4)
        if INDEX in store.objects:
            break
        assert died
        run(Keeper.at(3).send(store))
        assert run(surveyed(store)).rows[-1].damage == ""
    assert at > 10


def test_only_what_no_kept_snapshot_names_is_removed() -> None:
    store = uploaded(0, 1, 2, 3, 4, keep=2)
    found = run(surveyed(store))
    assert len(found.rows) == 3  # two, and the initial weights
    assert all(not row.damage for row in found.rows)
    kept = decode_index(store.objects[INDEX], "")
    oldest = kept.snapshots[0].next_round
    assert min(r.round for r in kept.results) == oldest
    assert unlisted(uploaded(4, keep=1)) == set()


def test_snapshots_go_by_age_but_never_the_newest() -> None:
    store = uploaded(1, 2, 3, max_age_s=1)
    found = run(surveyed(store))
    assert len([row for row in found.rows if not row.place.genesis]) == 1
    assert not found.rows[-1].damage


def test_what_comes_after_the_snapshot_follows_without_another_one() -> None:
    """Results and records as rounds are committed; a short last piece of the journal is merged."""
    store = uploaded(1)
    keeper = Keeper.at(2)

    async def follow() -> list[bool]:
        upload = keeper.upload(store)
        assert await upload.open()
        return [await upload.tail(), await upload.tail()]

    assert run(follow()) == [True, False]
    found = run(surveyed(store))
    assert found.rows[-1].place.next_round < MOMENTS[2]
    assert found.rows[-1].reaches >= MOMENTS[2] - 1
    assert len(decode_index(store.objects[INDEX], "").journal) == 1
    assert len([n for n in store.objects if n.startswith("journal/")]) == 1


def test_the_archives_journal_ends_where_a_result_is_lacking() -> None:
    """A commit without its bytes could not be replayed by whoever has the archive alone."""
    store = uploaded(1)
    keeper = Keeper.at(2)
    for name in keeper.disk.names("results"):
        if f"results/{name}" not in store.objects:
            keeper.disk.remove(f"results/{name}")
    before = run(surveyed(store))

    async def follow() -> None:
        upload = keeper.upload(store)
        assert await upload.open()
        await upload.tail()

    run(follow())
    after = run(surveyed(store))
    assert after.rows[-1].reaches == before.rows[-1].reaches
    assert after.records < keeper.journal.length


def test_a_snapshot_that_is_gone_or_damaged_here_is_not_archived() -> None:
    for damage, error in ((None, SnapshotOvertaken), (b"x" * 99, CorruptState)):
        store = uploaded(1)
        keeper = Keeper.at(3)
        pointer = newest(keeper.disk)
        assert pointer is not None
        lacking = next(
            n
            for n in keeper.disk.names("blobs")
            if f"blobs/{n}" not in store.objects and n != pointer.manifest
        )
        keeper.disk.remove(f"blobs/{lacking}")
        if damage is not None:
            keeper.disk.replace(f"blobs/{lacking}", damage)
        with pytest.raises(error):
            run(keeper.send(store))
        assert not run(surveyed(store)).rows[-1].damage
        assert all(digest(d).hex() == n[6:] for n, d in store.objects.items() if n[:5] == "blobs")


def test_an_object_that_a_broken_store_cut_short_is_sent_again() -> None:
    store = uploaded(3)
    manifests = {p.name for p in decode_index(store.objects[INDEX], "").places}
    for name in list(store.objects):
        folder, _, hashed = name.partition("/")
        if folder not in ("blobs", "results") or hashed in manifests:
            continue
        cut = MemoryStore(dict(store.objects))
        cut.objects[name] = cut.objects[name][:-1]
        assert any(row.damage for row in run(surveyed(cut)).rows), name
        run(Keeper.at(3).send(cut))
        assert not any(row.damage for row in run(surveyed(cut)).rows), name


def test_a_store_that_fails_for_a_while_costs_time_only() -> None:
    store = uploaded(1)
    failures = itertools.count()

    def before(operation: str, name: str) -> None:
        if operation == "put" and next(failures) == 2:
            raise StoreError(f"{name}: 503")

    store.before = before
    store.log.clear()
    keeper = Keeper.at(3)

    async def twice() -> int:
        upload = keeper.upload(store)
        assert await upload.open()
        pointer = newest(keeper.disk)
        assert pointer is not None
        with pytest.raises(StoreError, match="503"):
            await upload.snapshot(pointer)
        half = len([1 for o, _ in store.log if o == "put"])
        sent = await upload.snapshot(pointer)
        assert sent.reused > 0
        return half

    assert run(twice()) == 3
    names = [n for o, n in store.log if o == "put" and n != INDEX]
    assert len(names) == len(set(names)) + 1  # the one that failed


def test_another_runs_archive_and_another_branch_of_this_one_are_refused() -> None:
    store = uploaded(1)
    index = store.objects[INDEX]
    store.objects[INDEX] = index.replace(b"5eed5eed5eed5eed", b"0123456789abcdef")
    with pytest.raises(ArchiveRefused, match="0123456789abcdef"):
        run(Keeper.at(2).send(store))
    head = decode_index(index, "").head
    store.objects[INDEX] = index.replace(head.encode(), b"ab" * 32)
    with pytest.raises(ArchiveRefused, match="two coordinators"):
        run(Keeper.at(2).send(store))


def test_a_keeper_that_lags_behind_its_archive_waits() -> None:
    store = uploaded(4)
    before = dict(store.objects)
    assert run(Keeper.at(1).upload(store).open()) is False
    assert store.objects == before


def test_progress_rises_to_the_whole() -> None:
    seen: list[tuple[int, int]] = []
    keeper = Keeper.at(3)

    async def main() -> None:
        upload = keeper.upload(MemoryStore(), lambda here, total: seen.append((here, total)))
        assert await upload.open()
        pointer = newest(keeper.disk)
        assert pointer is not None
        await upload.snapshot(pointer)

    run(main())
    assert seen[-1][0] == seen[-1][1] > 0
