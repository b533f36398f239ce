"""The event log: a listener that fails neither ends who emits nor goes unseen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from farflung.errors import StorageError
from farflung.events import Event, EventLog, TaskFailed, Warned, parse_event


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
