"""The event log: a listener that fails neither ends who emits nor goes unseen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from farflung.errors import StorageError
from farflung.events import (
    EvaluationFailed,
    Event,
    EventLog,
    Skipped,
    TaskFailed,
    Warned,
    history_of,
    inert,
    older_log,
    parse_event,
    printable,
    read_events,
    sentence_of,
)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    log = EventLog(tmp_path / "events.jsonl", "n", lambda: 1.0)
    yield log
    log.close()


def written(folder: Path) -> list[Event]:
    lines = (folder / "events.jsonl").read_text().splitlines()
    return [e for line in lines if (e := parse_event(json.loads(line))) is not None]


def test_a_listener_that_fails_is_told_once_and_the_others_hear_all(
    log: EventLog, tmp_path: Path
) -> None:
    heard: list[Event] = []

    def broken(_: Event) -> None:
        raise KeyError("names")

    log.listen(broken)
    log.listen(heard.append)
    said = [Warned(sentence="one"), Warned(sentence="two")]
    for event in said:
        log.emit(event)
    (failed,) = (e for e in heard if isinstance(e, TaskFailed))
    assert failed.task == "listen to events" and failed.error == "KeyError: 'names'"
    assert [e for e in heard if isinstance(e, Warned)] == said
    assert sorted(map(repr, written(tmp_path))) == sorted(map(repr, [*said, failed]))
    assert "KeyError: 'names' (test_events.py:" in failed.sentence


def test_a_terminal_that_went_away_is_no_fault(log: EventLog, tmp_path: Path) -> None:
    def hung_up(_: Event) -> None:
        raise BrokenPipeError

    log.listen(hung_up)
    log.emit(Warned(sentence="one"))
    assert written(tmp_path) == [Warned(sentence="one")]


def test_a_log_that_cannot_be_opened_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        EventLog(tmp_path / "file" / "events.jsonl", "n", lambda: 1.0)


def test_half_a_line_of_a_killed_process_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    said = [Warned(sentence=f"sentence {i}") for i in range(3)]
    for event in said:
        log = EventLog(path, "n", lambda: 1.0)
        log.emit(event)
        log.close()
    whole = path.read_bytes()
    last = whole.rstrip(b"\n").rindex(b"\n") + 1
    for cut in range(last, len(whole)):
        path.write_bytes(whole[:cut])
        log = EventLog(path, "n", lambda: 2.0)
        log.emit(said[2])
        log.close()
        with path.open("rb") as file:
            found = list(read_events(file))
        torn = cut < len(whole) - 1  # a line that lacks its end only is whole
        assert [e for _, e in found] == (said if torn else [*said, said[2]]), cut
        assert found[-1][0] == 2.0


def test_half_a_line_on_a_full_disk_costs_no_other(log: EventLog, tmp_path: Path) -> None:
    class Filling:
        """Takes half of one line."""

        def __init__(self) -> None:
            self.full = True
            self.file = (tmp_path / "events.jsonl").open("a", buffering=1)

        def write(self, text: str) -> None:
            if self.full:
                self.file.write(text[: len(text) // 2])
                self.file.flush()
                raise OSError(28, "no space")
            self.file.write(text)

        def close(self) -> None:
            self.file.close()

    disk = Filling()
    log._file.close()
    log._file = disk  # type: ignore[assignment]
    log.emit(Warned(sentence="lost"))
    disk.full = False
    log.emit(Warned(sentence="kept"))
    with (tmp_path / "events.jsonl").open("rb") as file:
        assert [e for _, e in read_events(file)] == [Warned(sentence="kept")]
    assert log.dropped == 1


def test_two_files_hold_the_newest_events_and_no_more(tmp_path: Path) -> None:
    path, most = tmp_path / "events.jsonl", 2000
    log = EventLog(path, "n", lambda: 1.0, most_bytes=most)
    for number in range(200):
        log.emit(Warned(sentence=f"number {number}"))
    log.close()
    files = [older_log(path), path]
    assert sorted(tmp_path.iterdir()) == sorted([history_of(path), *files])
    assert all(p.stat().st_size <= most + 200 for p in files)
    events = [parse_event(json.loads(line)) for p in files for line in p.read_text().splitlines()]
    said = [e.sentence for e in events if isinstance(e, Warned)]
    assert said == [f"number {n}" for n in range(200 - len(said), 200)] and len(said) > 15
    assert events[0] is None, "each file begins with the header"


def test_a_disk_that_refuses_a_new_file_loses_no_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = EventLog(tmp_path / "events.jsonl", "n", lambda: 1.0, most_bytes=1000)
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    for number in range(50):
        log.emit(Warned(sentence=f"number {number}"))
    log.close()
    assert len(written(tmp_path)) == 50


def test_a_kind_with_other_fields_is_passed_over() -> None:
    lines = [b'{"t": 1, "kind": "Skipped"}', b'{"t": 2, "kind": "Skipped", "round": 3, "new": 1}']
    assert list(read_events(lines)) == [(2.0, Skipped(round=3))]


def test_sentences_hold_nothing_that_a_terminal_would_obey() -> None:
    event = EvaluationFailed(name="a\x1b]0;mine\x07", reason="no\r\nroom\x9b2J \u202e")
    assert sentence_of(event) == "a ]0;mine  did not evaluate the model: no  room 2J  "


HIDDEN = "".join(
    map(chr, [*range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x206A), 0xFEFF])
)
"""Zero-width characters, and those that turn the direction of what follows."""


def test_nothing_is_hidden_or_turned_in_what_strangers_say() -> None:
    for each in HIDDEN + "\x00\x07\x1b\x7f\x85\x9b\u2028\u2029\ue000\U000e0001":
        assert printable(f"a{each}b") == "a b", hex(ord(each))
    assert printable("Zürich 東京 naïve 🦦") == "Zürich 東京 naïve 🦦"
    assert printable("two\nlines", keep="\n") == "two\nlines"


def test_words_in_events_are_one_short_line() -> None:
    assert inert(f"\u202egone{HIDDEN}\n") == "gone"
    assert inert("w" * 10_000) == "w" * 256 and inert("w" * 10_000, 64) == "w" * 64
