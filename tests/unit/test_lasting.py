"""What outlives an event log's files: every round once, in order, whatever interrupts the copy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from farflung import lasting
from farflung.events import (
    LASTING,
    EventLog,
    PeerReady,
    RoundCommitted,
    Warned,
    history_of,
    older_log,
)
from farflung.lasting import LastingLines, mark_of
from farflung.window.tail import EventTail


def committed(number: int) -> RoundCommitted:
    return RoundCommitted(
        round=number, fragment=0, attempt=0, contributors=2, tokens=10, total_tokens=10 * number,
        loss=1.0 + number, took_s=1.0, holders=2, replicated=True, state_root="ab",
    )  # fmt: skip


def ready(number: int) -> PeerReady:
    return PeerReady(
        round=number, node="n", name="n", steps=1, tokens=1, loss_sum=1.0, compute_s=1.0,
        wait_s=0.0, note="",
    )  # fmt: skip


def opened(path: Path, **sizes: int) -> EventLog:
    return EventLog(path, "n", lambda: 1.0, **{"most_bytes": 3000, **sizes})


def tell(log: EventLog, numbers: range) -> None:
    """Some six rounds a file."""
    for number in numbers:
        log.emit(ready(number))
        log.emit(committed(number))


def drained(tail: EventTail, most_bytes: int = 1 << 20) -> list[int]:
    found, more = [], True
    while more:
        told, more, _ = tail.poll(most_bytes)
        commits = [t.event for t in told if isinstance(t.event, RoundCommitted)]
        assert all(c.loss == 1.0 + c.round for c in commits)
        found += [c.round for c in commits]
    return found


def read(path: Path, most_bytes: int = 1 << 20) -> list[int]:
    tail = EventTail(path)
    try:
        return drained(tail, most_bytes)
    finally:
        tail.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


@pytest.fixture(params=[400, 1 << 20])
def slices(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Of a line or two, and more than a file."""
    monkeypatch.setattr(lasting, "SLICE_BYTES", request.param)
    return int(request.param)


@pytest.mark.usefixtures("slices")
@pytest.mark.parametrize("most_bytes", [50, 1 << 20])
def test_every_round_is_read_once_after_many_files(path: Path, most_bytes: int) -> None:
    log = opened(path)
    for number in range(200):
        tell(log, range(number, number + 1))
        if number % 7 == 0:
            assert read(path, most_bytes) == list(range(number + 1))
    log.close()
    assert read(path, most_bytes) == list(range(200))
    assert sorted(path.parent.iterdir()) == sorted([history_of(path), older_log(path), path])
    kept = history_of(path).read_bytes()
    assert b"RoundCommitted" in kept and b"PeerReady" not in kept


@pytest.mark.usefixtures("slices")
@pytest.mark.parametrize("lines", [1, 2, 5, 11])
def test_a_host_that_is_killed_again_and_again_loses_and_doubles_nothing(
    path: Path, lines: int
) -> None:
    """Killed between any two lines, so between any two slices: the next log has only the files."""
    for start in range(0, 150, lines):
        log = opened(path)
        tell(log, range(start, start + lines))
        log.close()
        assert read(path) == list(range(start + lines))
    assert b"RoundCommitted" in history_of(path).read_bytes()


def test_half_a_copy_is_behind_the_mark_and_is_copied_again(path: Path) -> None:
    log = opened(path)
    tell(log, range(100))
    log.close()
    whole = history_of(path).read_bytes()
    with older_log(path).open("rb") as older:
        mark = mark_of(older)
    head, _ = whole.split(mark)
    for cut in range(len(head), len(whole) + 1, 7):  # within the mark, too
        history_of(path).write_bytes(whole[:cut])
        assert read(path) == list(range(100)), cut
        kinds = frozenset(kind.__name__ for kind in LASTING)
        for _ in LastingLines(older_log(path), history_of(path), kinds, kinds).steps():
            assert read(path) == list(range(100)), cut
        assert history_of(path).read_bytes().startswith(head + mark + b"\n")
        assert read(path) == list(range(100))


