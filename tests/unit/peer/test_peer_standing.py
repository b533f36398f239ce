"""Where a node stands: every move is in the table, and what a new link or an end means."""

from __future__ import annotations

import pytest

from farflung.peer.standing import MOVES, IllegalMove, Standing, StayPhase


def at(phase: StayPhase) -> Standing:
    standing = Standing("s")
    standing.phase = phase
    return standing


@pytest.mark.parametrize("here", StayPhase)
@pytest.mark.parametrize("there", StayPhase)
def test_only_moves_of_the_table_are_possible(here: StayPhase, there: StayPhase) -> None:
    standing = at(here)
    if there is here or there in MOVES[here]:
        standing.enter(there)
        assert standing.phase is there
        assert standing.news.is_set() == (there is not StayPhase.ASKED)
    else:
        with pytest.raises(IllegalMove, match=f"{here} -> {there}"):
            standing.enter(there)
        assert standing.phase is here


def test_every_phase_but_the_first_can_lose_its_state() -> None:
    assert all(StayPhase.SYNCING in MOVES[p] for p in StayPhase if p is not StayPhase.SYNCING)


@pytest.mark.parametrize("phase", [StayPhase.READY, StayPhase.ASKED, StayPhase.MEMBER])
def test_a_new_link_keeps_the_stay_and_asks_again(phase: StayPhase) -> None:
    standing = at(phase)
    standing.number = 5
    standing.welcomed(term=3, journal_length=70)
    assert (standing.phase, standing.number) == (StayPhase.READY, 5)
    assert (standing.term, standing.journal_target) == (3, 70)


@pytest.mark.parametrize("phase", [StayPhase.SYNCING, StayPhase.STARTING])
def test_a_new_link_changes_nothing_for_who_was_not_ready(phase: StayPhase) -> None:
    standing = at(phase)
    standing.welcomed(term=3, journal_length=70)
    assert standing.phase is phase


def test_an_answer_counts_only_when_something_was_asked_on_this_link() -> None:
    standing = at(StayPhase.READY)
    standing.answered()
    assert standing.phase is StayPhase.READY
    standing.enter(StayPhase.ASKED)
    standing.opened(7)
    assert (standing.phase, standing.number) == (StayPhase.MEMBER, 7)


def test_a_stay_that_opens_late_is_remembered_and_asked_for_again() -> None:
    standing = at(StayPhase.STARTING)
    standing.opened(6)
    assert (standing.phase, standing.number) == (StayPhase.STARTING, 6)


@pytest.mark.parametrize("phase", StayPhase)
def test_after_the_end_the_next_stay_is_prepared(phase: StayPhase) -> None:
    standing = at(phase)
    standing.number = 5
    standing.ended()
    expected = StayPhase.SYNCING if phase is StayPhase.SYNCING else StayPhase.STARTING
    assert (standing.phase, standing.number) == (expected, 0)
