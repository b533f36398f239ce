"""The coordinator's clock: suspensions and a full disk move no deadline."""

from __future__ import annotations

from farflung.coordinator.awake_clock import AwakeClock


class Hand:
    def __init__(self) -> None:
        self.at = 100.0

    def now(self) -> float:
        return self.at


def test_a_frozen_clock_stands_still_and_goes_on_from_there() -> None:
    hand = Hand()
    clock = AwakeClock(hand)
    hand.at += 0.5
    assert clock.now() == 100.5
    clock.freeze()
    hand.at += 3600
    assert clock.now() == 100.5
    clock.thaw()
    assert clock.now() == 100.5
    hand.at += 0.25
    assert clock.now() == 100.75


def test_a_thawed_clock_still_sees_a_suspension() -> None:
    hand = Hand()
    clock = AwakeClock(hand)
    clock.freeze()
    hand.at += 10
    clock.thaw()
    hand.at += 50
    assert clock.now() < 101
