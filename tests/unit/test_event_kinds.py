"""Every kind of trouble has one readable line and survives its way through a log."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from farflung.cli.news import LONGEST_S, REPEAT_S, News
from farflung.events import (
    ClockSkewed,
    Event,
    EventLog,
    FetchDelayed,
    ForkDetected,
    InnerStateSkipped,
    LastRoundAwaited,
    LinkClosed,
    NodeRefused,
    Resumed,
    SnapshotUnusable,
    Trouble,
    Warned,
    parse_event,
    sentence_of,
)

SAMPLES: dict[Any, Any] = {str: "words", int: 7, float: 2.5, bool: True, tuple: ("p1", "p2")}


LOG_FIELDS = {"kind", "t", "wall"}
"""Of every line: an event with such a field would not be read back."""


def every_kind(base: type[Event] = Event) -> list[type[Event]]:
    return [k for kind in base.__subclasses__() for k in (kind, *every_kind(kind))]


def test_no_event_takes_a_name_of_the_logs_own() -> None:
    names = {(k.__name__, f.name) for k in every_kind() for f in dataclasses.fields(k)}
    assert {pair for pair in names if pair[1] in LOG_FIELDS} == set()


def sample(kind: type[Event]) -> Event:
    hints = get_type_hints(kind)
    return kind(**{f.name: sample_of(hints[f.name]) for f in dataclasses.fields(kind)})


def sample_of(hint: Any) -> Any:
    if get_origin(hint) is Literal:
        return get_args(hint)[0]
    return SAMPLES[get_origin(hint) or hint]


@pytest.mark.parametrize("kind", Trouble.__subclasses__())
def test_trouble_has_a_line_and_is_the_same_when_it_is_read_back(
    kind: type[Trouble], tmp_path: Path
) -> None:
    event = sample(kind)
    line = sentence_of(event)
    assert line and "\n" not in line and line == line.strip()
    log = EventLog(tmp_path / "events.jsonl", "node", lambda: 0.0)
    log.emit(event)
    log.close()
    written = (tmp_path / "events.jsonl").read_text().splitlines()[-1]
    assert parse_event(json.loads(written)) == event


def test_what_is_no_trouble_has_no_line() -> None:
    assert sentence_of(Resumed(reason="enough peers")) == ""
    assert sentence_of(Event()) == ""


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (NodeRefused(name="otter", reason="it is older"), "refused otter: it is older"),
        (
            LinkClosed(plane="data", name="12ab", reason="no bulk"),
            "data link to 12ab closed: no bulk",
        ),
        (
            LastRoundAwaited(names=("p1", "p2"), up_to_s=30.0),
            "the run is finished; waiting up to 30 s for the last round to reach p1, p2",
        ),
        (
            LastRoundAwaited(names=(), up_to_s=15.0),
            "the run is finished; serving for 15 s whoever missed its last rounds",
        ),
        (
            SnapshotUnusable(own=True, reason="bad hash"),
            "my own snapshot is unusable (bad hash); fetching one",
        ),
        (
            SnapshotUnusable(own=False, reason="nobody has it"),
            "nobody has it; taking a newer snapshot",
        ),
        (
            InnerStateSkipped(doing="loading", reason="another optimizer"),
            "the inner state is not loaded (another optimizer); the optimizer starts fresh",
        ),
        (
            ClockSkewed(ahead_s=-90.4),
            "this machine's clock is 90 s behind the coordinator's; training does not mind, but a "
            "day's difference ends connections: set one of them",
        ),
        (ForkDetected(index=1, mine="", theirs="", sentence="fork: two"), "fork: two"),
    ],
)
def test_lines_read_well(event: Event, line: str) -> None:
    assert sentence_of(event) == line


def test_a_terminal_does_not_repeat_itself() -> None:
    now = [0.0]
    news = News(lambda: now[0])
    missing = [FetchDelayed(what="shard", reason=f"{n} of 3 donors answer") for n in range(3)]
    assert news.of(missing[0]) == "shard is not here yet: 0 of 3 donors answer"
    now[0] += 0.5
    assert [news.of(e) for e in missing] == ["", "", ""]
    assert news.of(NodeRefused(name="p1", reason="no")) and news.of(
        NodeRefused(name="p2", reason="no")
    )
    now[0] += REPEAT_S
    assert news.of(missing[2]) == "shard is not here yet: 2 of 3 donors answer"


def test_the_pause_of_what_is_said_again_grows() -> None:
    now, said = [0.0], list[float]()
    news = News(lambda: now[0])
    while now[0] < 7200:
        name = f"{round(now[0]):064x}"
        if news.of(Warned(sentence=f"no vote for round {now[0]}: results/{name}: no space")):
            said.append(now[0])
        now[0] += 0.5
    pauses = [b - a for a, b in itertools.pairwise(said)]
    assert said[0] == 0.0 and pauses[:4] == [10.0, 20.0, 40.0, 80.0]
    assert max(pauses) == LONGEST_S and len(said) < 25
    now[0] += 2 * LONGEST_S + 1
    assert news.of(Warned(sentence="no vote for round 1: results/aaaaaaaaaaaaaaaa: no space"))


def test_a_terminal_gets_one_line_per_event() -> None:
    assert News(lambda: 0.0).of(Warned(sentence="two\nlines  ")) == "two lines"
    assert News(lambda: 0.0).of(Resumed(reason="enough peers")) == ""
