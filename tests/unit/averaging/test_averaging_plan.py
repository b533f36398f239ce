"""Who reduces which slice."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farflung.averaging.plan import (
    Reach,
    choose_owners,
    chunk_count,
    cut_slices,
    edge,
    exchange_s,
    shares,
)

ALL = frozenset("abck")
quick = settings(max_examples=50, deadline=None)


def reach(dialable: frozenset[str] = ALL, *dead: tuple[str, str]) -> Reach:
    return Reach(dialable=dialable, dead=frozenset(edge(*d) for d in dead))


def test_every_candidate_owns_a_slice_when_all_links_are_good() -> None:
    assert choose_owners("abc", "k", "abck", reach()) == ("a", "b", "c")


def test_two_nodes_are_linked_when_one_can_dial_the_other() -> None:
    only_a = reach(frozenset("a"))
    assert only_a.linked("a", "b") and only_a.linked("b", "a")
    assert not only_a.linked("b", "c")
    assert only_a.linked("b", "b")


def test_a_dialable_peer_owns_everything_among_peers_behind_nats() -> None:
    assert choose_owners("abc", "k", "abck", reach(frozenset("ak"))) == ("a",)


def test_the_keeper_owns_what_nobody_else_can() -> None:
    assert choose_owners("abc", "k", "abck", reach(frozenset("k"))) == ("k",)


def test_nobody_owns_when_nobody_can_be_reached() -> None:
    assert choose_owners("abc", (), "abc", reach(frozenset())) == ()


def test_a_single_candidate_can_always_reduce_its_own() -> None:
    assert choose_owners("a", (), "a", reach(frozenset())) == ("a",)


def test_neither_end_of_a_dead_link_owns_a_slice() -> None:
    assert choose_owners("abc", "k", "abck", reach(ALL, ("a", "b"))) == ("c",)
    assert choose_owners("abc", "k", "abck", reach(ALL, ("b", "a"), ("c", "a"))) == ("k",)


def test_owners_that_reach_every_member_are_preferred() -> None:
    assert choose_owners("abc", "k", "abck", reach(ALL, ("a", "k"))) == ("b", "c")
    nobody_reaches_k = reach(frozenset("abc"), ("a", "k"), ("b", "k"), ("c", "k"))
    assert choose_owners("abc", "k", "abck", nobody_reaches_k) == ("a", "b", "c")


def test_shares_are_equal_until_a_rate_is_known() -> None:
    assert shares("abcd", {}, 4) == dict.fromkeys("abcd", 0.25)
    assert shares("ab", {"a": 9.0, "b": 1.0}, 2) == {"a": 0.5, "b": 0.5}


def test_an_owner_whose_transfers_are_too_short_to_measure_counts_as_the_fastest() -> None:
    assert shares("abcd", {"a": 9.0}, 5) == dict.fromkeys("abcd", 0.25)
    share = shares("abcd", {"a": 1.0, "b": 9.0}, 5)
    assert share["a"] < 0.1
    assert share["b"] == share["c"] == share["d"] > 0.3


@given(st.integers(1, 400), st.integers(1, 9), st.integers(0, 9), st.floats(1e-3, 1e12))
def test_equal_or_unknown_rates_give_slices_equal_within_one_chunk(
    chunks: int, owners: int, known: int, rate: float
) -> None:
    names = [f"n{i}" for i in range(owners)]
    share = shares(names, dict.fromkeys(names[:known], rate), owners + 1)
    sizes = {s.owner: s.stop - s.first for s in cut_slices(chunks, share)}
    assert max(sizes.values()) - min(sizes.get(n, 0) for n in names) <= 1


def test_the_slowest_member_sets_the_time_of_an_exchange() -> None:
    """a owns all of 100 bytes and sends them to b and k; b contributes 100."""
    rates = {"a": (10.0, 50.0), "b": (5.0, 20.0), "k": (1.0, 2.0)}
    assert exchange_s(100, {"a": 1.0}, "ab", "ab", rates) == 20.0  # b sends 100 at 5
    assert exchange_s(100, {"a": 1.0}, "ab", "abk", rates) == 50.0  # k receives 100 at 2
    fast_k = rates | {"k": (1.0, 1e3)}
    assert exchange_s(100, {"a": 1.0}, "ab", "abk", fast_k) == 20.0  # a sends 200 at 10
    assert exchange_s(100, {"a": 0.5, "b": 0.5}, "ab", "ab", rates) == 20.0


def seconds(share: float, rate: float, candidates: int) -> float:
    """Upload of one owner for a fragment of 1 byte: D (1 - w + w (N - 1)) / b."""
    return (1 - share + share * (candidates - 1)) / rate


@quick
@given(st.lists(st.floats(0.1, 100), min_size=3, max_size=6))
def test_shares_minimise_the_slowest_owners_upload(rates: list[float]) -> None:
    names = [f"n{i}" for i in range(len(rates))]
    n = len(rates)
    share = shares(names, dict(zip(names, rates, strict=True)), n)
    assert sum(share.values()) == pytest.approx(1.0)
    assert all(f >= 0 for f in share.values())
    working = [seconds(f, b, n) for f, b in zip(share.values(), rates, strict=True) if f > 0]
    slowest = max(working)
    assert slowest == pytest.approx(min(working), rel=1e-6)  # all finish together
    idle = [1 / b for f, b in zip(share.values(), rates, strict=True) if f == 0]
    assert all(t >= slowest * (1 - 1e-6) for t in idle)  # owning would make it later still


def test_shares_agree_with_a_brute_force_search() -> None:
    rates = {"a": 10.0, "b": 5.0, "c": 1.0}
    steps = [i / 200 for i in range(201)]
    best = min(
        max(seconds(x, b, 3) for x, b in zip((fa, fb, 1 - fa - fb), rates.values(), strict=True))
        for fa in steps
        for fb in steps
        if fa + fb <= 1
    )
    share = shares("abc", rates, 3)
    # c, which is slower without any share than the others with all of it, gets nothing
    assert share["c"] == 0
    assert max(seconds(share[o], rates[o], 3) for o in "ab") <= best


@quick
@given(st.integers(1, 50), st.lists(st.floats(0.0, 10.0), min_size=1, max_size=7))
def test_slices_cover_every_chunk_exactly_once(chunks: int, raw: list[float]) -> None:
    total = sum(raw) or 1.0
    share = {f"n{i}": (x / total if sum(raw) else 1 / len(raw)) for i, x in enumerate(raw)}
    slices = cut_slices(chunks, share)
    assert [c for s in slices for c in range(s.first, s.stop)] == list(range(chunks))
    assert all(s.first < s.stop for s in slices)
    assert len({s.owner for s in slices}) == len(slices)


def test_slices_follow_the_shares() -> None:
    slices = cut_slices(100, {"a": 0.5, "b": 0.3, "c": 0.2})
    assert [(s.first, s.stop, s.owner) for s in slices] == [
        (0, 50, "a"),
        (50, 80, "b"),
        (80, 100, "c"),
    ]
    assert [s.owner for s in cut_slices(1, {"a": 0.5, "b": 0.5})] == ["b"]


@pytest.mark.parametrize(("elements", "chunks"), [(1, 1), (256, 1), (257, 2), (512, 2)])
def test_the_last_chunk_may_be_short(elements: int, chunks: int) -> None:
    assert chunk_count(elements, 256) == chunks
