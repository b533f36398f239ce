"""Slices differ only where uplinks differ lastingly."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from swarm_driver import Driver, driver_spec

from farflung.averaging.plan import cut_slices, shares
from farflung.swarm.state import State, Step
from farflung.swarm.uplinks import CLEAR_ROUNDS, MAX_LEVEL, lasting, level, observe, relative_rates

CHUNKS = 306
seeds = st.integers(0, 2**32)
quick = settings(max_examples=40, deadline=None)


def swarm(peers: int) -> State:
    driver = Driver(driver_spec(start_peers=peers), peers, keeper=False)
    driver.gather()
    return driver.state


def rounds_of(
    state: State, rates: Iterable[Sequence[float]], contribution_bytes: int = 1
) -> list[list[int]]:
    """Sizes of all slices in each round; `rates`: what every peer has measured before it."""
    sizes = []
    for measured in rates:
        step = Step(state, 0.0)
        for node, rate in zip(state.active_trainers(), measured, strict=True):
            step.set_node(replace(node, up_bytes_per_s=rate))
        owners = [n.node for n in state.active_trainers()]
        observe(step, owners, contribution_bytes)
        state = step.state
        share = shares(owners, relative_rates(state.active_members()), len(owners))
        cut = {s.owner: s.stop - s.first for s in cut_slices(CHUNKS, share)}
        sizes.append([cut.get(owner, 0) for owner in owners])
    return sizes


def equal(sizes: Sequence[int]) -> bool:
    return max(sizes) - min(sizes) <= 1


def noisy(rates: Sequence[float], rounds: int, seed: int) -> list[list[float]]:
    """Every rate of every round off by up to 30 %."""
    random_ = random.Random(seed)
    return [[r * random_.uniform(0.7, 1.3) for r in rates] for _ in range(rounds)]


@quick
@given(st.integers(3, 8), st.floats(1e4, 1e9), seeds)
def test_noise_never_changes_slices(peers: int, rate: float, seed: int) -> None:
    assert all(map(equal, rounds_of(swarm(peers), noisy([rate] * peers, 50, seed))))


@quick
@given(st.integers(3, 8), st.lists(st.floats(1.0, 1.49), min_size=8, max_size=8))
def test_rates_within_a_factor_of_one_and_a_half_are_equal(
    peers: int, factors: list[float]
) -> None:
    rates = [1e6 * f for f in factors[:peers]]
    assert all(map(equal, rounds_of(swarm(peers), [rates] * 20)))


@quick
@given(st.integers(3, 8), st.integers(0, 7), st.floats(1e4, 1e9))
def test_an_unmeasured_peer_counts_as_the_fastest(peers: int, known: int, rate: float) -> None:
    rates = [rate if i < known else 0.0 for i in range(peers)]
    assert all(map(equal, rounds_of(swarm(peers), [rates] * 20)))


def test_a_slow_uplink_that_alone_can_be_measured_is_not_the_fastest() -> None:
    """The others send their 10 MB before anything can be measured, it needs 100 s."""
    sizes = rounds_of(swarm(4), [[1e5, 0.0, 0.0, 0.0]] * 6, contribution_bytes=10_000_000)
    assert sizes[-1][0] == 0
    assert equal(sizes[-1][1:])


def test_newcomers_say_nothing_about_the_others() -> None:
    state = swarm(4)
    first = state.active_trainers()[0].node
    for _ in range(6):
        step = Step(state, 0.0)
        step.set_node(replace(step.state.nodes[first], up_bytes_per_s=1e5))
        for other in state.active_trainers()[1:]:
            step.set_node(replace(other, uplink_seen=()))
        observe(step, sorted(state.nodes), 10_000_000)
        state = step.state
    assert state.nodes[first].uplink_level == 0


@quick
@given(st.integers(3, 8), seeds)
def test_an_uplink_that_stays_four_times_slower_gets_less(peers: int, seed: int) -> None:
    sizes = rounds_of(swarm(peers), noisy([1e6 / 4] + [1e6] * (peers - 1), 30, seed))
    assert all(map(equal, sizes[: CLEAR_ROUNDS - 1]))
    for settled in sizes[10:]:
        assert settled[0] < min(settled[1:])
        assert equal(settled[1:])


@quick
@given(st.integers(3, 8), st.integers(1, CLEAR_ROUNDS - 1), seeds)
def test_a_slow_spell_that_does_not_last_changes_nothing(peers: int, spell: int, seed: int) -> None:
    fine = noisy([1e6] * peers, 10, seed)
    slow = noisy([1e4] + [1e6] * (peers - 1), spell, seed)
    assert all(map(equal, rounds_of(swarm(peers), fine + slow + fine)))


def test_a_mended_uplink_gets_its_slice_back() -> None:
    slow, fine = [1e5, 1e6, 1e6, 1e6], [1e6] * 4
    sizes = rounds_of(swarm(4), [slow] * 5 + [fine] * 5)
    assert not equal(sizes[4])
    assert equal(sizes[-1])


def test_a_single_fast_uplink_gets_more() -> None:
    sizes = rounds_of(swarm(4), [[4e6, 1e6, 1e6, 1e6]] * 5)
    assert sizes[-1][0] > 2 * sizes[-1][1]
    assert equal(sizes[-1][1:])


def test_a_small_difference_counts_after_twelve_rounds() -> None:
    sizes = rounds_of(swarm(4), [[1e6, 1.8e6, 1.8e6, 1.8e6]] * 12)
    assert all(map(equal, sizes[:11]))
    assert sizes[-1][0] < min(sizes[-1][1:])


@pytest.mark.parametrize("claimed", [1e308, 1e-300])
def test_an_absurd_claim_is_a_level_like_another(claimed: float) -> None:
    for sizes in rounds_of(swarm(4), [[claimed, 1e6, 1e6, 1e6]] * 5):
        assert sum(sizes) == CHUNKS


def test_levels_are_factors_of_one_and_a_half() -> None:
    assert [level(1.0, f) for f in (1.0, 1.49, 1.51, 2.24, 2.26, 1e300)] == [0, 0, 1, 1, 2, 12]
    assert MAX_LEVEL == 12
    assert level(0.0, 5.0) == 0
    assert lasting(0, (3, 3)) == 0
    assert lasting(0, (0, 3, 2, 4)) == 2
    assert lasting(3, (3, 3, 1, 0, 0)) == 1
    assert lasting(3, (1, 0, 3, 0, 0)) == 3