def test_a_reader_that_follows_reads_every_round_once(path: Path) -> None:
    log = opened(path)
    tell(log, range(60))
    tail, found = EventTail(path), list[int]()
    for number in range(60, 200):
        part = tail.poll(97)
        found += [t.event.round for t in part.items if isinstance(t.event, RoundCommitted)]
        if number > 65:  # by now the files that it began with have lost their names
            found += drained(tail)
        tell(log, range(number, number + 1))
    assert [*found, *drained(tail)] == list(range(200))
    tail.close()
    log.close()


def test_the_older_log_may_go_while_the_history_is_read(path: Path) -> None:
    log = opened(path)
    tell(log, range(60))
    tail = EventTail(path)
    first = tail.poll(97)
    before = older_log(path).stat().st_ino
    number = 60
    while older_log(path).stat().st_ino == before:
        tell(log, range(number, number + 1))
        number += 1
    tell(log, range(number, number + 2))
    log.close()
    begun = [t.event.round for t in first.items if isinstance(t.event, RoundCommitted)]
    assert [*begun, *drained(tail)] == list(range(number + 2))
    tail.close()


def test_a_full_history_is_thinned_where_it_is_oldest(path: Path) -> None:
    log = opened(path, history_bytes=20_000)
    sizes = list[int]()
    for number in range(1500):
        tell(log, range(number, number + 1))
        sizes.append(history_of(path).stat().st_size if history_of(path).exists() else 0)
    log.close()
    assert max(sizes) <= 20_000 + 3000
    found = read(path)
    assert found[0] == 0 and found[-1] == 1499 and found == sorted(set(found))
    gaps = [b - a for a, b in pairwise(found)]
    assert max(gaps) > 2 and set(gaps[-20:]) == {1}
    late = sum(gaps[len(gaps) // 2 :]) / len(gaps[len(gaps) // 2 :])
    assert sum(gaps[: len(gaps) // 2]) / (len(gaps) // 2) > late
    assert not list(path.parent.glob(".*"))


def test_other_kinds_go_too_when_they_fill_the_history(path: Path) -> None:
    line = json.dumps({"t": 1.0, "wall": 1.0, "kind": "Paused", "reason": "r" * 50}).encode()
    history_of(path).write_bytes((line + b"\n") * 500)
    older_log(path).write_bytes(line + b"\n")
    kinds = frozenset(("Paused", "RoundCommitted"))
    first = frozenset(("RoundCommitted",))
    steps = LastingLines(older_log(path), history_of(path), kinds, first, most_bytes=10_000)
    for _ in steps.steps():
        pass
    assert 5_000 < history_of(path).stat().st_size <= 10_000 + 300


def test_quoted_words_do_not_last(path: Path) -> None:
    log = opened(path)
    for number in range(100):
        log.emit(Warned(sentence=f'{number} {{"t": 1, "wall": 1, "kind": "RoundCommitted"'))
    log.close()
    assert history_of(path).stat().st_size > 0 and b"Warned" not in history_of(path).read_bytes()


class FullDisk:
    """Refuses the history's files, half a write at times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = True
        copy = LastingLines._copy

        def refusing(lines: LastingLines, older: object, mark: bytes) -> Iterator[None]:
            for number, _ in enumerate(copy(lines, older, mark)):  # type: ignore[arg-type]
                if self.full and number == 1:
                    raise OSError(28, "no space")
                yield

        monkeypatch.setattr(LastingLines, "_copy", refusing)
        monkeypatch.setattr(lasting, "SLICE_BYTES", 400)


def test_a_full_disk_keeps_the_older_log_until_there_is_room(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, log = FullDisk(monkeypatch), opened(path)
    tell(log, range(14))
    assert older_log(path).exists() and read(path) == list(range(14))
    disk.full = False
    tell(log, range(14, 100))
    log.close()
    assert read(path) == list(range(100)) and log.dropped == 0


def test_a_disk_that_never_takes_the_history_ends_neither_the_run_nor_the_bound(
    path: Path,
) -> None:
    history_of(path).mkdir()
    log = opened(path)
    tell(log, range(100))
    log.close()
    assert log.dropped == 0
    assert sum(p.stat().st_size for p in (older_log(path), path)) <= 4 * 3000 + 2000
