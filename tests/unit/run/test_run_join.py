"""What a joiner says about its own clock."""

from __future__ import annotations

import pytest

from farflung.events import ClockSkewed, Event
from farflung.run.join import SKEW_TOLD_S, tell_skew


@pytest.mark.parametrize(
    ("ahead_s", "words"),
    [(3600.0, "3,600 s ahead of the"), (-90.4, "90 s behind the"), (SKEW_TOLD_S, ""), (-3.0, "")],
)
def test_a_clock_that_is_wrong_by_more_than_a_minute_is_told(ahead_s: float, words: str) -> None:
    events: list[Event] = []
    tell_skew(ahead_s, events.append)
    assert [words in e.sentence for e in events if isinstance(e, ClockSkewed)] == [True] * bool(
        words
    )
