"""The real disk and its twin in memory answer alike; the twin forgets what was not synced."""

from __future__ import annotations

import contextvars
import errno
import os
from pathlib import Path

import pytest

from farflung.disk import Disk, MemoryDisk, RealDisk
from farflung.errors import StorageError
from farflung.failpoints import arm


@pytest.fixture(params=["memory", "real"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    return MemoryDisk() if request.param == "memory" else RealDisk(tmp_path)


def test_a_file_that_does_not_exist_reads_as_none(disk: Disk) -> None:
    assert disk.read("a/b") is None
    assert disk.size("a/b") is None
    assert disk.names("a") == []
    disk.remove("a/b")  # no error


def test_appended_bytes_come_back_at_once(disk: Disk) -> None:
    disk.append("a/log", b"one")
    disk.append("a/log", b"two")
    disk.sync("a/log")
    assert disk.read("a/log") == b"onetwo"
    assert disk.size("a/log") == 6
    assert disk.read_at("a/log", 2, 2) == b"et"
    assert disk.read_at("a/log", 5, 10) == b"o"


def test_reading_a_piece_of_a_missing_file_is_a_storage_error(disk: Disk) -> None:
    with pytest.raises(StorageError, match="nothing"):
        disk.read_at("nothing", 0, 1)


def test_whatever_the_system_refuses_is_a_storage_error(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path)
    disk.replace("file", b"data")
    with pytest.raises(StorageError, match="file"):
        disk.size("file/below")
    with pytest.raises(StorageError, match="file"):
        disk.remove("file/below")
    with pytest.raises(StorageError, match="file"):
        disk.read("file/below")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="folder"):
        disk.remove("folder")
    with pytest.raises(StorageError):
        RealDisk(tmp_path / "file" / "below")


def test_truncate_cuts_and_appending_goes_on_there(disk: Disk) -> None:
    disk.append("log", b"onetwo")
    disk.truncate("log", 3)
    disk.append("log", b"!")
    disk.sync("log")
    assert disk.read("log") == b"one!"


def test_replace_writes_the_whole_file(disk: Disk) -> None:
    disk.replace("a/state", b"old and long")
    disk.replace("a/state", memoryview(b"new"))
    assert disk.read("a/state") == b"new"
    assert disk.names("a") == ["state"]


def test_names_are_sorted_and_of_one_folder_only(disk: Disk) -> None:
    for name in ("f/b", "f/a", "f/deep/c", "top"):
        disk.replace(name, b"")
    assert disk.names("f") == ["a", "b"]
    assert disk.names("") == ["top"]


def test_a_removed_file_can_be_written_again(disk: Disk) -> None:
    disk.append("log", b"one")
    disk.remove("log")
    assert disk.read("log") is None
    disk.append("log", b"two")
    assert disk.read("log") == b"two"


# ---- the twin ------------------------------------------------------------------------------


def test_a_crash_forgets_what_was_not_synced() -> None:
    disk = MemoryDisk()
    disk.append("log", b"one")
    disk.sync("log")
    disk.append("log", b"two")
    disk.append("other", b"never")
    assert disk.crash().read("log") == b"one"
    assert disk.crash().read("other") is None
    assert disk.crash(torn_bytes=2).read("log") == b"onetw"


def test_a_crash_keeps_replaced_files_and_truncations() -> None:
    disk = MemoryDisk()
    disk.replace("state", b"new")
    disk.append("log", b"onetwo")
    disk.truncate("log", 3)
    assert disk.crash().read("state") == b"new"
    assert disk.crash().read("log") == b"one"


def test_a_full_twin_refuses_every_write_and_keeps_what_it_has() -> None:
    disk = MemoryDisk({"log": b"one"})
    disk.full = True
    for write in (disk.append, disk.replace):
        with pytest.raises(StorageError, match="no space left on the disk while writing log"):
            write("log", b"two")
    assert disk.read("log") == b"one"


# ---- the real one --------------------------------------------------------------------------


def test_a_replace_that_fails_leaves_the_old_file_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = RealDisk(tmp_path)
    disk.replace("state", b"old")

    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match="no space left on the disk while writing state"):
        disk.replace("state", b"new")
    monkeypatch.undo()
    assert disk.read("state") == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["state"]


def test_a_disk_error_names_the_file_and_the_systems_reason(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="folder: Is a directory"):
        RealDisk(tmp_path).read("folder")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="file"):
        RealDisk(tmp_path / "file" / "below")


def test_files_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path)
    disk.append("log", b"x")
    assert (tmp_path / "log").stat().st_mode & 0o077 == 0


def test_a_closed_disk_opens_its_files_again(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path)
    disk.append("log", b"one")
    disk.close()
    disk.append("log", b"two")
    disk.sync("log")
    assert disk.read("log") == b"onetwo"
    assert disk.free_bytes() > 0


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "no space left on the disk while writing state"),
        (errno.EDQUOT, "quota is used up while writing state"),
        (errno.EFBIG, "state may not grow any more"),
        (errno.EIO, "the disk failed while reading or writing state"),
        (errno.EROFS, "state is on a disk that is mounted read-only"),
    ],
)
def test_every_way_to_be_full_or_broken_has_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str
) -> None:
    disk = RealDisk(tmp_path)

    def refuse(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match=words):
        disk.replace("state", b"new")


@pytest.mark.parametrize(
    ("place", "left"), [("disk.before-rename", b"old"), ("disk.renamed", b"new")]
)
def test_a_replacement_that_fails_leaves_one_whole_file(
    disk: Disk, place: str, left: bytes
) -> None:
    disk.replace("a/file", b"old")

    def fail() -> None:
        raise StorageError("the disk refuses")

    def replace() -> None:
        arm(place, 1, fail)
        disk.replace("a/file", b"new")

    with pytest.raises(StorageError, match="refuses"):
        contextvars.copy_context().run(replace)
    assert disk.read("a/file") == left


def test_what_a_killed_process_was_writing_is_swept_away(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path)
    disk.replace("a/kept", b"whole")
    (tmp_path / "a" / ".half.tmp").write_bytes(b"ha")
    disk.sweep()
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["kept"]
