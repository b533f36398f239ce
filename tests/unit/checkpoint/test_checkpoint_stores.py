"""Blobs by hash, and the round log."""

from __future__ import annotations

from pathlib import Path

import pytest

from farflung.checkpoint.blob_store import BlobStore
from farflung.checkpoint.round_log import RoundLog
from farflung.disk import Disk, MemoryDisk, RealDisk
from farflung.errors import StorageError
from farflung.hashing import digest, merkle_root

SLICES = [b"first slice", b"second", b"the third slice"]
HASHES = [digest(s) for s in SLICES]
LENGTHS = [len(s) for s in SLICES]


@pytest.fixture(params=["memory", "real"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    return MemoryDisk() if request.param == "memory" else RealDisk(tmp_path)


# ---- blobs ---------------------------------------------------------------------------------


def test_a_blob_is_found_under_the_hash_of_its_bytes(disk: Disk) -> None:
    store = BlobStore(disk)
    name = store.put(b"hello")
    assert name == digest(b"hello")
    assert store.has(name) and store.get(name) == b"hello"
    assert store.read(name, 1, 3) == b"ell"
    assert store.put(memoryview(b"hello")) == name


@pytest.mark.parametrize("name", [b"", b"x", b"../../etc/passwd", bytes(31), bytes(33)])
def test_a_name_that_is_no_hash_is_never_looked_up(disk: Disk, name: bytes) -> None:
    store = BlobStore(disk)
    store.put(b"something, so that the folder is there")
    assert not store.has(name)
    assert store.get(name) is None
    assert store.read(name, 0, 1) is None


def test_an_unknown_blob_and_impossible_pieces_are_not_there(disk: Disk) -> None:
    store = BlobStore(disk)
    name = store.put(b"hello")
    assert store.get(bytes(32)) is None and store.read(bytes(32), 0, 1) is None
    assert store.read(name, -1, 2) is None
    assert store.read(name, 0, -2) is None
    assert store.read(name, 99, 2) == b""


def test_a_file_that_vanished_is_a_storage_error(disk: Disk, tmp_path: Path) -> None:
    store, name = BlobStore(disk), digest(b"tokens")
    store.add_file(name, tmp_path / "shard.bin")
    with pytest.raises(StorageError, match=r"shard\.bin: No such file"):
        store.get(name)
    with pytest.raises(StorageError, match=r"shard\.bin: No such file"):
        store.read(name, 0, 1)
    assert store.file_bytes() == 0


def test_files_are_served_from_where_they_are(disk: Disk, tmp_path: Path) -> None:
    path = tmp_path / "shard.bin"
    path.write_bytes(b"tokens")
    store = BlobStore(disk)
    store.add_file(digest(b"tokens"), path)
    assert store.get(digest(b"tokens")) == b"tokens"
    assert store.read(digest(b"tokens"), 2, 2) == b"ke"


def test_only_the_named_blobs_are_kept_and_odd_files_go(disk: Disk) -> None:
    store = BlobStore(disk)
    kept, gone = store.put(b"kept"), store.put(b"gone")
    disk.replace("blobs/not-a-hash", b"?")
    assert store.keep_only({kept}) == 2
    assert store.has(kept) and not store.has(gone)
    assert disk.names("blobs") == [kept.hex()]


def test_a_full_disk_stores_nothing() -> None:
    disk = MemoryDisk()
    disk.full = True
    with pytest.raises(StorageError, match="no space left"):
        BlobStore(disk).put(b"x")
    assert not BlobStore(disk).has(digest(b"x"))


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    store, folder = BlobStore(MemoryDisk()), digest(b"folder")
    store.add_file(folder, tmp_path)
    for read in (lambda: store.read(folder, 0, 1), lambda: store.get(folder)):
        with pytest.raises(StorageError, match="directory"):
            read()


# ---- the round log -------------------------------------------------------------------------


def served(disk: Disk, log: RoundLog, name: bytes, offset: int, length: int) -> bytes | None:
    place = log.place(name, offset, length)
    return None if place is None else disk.read_at(*place, length)


def test_results_are_stored_under_their_bytes_root_and_come_back(disk: Disk) -> None:
    log = RoundLog(disk)
    assert log.store(4, SLICES) == merkle_root(HASHES)
    assert log.has(HASHES)
    assert log.load(HASHES, LENGTHS) == SLICES
    assert RoundLog(disk).load(HASHES, LENGTHS) == SLICES  # after a restart


def test_results_are_durable_before_they_are_promised() -> None:
    disk = MemoryDisk()
    RoundLog(disk).store(4, SLICES)
    assert RoundLog(disk.crash()).load(HASHES, LENGTHS) == SLICES


def test_slices_are_served_by_their_own_hash(disk: Disk) -> None:
    log = RoundLog(disk)
    log.store(4, SLICES)
    assert served(disk, log, HASHES[1], 0, LENGTHS[1]) == SLICES[1]
    assert served(disk, log, HASHES[2], 4, 5) == SLICES[2][4:9]
    assert log.length(HASHES[2]) == LENGTHS[2]


@pytest.mark.parametrize(("offset", "length"), [(-1, 2), (0, 7), (6, 1), (2, -1)])
def test_no_byte_outside_the_slice_is_served(disk: Disk, offset: int, length: int) -> None:
    log = RoundLog(disk)
    log.store(4, SLICES)
    assert served(disk, log, HASHES[1], offset, length) is None


def test_an_unknown_slice_is_not_there(disk: Disk) -> None:
    log = RoundLog(disk)
    assert served(disk, log, bytes(32), 0, 1) is None
    assert log.length(bytes(32)) is None
    assert log.load(HASHES, LENGTHS) is None
    assert not log.has(HASHES)


def test_a_restarted_node_serves_what_the_journal_says_it_has(disk: Disk) -> None:
    RoundLog(disk).store(4, SLICES)
    log = RoundLog(disk)
    assert served(disk, log, HASHES[0], 0, 5) is None  # not known yet
    log.note(4, HASHES, LENGTHS)
    assert served(disk, log, HASHES[0], 0, 5) == b"first"


@pytest.mark.parametrize("damage", ["flip", "cut", "grow"])
def test_damaged_results_are_not_returned(disk: Disk, damage: str) -> None:
    log = RoundLog(disk)
    path = f"results/{log.store(4, SLICES).hex()}"
    data = disk.read(path) or b""
    changed = {"flip": b"F" + data[1:], "cut": data[:-1], "grow": data + b"!"}[damage]
    disk.replace(path, changed)
    assert log.load(HASHES, LENGTHS) is None


def test_a_resolved_round_keeps_only_the_committed_results(disk: Disk) -> None:
    log = RoundLog(disk)
    failed, committed = log.store(4, [b"attempt 1"]), log.store(4, SLICES)
    other = log.store(5, [b"round 5"])
    log.resolved(4, committed)
    assert disk.names("results") == sorted([committed.hex(), other.hex()])
    assert served(disk, log, digest(b"attempt 1"), 0, 1) is None
    assert failed != committed
    log.resolved(5, None)
    assert disk.names("results") == [committed.hex()]


def test_rounds_below_the_floor_are_forgotten(disk: Disk) -> None:
    log = RoundLog(disk)
    roots = [log.store(r, [b"round %d" % r]) for r in range(5)]
    log.trim(3)
    assert disk.names("results") == sorted(r.hex() for r in roots[3:])
    assert served(disk, log, digest(b"round 2"), 0, 1) is None
    assert served(disk, log, digest(b"round 3"), 0, 5) == b"round"


def test_a_file_of_another_thread_is_not_known_until_it_is_noted_and_not_a_leftover() -> None:
    """Tables changed by the pool broke sums over them on the loop, and lost what they indexed."""
    disk = MemoryDisk()
    RoundLog(disk).store(3, [b"of a former process"])
    log = RoundLog(disk)
    with log.writing():
        log.write(HASHES, SLICES)
        assert (log.n_bytes, log.rounds()) == (0, [])
        assert log.busy
        log.note(4, HASHES, LENGTHS)
    assert not log.busy
    assert log.rounds() == [4]
    assert log.drop_unknown() == 1
    assert log.load(HASHES, LENGTHS) == SLICES


def test_a_full_disk_promises_nothing() -> None:
    disk = MemoryDisk()
    disk.full = True
    log = RoundLog(disk)
    with pytest.raises(StorageError):
        log.store(4, SLICES)
    assert log.load(HASHES, LENGTHS) is None
    assert log.length(HASHES[0]) is None
