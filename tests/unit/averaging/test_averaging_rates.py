"""Rates come from saturated windows of real transfers only."""

from __future__ import annotations

import pytest

from farflung.averaging.rates import FOLD_WINDOWS, WINDOW_S, RateMeter, Traffic


def play(*counters: tuple[int, int, int], start_s: float = 0.0) -> RateMeter:
    """Samples of (left, waiting, arrived), one per window."""
    meter = RateMeter()
    for i, (left, waiting, arrived) in enumerate(counters):
        meter.sample(start_s + i * WINDOW_S, Traffic(left=left, waiting=waiting, arrived=arrived))
    return meter


def test_a_backlog_at_both_ends_of_a_window_is_a_saturated_uplink() -> None:
    meter = play((0, 900, 0), (100, 800, 0), (250, 650, 0), (900, 0, 0), (900, 0, 0))
    assert meter.up == 150 / WINDOW_S
    assert meter.down == 0


def test_a_transfer_that_fits_into_buffers_is_not_measured() -> None:
    meter = play((0, 0, 0), (10**9, 0, 10**9), (10**9, 0, 10**9))
    assert (meter.up, meter.down) == (0, 0)


def test_only_a_window_between_two_with_arrivals_measures_the_downlink() -> None:
    meter = play((0, 0, 0), (0, 0, 10), (0, 0, 90), (0, 0, 100), (0, 0, 100))
    assert meter.down == 80 / WINDOW_S
    assert meter.up == 0


def test_a_faster_transfer_counts_half_a_slower_one_a_fifth() -> None:
    first = [(0, 9, 0), (100, 9, 0), (109, 0, 0), (109, 0, 0)]
    second = [(109, 9, 0), (409, 9, 0), (418, 0, 0), (418, 0, 0)]
    assert play(*first).up == 100 / WINDOW_S
    assert play(*first, *second).up == 200 / WINDOW_S
    third = [(418, 9, 0), (468, 9, 0), (477, 0, 0), (477, 0, 0)]
    assert play(*first, *second, *third).up == 170 / WINDOW_S


def test_a_link_that_was_slow_proves_that_it_is_not_by_what_passes_at_once() -> None:
    slow = [(0, 9, 0), (100, 9, 10), (110, 0, 60), (110, 0, 70), (110, 0, 70)]
    assert play(*slow).up == 100 / WINDOW_S
    assert play(*slow).down == 50 / WINDOW_S
    quick = [(5110, 0, 5070), (5110, 0, 5070)]
    assert play(*slow, *quick).up == (100 + 0.5 * 4900) / WINDOW_S
    assert play(*slow, *quick).down == (50 + 0.5 * 4950) / WINDOW_S


def test_a_long_transfer_shows_a_change_before_it_ends() -> None:
    fast = [(1000 * i, 9, 0) for i in range(FOLD_WINDOWS + 1)]
    slow = [(1000 * FOLD_WINDOWS + i, 9, 0) for i in range(1, 16 * FOLD_WINDOWS + 1)]
    meter = play(*fast, *slow)
    assert meter.up < 0.1 * 1000 / WINDOW_S


@pytest.mark.parametrize("gap_windows", [3, 100])
def test_a_closed_link_or_a_pause_begins_another_transfer(gap_windows: int) -> None:
    meter = play((500, 900, 50), (0, 900, 0))  # its counters went with the link
    assert (meter.up, meter.down) == (0, 0)
    meter.sample((1 + gap_windows) * WINDOW_S, Traffic(left=10**6, waiting=9, arrived=0))
    assert meter.up == 0


def test_two_exchanges_that_sample_at_once_count_once() -> None:
    meter = RateMeter()
    for i in range(6):
        for late in (0.0, 0.01):
            traffic = Traffic(left=100 * i + (late > 0) * 90, waiting=9, arrived=0)
            meter.sample(i * WINDOW_S + late, traffic)
    meter.sample(6 * WINDOW_S, Traffic(left=600, waiting=0, arrived=0))
    meter.sample(7 * WINDOW_S, Traffic(left=600, waiting=0, arrived=0))
    assert meter.up == 100 / WINDOW_S
