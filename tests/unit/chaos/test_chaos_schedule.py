"""The schedule: one seed, one storm; enough of everything; never too few peers left."""

from __future__ import annotations

from collections import Counter

import pytest

from farflung.chaos.schedule import HOST, WITNESS, Fault, Kind, make_schedule

STOPPING = (Kind.KILL, Kind.STOP, Kind.DISK)


def test_a_seed_is_a_storm() -> None:
    first = make_schedule(3, 360, 5)
    assert first == make_schedule(3, 360, 5)
    assert first != make_schedule(4, 360, 5)


@pytest.mark.parametrize("seed", range(5))
def test_six_minutes_hold_what_a_release_asks_for(seed: int) -> None:
    counts = Counter(f.kind for f in make_schedule(seed, 360, 5))
    assert counts[Kind.KILL] >= 60
    assert counts[Kind.KILL_HOST] >= 10
    assert set(counts) == set(Kind)


def test_an_hour_holds_what_a_release_asks_for() -> None:
    counts = Counter(f.kind for f in make_schedule(0, 3600, 5))
    assert counts[Kind.KILL] >= 400
    assert counts[Kind.KILL_HOST] >= 40
    assert counts[Kind.JOIN] >= 100
    assert counts[Kind.PARTITION] + counts[Kind.ONE_WAY] >= 100


def test_twenty_seconds_hold_one_of_each_kind_that_needs_no_time() -> None:
    counts = Counter(f.kind for f in make_schedule(1, 20, 5))
    assert set(counts) >= set(Kind) - {Kind.LEAVE}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("peers", [3, 5, 8])
def test_enough_peers_are_left_alone_at_any_time(seed: int, peers: int) -> None:
    schedule = make_schedule(seed, 600, peers)
    for fault in schedule:
        sound = here(schedule, peers, fault.at_s) - struck(schedule, fault.at_s)
        assert len(sound) >= 2, fault


def here(schedule: tuple[Fault, ...], peers: int, at_s: float) -> set[str]:
    names = {f"p{i}" for i in range(peers)}
    for fault in schedule:
        if fault.at_s <= at_s and fault.kind is Kind.JOIN:
            names |= set(fault.nodes)
        if fault.at_s <= at_s and (fault.kind is Kind.LEAVE or not fault.returns):
            names -= set(fault.nodes)
    return names


def struck(schedule: tuple[Fault, ...], at_s: float) -> set[str]:
    kinds = (*STOPPING, Kind.PARTITION, Kind.ONE_WAY)
    return {
        name for f in schedule if f.kind in kinds and f.at_s <= at_s <= f.end_s for name in f.nodes
    }


@pytest.mark.parametrize("seed", range(3))
def test_every_fault_ends_within_the_storm_and_the_witness_lives(seed: int) -> None:
    for fault in make_schedule(seed, 300, 5):
        assert 0 < fault.at_s <= fault.end_s <= 300
        if fault.kind in (Kind.KILL, Kind.LEAVE, Kind.DISK):
            assert WITNESS not in fault.nodes
        if fault.kind in (Kind.KILL_HOST, Kind.HOST_DISK):
            assert fault.nodes == (HOST,)


@pytest.mark.parametrize("seed", range(3))
def test_a_peer_is_stopped_by_one_fault_at_a_time(seed: int) -> None:
    until: dict[str, float] = {}
    for fault in make_schedule(seed, 300, 5):
        if fault.kind in STOPPING:
            (name,) = fault.nodes
            assert until.get(name, 0.0) <= fault.at_s
            until[name] = fault.end_s


def test_late_peers_go_again_so_that_their_number_stays() -> None:
    schedule = make_schedule(0, 1800, 5)
    gone = {f.nodes[0] for f in schedule if f.kind is Kind.LEAVE or not f.returns}
    joined = [f.nodes[0] for f in schedule if f.kind is Kind.JOIN]
    assert gone >= set(joined[:-5])
    assert all(name.startswith("late") for name in gone)


def test_only_the_kinds_that_are_wanted_strike() -> None:
    wanted = frozenset({Kind.KILL, Kind.RESET})
    assert {f.kind for f in make_schedule(0, 60, 5, kinds=wanted)} == wanted


def test_a_partition_cuts_a_group_off_from_everybody_both_ways() -> None:
    fault = next(f for f in make_schedule(0, 600, 5) if f.kind is Kind.PARTITION)
    group = set(fault.nodes)
    for a, b in fault.links:
        assert (a in group) != (b in group)
        assert (b, a) in fault.links
    assert (fault.nodes[0], HOST) in fault.links
