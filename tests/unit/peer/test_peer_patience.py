"""What is tried until it works is told once, then every minute, and costs little while it fails."""

from __future__ import annotations

import itertools

import pytest

from farflung.clock import LoopClock
from farflung.peer.patience import FRESH_S, LATER_S, REMIND_S, SOON_S, Patience
from farflung.sim.loop import run_virtual


async def told(seconds: float, **options: float) -> tuple[list[float], int]:
    """When it is told, of something that fails for so long, and how often it was tried."""
    clock = LoopClock()
    began_s, patience, times, tries = clock.now(), Patience(clock, **options), list[float](), 0
    while clock.now() - began_s < seconds:
        tries += 1
        if patience.failed():
            times.append(clock.now() - began_s)
        await patience.pause()
    return times, tries


def test_it_is_told_at_once_and_then_every_minute_and_tried_less_often() -> None:
    times, tries = run_virtual(told(600.0))
    assert times[0] == 0.0 and len(times) == 10
    assert all(b - a >= REMIND_S for a, b in itertools.pairwise(times))
    assert tries < 600 / LATER_S + 30


def test_what_is_over_within_the_grace_is_not_told() -> None:
    assert run_virtual(told(9.5, grace_s=10.0))[0] == []
    assert run_virtual(told(15.0, grace_s=10.0))[0] == [pytest.approx(10.0, abs=LATER_S)]


def test_trouble_after_a_long_peace_is_new() -> None:
    class Hand:
        at = 0.0

        def now(self) -> float:
            return self.at

    hand = Hand()
    patience = Patience(hand)
    assert [patience.failed(), patience.failed()] == [True, False]
    hand.at += FRESH_S + 1
    assert patience.failed() and patience.pause_s == SOON_S
