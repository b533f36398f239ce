"""Where a node stands: every move is in the table, and what a new link or an end means."""

from __future__ import annotations

import pytest

from farflung.peer.standing import MOVES, IllegalMove, Phase, Standing


def at(phase: Phase) -> Standing:
    standing = Standing("s")
    standing.phase = phase
    return standing


@pytest.mark.parametrize("here", Phase)
@pytest.mark.parametrize("there", Phase)
def test_only_moves_of_the_table_are_possible(here: Phase, there: Phase) -> None:
    standing = at(here)
    if there is here or there in MOVES[here]:
        standing.enter(there)
        assert standing.phase is there and standing.news.is_set()
    else:
        with pytest.raises(IllegalMove, match=f"{here} -> {there}"):
            standing.enter(there)
        assert standing.phase is here


def test_every_phase_but_the_first_can_lose_its_state() -> None:
    assert all(Phase.SYNCING in MOVES[p] for p in Phase if p is not Phase.SYNCING)


@pytest.mark.parametrize("phase", [Phase.READY, Phase.ASKED, Phase.MEMBER])
def test_a_new_link_keeps_the_stay_and_asks_again(phase: Phase) -> None:
    standing = at(phase)
    standing.number = 5
    standing.welcomed(term=3, journal_length=70)
    assert (standing.phase, standing.number) == (Phase.READY, 5)
    assert (standing.term, standing.journal_target) == (3, 70)


@pytest.mark.parametrize("phase", [Phase.SYNCING, Phase.STARTING])
def test_a_new_link_changes_nothing_for_who_was_not_ready(phase: Phase) -> None:
    standing = at(phase)
    standing.welcomed(term=3, journal_length=70)
    assert standing.phase is phase


def test_an_answer_counts_only_when_something_was_asked_on_this_link() -> None:
    standing = at(Phase.READY)
    standing.answered()
    assert standing.phase is Phase.READY
    standing.enter(Phase.ASKED)
    standing.opened(7)
    assert (standing.phase, standing.number) == (Phase.MEMBER, 7)


def test_a_stay_that_opens_late_is_remembered_and_asked_for_again() -> None:
    standing = at(Phase.STARTING)
    standing.opened(6)
    assert (standing.phase, standing.number) == (Phase.STARTING, 6)


@pytest.mark.parametrize("phase", Phase)
def test_after_the_end_the_next_stay_is_prepared(phase: Phase) -> None:
    standing = at(phase)
    standing.number = 5
    standing.ended()
    expected = Phase.SYNCING if phase is Phase.SYNCING else Phase.STARTING
    assert (standing.phase, standing.number) == (expected, 0)
