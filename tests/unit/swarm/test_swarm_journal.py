"""The journal: what is written comes back, and nothing else does."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from swarm_samples import (
    PATH,
    RUN_KEY,
    check,
    genesis,
    mark,
    one_of_each,
    open_journal,
    sign,
    written,
)

from farflung.disk import MemoryDisk, RealDisk
from farflung.errors import CorruptState, ProtocolError, StorageError
from farflung.swarm.identity import Identity
from farflung.swarm.journal import EMPTY, HEADER, Journal
from farflung.swarm.records import AnyRecord, Genesis, Term

GOLDEN = Path(__file__).parents[2] / "golden" / "swarm_journal.bin"
BEFORE_AMEND = GOLDEN.with_name("swarm_journal_without_amend.bin")
"""As versions wrote it that knew no AMEND."""


def content(disk: MemoryDisk) -> bytes:
    data = disk.read(PATH)
    assert data is not None
    return data


def prefixes(records: list[AnyRecord]) -> list[list[AnyRecord]]:
    return [records[:n] for n in range(len(records) + 1)]


def test_a_journal_with_one_record_of_every_kind_has_the_golden_bytes() -> None:
    assert content(written()) == GOLDEN.read_bytes()


def test_the_golden_journal_still_opens() -> None:
    journal = open_journal(MemoryDisk({PATH: GOLDEN.read_bytes()}))
    assert list(journal.records()) == one_of_each()
    assert journal.cut_bytes == 0


def test_a_new_journal_is_empty_and_its_head_is_zero() -> None:
    journal = open_journal(MemoryDisk())
    assert (journal.length, journal.head) == (0, EMPTY)


def test_a_journal_of_a_version_without_amendments_opens_and_goes_on() -> None:
    disk = MemoryDisk({PATH: BEFORE_AMEND.read_bytes()})
    journal = open_journal(disk)
    found = [r for r in journal.records() if not isinstance(r, Genesis)]
    assert found == [r for r in one_of_each() if isinstance(r, tuple({type(f) for f in found}))]
    journal.append(one_of_each()[-1])
    assert list(open_journal(disk).records())[1:] == [*found, one_of_each()[-1]]


def test_appending_one_by_one_gives_the_same_bytes_as_all_at_once() -> None:
    disk = MemoryDisk()
    journal = open_journal(disk)
    for record in one_of_each():
        journal.append(record)
    assert content(disk) == content(written())


class Table(list[Any]):
    """Looks at the journal before and after each entry."""

    def __init__(self, content: list[Any], look: Callable[[], None]) -> None:
        super().__init__(content)
        self._look = look

    def append(self, entry: Any) -> None:
        self._look()
        super().append(entry)
        self._look()


def test_a_reader_in_another_thread_sees_whole_entries_only() -> None:
    """The coordinator appends in the pool while its loop answers those who connect."""
    journal = open_journal(MemoryDisk())
    journal.append_all(one_of_each()[:1])
    whole = len(journal.append(Term(term=2)))
    looks = []

    def look() -> None:
        assert len(journal.frame(journal.length - 1)) == whole
        looks.append(journal.hash_at(journal.length))

    tables = {k: v for k, v in vars(journal).items() if isinstance(v, list)}
    vars(journal).update({k: Table(v, look) for k, v in tables.items()})
    journal.append_all([Term(term=2)] * 2)
    assert len(tables) == 2
    assert len(looks) == 2 * 2 * len(tables)


def test_frames_are_found_again_by_their_index() -> None:
    disk = MemoryDisk()
    journal = open_journal(disk)
    frames = journal.append_all(one_of_each())
    assert [journal.frame(i) for i in range(journal.length)] == frames
    assert journal.frames(3, 1) == [frames[3]]
    assert journal.frames(0, 10**6) == frames
    assert journal.frames(0, len(frames[0]) + len(frames[1])) == frames[:2]
    assert journal.frames(journal.length, 100) == []
    assert list(journal.records(3)) == one_of_each()[3:]


def test_a_journal_cut_at_any_byte_opens_to_a_prefix_and_goes_on() -> None:
    records, whole = one_of_each(), content(written())
    allowed = prefixes(records)
    for cut in range(len(whole)):
        disk = MemoryDisk({PATH: whole[:cut]})
        journal = open_journal(disk)
        assert list(journal.records()) in allowed
        assert len(content(disk)) == cut - journal.cut_bytes or cut < len(HEADER)
        follow: AnyRecord = Term(term=9) if journal.length else genesis()
        journal.append(follow)
        assert list(open_journal(disk).records())[-1] == follow


def _open_or_refuse(data: bytes) -> list[AnyRecord] | None:
    try:
        return list(open_journal(MemoryDisk({PATH: data})).records())
    except CorruptState:
        return None


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_a_flipped_byte_is_refused_or_costs_the_last_record_only(mask: int) -> None:
    records, whole = one_of_each(), content(written())
    last = len(whole) - len(open_journal(MemoryDisk({PATH: whole})).frame(len(records) - 1))
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= mask
        opened = _open_or_refuse(bytes(damaged))
        if at < last:
            assert opened is None, f"byte {at} of {last} went unnoticed"
        else:
            assert opened in (None, records[:-1])


def test_damage_in_the_middle_leaves_the_file_as_it_was() -> None:
    data = bytearray(content(written()))
    data[len(HEADER) + 3] ^= 0xFF  # the first frame's length now points behind the end
    disk = MemoryDisk({PATH: bytes(data)})
    with pytest.raises(CorruptState, match=r"damaged at byte 12, before its end.*--restore-from"):
        open_journal(disk)
    assert content(disk) == bytes(data)


def test_a_file_of_another_version_is_refused() -> None:
    words = "journal version 1, this farflung reads 2; use the farflung that wrote it"
    with pytest.raises(CorruptState, match=words):
        open_journal(MemoryDisk({PATH: b"FFJOURNL\x01\0\0\0" + bytes(100)}))


@pytest.mark.parametrize("data", [b"notes", b"FFJOURNX", bytes(11)])
def test_a_short_file_that_is_no_torn_header_is_refused_and_kept(data: bytes) -> None:
    disk = MemoryDisk({PATH: data})
    with pytest.raises(CorruptState, match=r"from byte 0.*--restore-from"):
        open_journal(disk)
    assert content(disk) == data


def test_a_full_disk_refuses_the_append_and_leaves_the_journal_usable() -> None:
    disk = written()
    journal = open_journal(disk)
    before, head, length = content(disk), journal.head, journal.length
    disk.full = True
    with pytest.raises(StorageError, match="no space left"):
        journal.append(Term(term=2))
    assert (content(disk), journal.head, journal.length) == (before, head, length)
    disk.full = False
    journal.append(Term(term=2))
    assert list(open_journal(disk).records()) == [*one_of_each(), Term(term=2)]


class FillingDisk(MemoryDisk):
    """Full after some appends; counts syncs."""

    room = 1000
    syncs = 0

    def append(self, path: str, data: bytes) -> None:
        self.full = self.room <= 0
        self.room -= 1
        super().append(path, data)

    def sync(self, path: str) -> None:
        self.syncs += 1
        super().sync(path)


def test_append_all_is_one_sync() -> None:
    disk = FillingDisk()
    journal = open_journal(disk)
    before = disk.syncs
    journal.append_all(one_of_each())
    assert disk.syncs == before + 1


@pytest.mark.parametrize("room", [0, 1, 2])
def test_append_all_writes_everything_or_nothing(room: int) -> None:
    disk = FillingDisk()
    journal = open_journal(disk)
    journal.append(genesis())
    before = content(disk)
    disk.room = room
    with pytest.raises(StorageError):
        journal.append_all([Term(term=1), Term(term=2), Term(term=3)])
    assert content(disk) == before
    assert disk.crash().read(PATH) == before
    disk.room, disk.full = 1000, False
    journal.append_all([Term(term=1)])
    assert [type(r).__name__ for r in open_journal(disk).records()] == ["Genesis", "Term"]


class FailingDisk(MemoryDisk):
    """While `broken`: an append leaves half of its bytes, and nothing can be taken back."""

    broken = False

    def append(self, path: str, data: bytes) -> None:
        if self.broken:
            super().append(path, data[: len(data) // 2])
            raise StorageError("the append failed")
        super().append(path, data)

    def truncate(self, path: str, length: int) -> None:
        if self.broken:
            raise StorageError("the truncate failed")
        super().truncate(path, length)


def test_a_write_that_cannot_be_taken_back_is_cut_before_the_next_one() -> None:
    """Otherwise the next record would stand behind rubbish, and the journal would not open."""
    disk = FailingDisk()
    journal = open_journal(disk)
    journal.append(genesis())
    disk.broken = True
    for _ in range(2):
        with pytest.raises(StorageError):
            journal.append(Term(term=1))
    assert journal.length == 1
    assert open_journal(MemoryDisk({PATH: content(disk)})).length == 1
    disk.broken = False
    journal.append(Term(term=2))
    assert list(journal.records()) == [genesis(), Term(term=2)]
    assert list(open_journal(disk).records()) == [genesis(), Term(term=2)]


def test_a_failed_write_reports_its_own_reason_and_not_that_of_the_undo() -> None:
    disk = FailingDisk()
    journal = open_journal(disk)
    disk.broken = True
    with pytest.raises(StorageError, match="the append failed"):
        journal.append(genesis())


def test_a_synced_record_survives_a_crash_and_an_unsynced_one_may_not() -> None:
    disk, source = MemoryDisk(), open_journal(written())
    replica = open_journal(disk, writer=False)
    replica.extend(source.frame(0))
    replica.extend(source.frame(1), sync=False)
    assert open_journal(disk.crash()).length == 1
    assert open_journal(disk.crash(torn_bytes=20)).length == 1
    replica.sync()
    assert open_journal(disk.crash()).length == 2


def test_a_replica_extends_to_the_very_same_bytes() -> None:
    source_disk = written()
    source, disk = open_journal(source_disk), MemoryDisk()
    replica = open_journal(disk, writer=False)
    records = [replica.extend(source.frame(i)) for i in range(source.length)]
    assert records == one_of_each()
    assert content(disk) == content(source_disk)
    assert [replica.hash_at(i) for i in range(5)] == [source.hash_at(i) for i in range(5)]


def test_a_replica_cannot_write_records_of_its_own() -> None:
    with pytest.raises(AssertionError, match="no key"):
        open_journal(MemoryDisk(), writer=False).append(genesis())


def _resealed(frame: bytes, change: Callable[[bytearray], None]) -> bytes:
    """The frame after a change behind the crc, with a crc that is right again."""
    inside = bytearray(frame[8:])
    change(inside)
    return frame[:4] + zlib.crc32(inside).to_bytes(4, "little") + bytes(inside)


def _flip(at: int) -> Callable[[bytearray], None]:
    def change(inside: bytearray) -> None:
        inside[at] ^= 1

    return change


@pytest.mark.parametrize(
    ("at", "sentence"),
    [(0, "does not extend"), (40, "not signed by the run key"), (-1, "not signed|unreadable")],
    ids=["previous", "signature", "body"],
)
def test_a_replica_refuses_a_frame_with_a_wrong(at: int, sentence: str) -> None:
    source, replica = open_journal(written()), open_journal(MemoryDisk(), writer=False)
    replica.extend(source.frame(0))
    with pytest.raises(ProtocolError, match=sentence):
        replica.extend(_resealed(source.frame(1), _flip(at)))
    replica.extend(source.frame(1))  # the refusal changed nothing
    assert replica.length == 2


def test_a_replica_refuses_gaps_repetitions_and_malformed_frames() -> None:
    source, replica = open_journal(written()), open_journal(MemoryDisk(), writer=False)
    replica.extend(source.frame(0))
    for bad in (source.frame(2), source.frame(0)):
        with pytest.raises(ProtocolError, match="does not extend"):
            replica.extend(bad)
    for bad in (b"", source.frame(1)[:-1], source.frame(1) + b"\0", _flipped(source.frame(1))):
        with pytest.raises(ProtocolError, match="malformed"):
            replica.extend(bad)
    assert replica.length == 1


def _flipped(frame: bytes) -> bytes:
    return frame[:-1] + bytes([frame[-1] ^ 1])


def test_genesis_is_the_first_record_and_only_the_first() -> None:
    disk = MemoryDisk()
    Journal.open(disk, PATH, verifier=lambda *_: True, sign=sign)
    writer = open_journal(MemoryDisk())
    frame = writer.append(genesis())
    second = writer.append(genesis())
    replica = open_journal(MemoryDisk(), writer=False)
    replica.extend(frame)
    with pytest.raises(ProtocolError, match="GENESIS"):
        replica.extend(second)


def test_a_journal_of_another_run_key_is_refused() -> None:
    stranger = Identity.from_seed(mark("stranger"))
    disk = MemoryDisk()
    forged = Journal.open(disk, PATH, verifier=check, sign=lambda m: stranger.sign(b"journal", m))
    forged.append(genesis())
    assert RUN_KEY.public_key != stranger.public_key
    with pytest.raises(CorruptState, match="not signed by the run key"):
        open_journal(disk)


def test_a_journal_on_a_real_disk_has_the_same_bytes(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path)
    journal = Journal.open(disk, PATH, verifier=check, sign=sign)
    journal.append_all(one_of_each())
    disk.close()
    assert (tmp_path / PATH).read_bytes() == GOLDEN.read_bytes()
