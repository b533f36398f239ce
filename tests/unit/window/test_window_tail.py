"""Reading two files that somebody else is writing, cutting, turning over and replacing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from window_folders import BODIES, committed, journal_bytes

from farflung.errors import CorruptState
from farflung.events import EventLog, RoundCommitted, Warned, older_log
from farflung.swarm.journal import HEADER
from farflung.window.tail import EventTail, FolderTail, JournalTail, told_in


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def everything(tail: JournalTail, most_bytes: int = 1 << 20, polls: int = 1) -> list[object]:
    found: list[object] = []
    for _ in range(polls):
        more = True
        while more:
            records, more, _ = tail.poll(most_bytes)
            found += records
    return found


def test_a_journal_that_grows_byte_by_byte_gives_each_record_once(tmp_path: Path) -> None:
    path, data = tmp_path / "journal.bin", journal_bytes(BODIES)
    tail, found = JournalTail(path), []
    assert tail.poll() == ([], False, False)
    with path.open("wb", buffering=0) as file:
        for byte in data:
            file.write(bytes([byte]))
            found += everything(tail)
    assert found == BODIES


@pytest.mark.parametrize("most_bytes", [1, 100, 1 << 20])
def test_slices_of_any_size_join_to_the_whole(tmp_path: Path, most_bytes: int) -> None:
    path = tmp_path / "journal.bin"
    path.write_bytes(journal_bytes(BODIES))
    assert everything(JournalTail(path), most_bytes) == BODIES


def test_a_write_that_was_taken_back_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "journal.bin"
    path.write_bytes(journal_bytes(BODIES))
    tail = JournalTail(path)
    everything(tail)
    other = [*BODIES[:-1], BODIES[-2]]
    path.write_bytes(journal_bytes(other))
    assert tail.poll() == (other, False, True)


def test_a_torn_tail_that_is_cut_costs_nothing(tmp_path: Path) -> None:
    path, data = tmp_path / "journal.bin", journal_bytes(BODIES)
    short = journal_bytes(BODIES[:-1])
    path.write_bytes(data[:-7])
    tail = JournalTail(path)
    assert everything(tail) == BODIES[:-1]
    path.write_bytes(short)
    assert tail.poll() == ([], False, False)
    path.write_bytes(data)
    assert tail.poll() == ([BODIES[-1]], False, False)


def test_another_run_in_the_same_place_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "journal.bin"
    path.write_bytes(journal_bytes(BODIES))
    tail = JournalTail(path)
    everything(tail)
    path.unlink()
    assert tail.poll() == ([], False, False), "what was read stays until there is something else"
    path.write_bytes(journal_bytes(BODIES[:2], key=7))
    assert tail.poll() == (BODIES[:2], False, True)


def test_damage_is_told_only_when_it_stays(tmp_path: Path) -> None:
    path, data = tmp_path / "journal.bin", bytearray(journal_bytes(BODIES))
    data[len(journal_bytes(BODIES[:2])) + 60] ^= 1
    path.write_bytes(data)
    tail = JournalTail(path)
    assert everything(tail) == BODIES[:2]
    with pytest.raises(CorruptState, match="damaged at byte"):
        assert everything(tail, polls=30)
    data[len(journal_bytes(BODIES[:2])) + 60] ^= 1
    path.write_bytes(data)
    assert everything(tail) == BODIES[2:]


def test_what_is_no_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.bin"
    path.write_bytes(HEADER[:5])
    assert JournalTail(path).poll() == ([], False, False)
    path.write_bytes(HEADER[:-1] + b"\xff")
    with pytest.raises(CorruptState, match="not a journal that this farflung reads"):
        JournalTail(path).poll()


def rounds(tail: EventTail, most_bytes: int = 1 << 20) -> list[int]:
    found, more = [], True
    while more:
        told, more, _ = tail.poll(most_bytes)
        found += [t.event.round for t in told if isinstance(t.event, RoundCommitted)]
    return found


@pytest.mark.parametrize("every", [1, 2, 7])
@pytest.mark.parametrize("most_bytes", [50, 1 << 20])
def test_no_event_is_lost_when_the_log_begins_new_files(
    tmp_path: Path, stack: ExitStack, every: int, most_bytes: int
) -> None:
    path = tmp_path / "events.jsonl"
    tail, found = EventTail(path), []
    stack.callback(tail.close)
    assert rounds(tail) == []  # not there yet
    log = EventLog(path, "n", lambda: 1.0, most_bytes=2000)  # some seven events
    for number in range(60):
        log.emit(committed(number))
        if number % every == 0:
            found += rounds(tail, most_bytes)
    log.close()
    assert [*found, *rounds(tail, most_bytes)] == list(range(60))
    assert older_log(path).exists()


def test_a_late_reader_begins_with_the_older_file(tmp_path: Path, stack: ExitStack) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path, "n", lambda: 1.0, most_bytes=5000)
    for number in range(25):
        log.emit(committed(number))
    log.close()
    assert older_log(path).exists()
    tail = EventTail(path)
    stack.callback(tail.close)
    found = rounds(tail)
    assert found == list(range(found[0], 25)) and len(found) > 10


def test_half_lines_foreign_lines_and_endless_lines_are_passed_over(
    tmp_path: Path, stack: ExitStack
) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path, "n", lambda: 1.0)
    log.emit(committed(1))
    log.close()
    tail = EventTail(path)
    stack.callback(tail.close)
    assert rounds(tail) == [1]
    with path.open("ab") as file:
        file.write(b'{"kind": "RoundComm')  # killed here; the next start ends the line
    assert rounds(tail) == []
    with path.open("ab") as file:
        file.write(b'\n[1]\n{"kind": []}\n\xff\n' + b"[" * (5 << 20) + b'{"kind": "x"}\n')
    log = EventLog(path, "n", lambda: 1.0)
    log.emit(committed(2))
    log.close()
    assert rounds(tail) == [2]


def test_a_log_that_was_emptied_in_place_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path, "n", lambda: 1.0)
    for number in range(5):
        log.emit(committed(number))
    tail = EventTail(path)
    assert rounds(tail) == list(range(5))
    path.write_bytes(b"")
    log.close()
    log = EventLog(path, "n", lambda: 1.0)
    log.emit(committed(9))
    log.close()
    assert rounds(tail) == [9]
    tail.close()


def test_times_of_other_kinds_are_not_taken() -> None:
    assert told_in(b'{"t": "x", "wall": null, "kind": "Warned", "sentence": "s"}') == (
        0.0,
        None,
        Warned(sentence="s"),
    )


def test_records_come_before_the_events_that_follow_them(tmp_path: Path) -> None:
    (tmp_path / "journal.bin").write_bytes(journal_bytes(BODIES))
    log = EventLog(tmp_path / "events.jsonl", "n", lambda: 1.0)
    log.emit(committed(1))
    tail = FolderTail(tmp_path)
    seen = []
    more = True
    while more:
        anew, records, told, more = tail.poll(100)
        seen += [*records, *told]
        assert not anew
    assert seen[: len(BODIES)] == BODIES
    assert [t.event for t in seen[len(BODIES) :]] == [committed(1)]
    assert tail.journal_share == 1.0
    log.emit(committed(2))
    log.close()
    assert [t.event for t in tail.poll().told] == [committed(2)]
    tail.close()


def test_a_restored_run_is_read_again_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "journal.bin").write_bytes(journal_bytes(BODIES))
    log = EventLog(tmp_path / "events.jsonl", "n", lambda: 1.0)
    log.emit(committed(1))
    log.close()
    tail = FolderTail(tmp_path)
    tail.poll()
    for path in sorted(tmp_path.iterdir()):
        path.unlink()
    (tmp_path / "journal.bin").write_bytes(journal_bytes(BODIES[:3], key=7))
    log = EventLog(tmp_path / "events.jsonl", "n", lambda: 1.0)
    log.emit(committed(5))
    log.close()
    news = tail.poll()
    assert news.anew and news.records == BODIES[:3]
    assert [t.event for t in news.told] == [committed(5)]
    tail.close()
