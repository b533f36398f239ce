"""Claims about mixtures: exact counts, every source without gap, changes that go on."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farflung.config.load import from_table
from farflung.data.mixture import PART_ROWS, Change, Mixture, MixtureTimeline
from farflung.data.samples import SampleOrder
from farflung.errors import ConfigError


def timeline(weights: list[float], seed: int = 0, *changes: Change) -> MixtureTimeline:
    return MixtureTimeline(weights, seed, changes)


def own(places: list[tuple[int, int]], source: int) -> list[int]:
    return [position for s, position in places if s == source]


@settings(max_examples=25, deadline=None)
@given(
    weights=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    part=st.integers(0, 500),
)
def test_every_part_is_within_one_row_of_the_exact_share(weights: list[int], part: int) -> None:
    mixture = Mixture(weights, seed=0)
    total = [0] * len(weights)
    for b in range(part % 50 + 1):
        counts = mixture.counts(b)
        assert sum(counts) == PART_ROWS
        total = [t + c for t, c in zip(total, counts, strict=True)]
        for source, weight in enumerate(weights):
            exact = Fraction(weight, sum(weights)) * PART_ROWS * (b + 1)
            assert abs(total[source] - exact) < 1


def test_long_run_weights_are_exact() -> None:
    mixture = Mixture([1, 1, 1], seed=0)
    assert mixture.period == 3
    assert [sum(c) for c in zip(*map(mixture.counts, range(3)), strict=True)] == [1000, 1000, 1000]


def test_decimal_weights_mean_what_they_print() -> None:
    assert Mixture([0.7, 0.3], seed=0).counts(0) == (700, 300)
    assert Mixture([0.1, 0.2], seed=0).period == 3


def test_each_source_is_read_in_its_own_order_without_gap_or_repeat() -> None:
    mixture = Mixture([0.55, 0.25, 0.2], seed=5)
    places = [mixture.place(p) for p in range(4 * PART_ROWS)]
    for source in range(3):
        assert own(places, source) == list(range(len(own(places, source))))


def test_one_source_reads_its_positions() -> None:
    mixture = Mixture([3.0], seed=5)
    assert [mixture.place(p) for p in (0, 1, 999, 123_456)] == [
        (0, p) for p in (0, 1, 999, 123_456)
    ]
    assert mixture.reached(1234) == (1234,)


def test_each_source_has_its_own_epochs() -> None:
    """The smallest source wraps eight times while the largest has not finished once."""
    rows = {"web": 5000, "books": 700, "notes": 97}
    weights = {"web": 6, "books": 2, "notes": 2}
    spec = from_table(
        {
            "data": {
                "seq_len": 16,
                "block_rows": 8,
                "window_blocks": 4,
                "sources": [
                    {"name": n, "source": "synthetic", "rows": rows[n], "weight": weights[n]}
                    for n in rows
                ],
            }
        }
    )
    order = SampleOrder(spec, list(rows.values()))
    reads = [Counter[int]() for _ in rows]
    for position in range(4000):
        source, row = order.locate(position)
        reads[source][row] += 1
    assert len(reads[0]) == 2400 and set(reads[0].values()) == {1}
    assert sum(reads[1].values()) == 800 and set(reads[1].values()) == {1, 2}
    assert set(reads[2]) == set(range(97)) and set(reads[2].values()) == {8, 9}


def test_parts_are_shuffled_and_differ() -> None:
    mixture = Mixture([1, 1], seed=0)
    first = [mixture.place(p)[0] for p in range(1000)]
    second = [mixture.place(p)[0] for p in range(1000, 2000)]
    assert first != second
    assert 400 < sum(a != b for a, b in pairwise(first)) < 600


@settings(max_examples=30, deadline=None)
@given(
    weights=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    cuts=st.lists(st.integers(0, 3500), min_size=2, max_size=8),
)
def test_counting_ranges_is_counting_their_positions(weights: list[int], cuts: list[int]) -> None:
    mixture = timeline([float(w) for w in weights], 3)
    ends = sorted(cuts)
    ranges = list(zip(ends[::2], ends[1::2], strict=False))
    seen = Counter(mixture.place(p)[0] for a, b in ranges for p in range(a, b))
    assert mixture.count(ranges) == tuple(seen[i] for i in range(len(weights)))


# ---- changes -------------------------------------------------------------------------------


def test_a_changed_mixture_goes_on_where_the_old_one_stopped() -> None:
    old = timeline([0.6, 0.4], 1)
    change = old.change([0.1, 0.9], frontier=2500)
    assert change == Change(start=3000, parts=(1, 9), bases=(1800, 1200))
    new = timeline([0.6, 0.4], 1, change)
    assert [new.place(p) for p in range(3000)] == [old.place(p) for p in range(3000)]
    places = [new.place(p) for p in range(6000)]
    for source in range(2):
        assert own(places, source) == list(range(len(own(places, source))))
    assert new.reached(6000) == (1800 + 300, 1200 + 2700)


@pytest.mark.parametrize("frontier", [0, 1, 999, 1000, 1001])
def test_a_change_starts_above_all_that_was_leased(frontier: int) -> None:
    change = timeline([2, 1], 1).change([1, 2], frontier)
    assert change.start >= frontier
    assert change.start - frontier < PART_ROWS
    assert sum(change.bases) == change.start


@settings(max_examples=30, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 2500), st.lists(st.integers(1, 9), min_size=3, max_size=3)),
        max_size=4,
    )
)
def test_many_changes_leave_every_source_without_gap(
    steps: list[tuple[int, list[int]]],
) -> None:
    """Also changes that replace one which has not begun, and several at one place."""
    changes: list[Change] = []
    frontier = 0
    for rows, weights in steps:
        frontier += rows
        before = timeline([5, 3, 2], 7, *changes)
        changes.append(before.change(weights, frontier))
        after = timeline([5, 3, 2], 7, *changes)
        for position in range(max(0, frontier - 50), frontier):  # leased: never moves
            assert after.place(position) == before.place(position)
    end = timeline([5, 3, 2], 7, *changes)
    places = [end.place(p) for p in range(frontier + 2000)]
    for source in range(3):
        assert own(places, source) == list(range(len(own(places, source))))
    assert end.reached(len(places)) == tuple(len(own(places, s)) for s in range(3))


def test_a_change_needs_a_weight_for_each_source() -> None:
    with pytest.raises(ConfigError, match="1 weights for 2 sources"):
        timeline([1, 1]).change([1], 0)
    with pytest.raises(ConfigError, match="2 weights for 1 sources"):
        Mixture([1, 1], 0, bases=(1,))


@pytest.mark.parametrize(
    ("weights", "rule"),
    [
        ([], "positive"),
        ([1, 0], "positive"),
        ([1, -2], "positive"),
        ([1, float("nan")], "positive"),
        ([1, float("inf")], "positive"),
        ([10_000, 1], "below 1/1000"),
        ([0.123456789, 0.5], "too many digits"),
    ],
)
def test_bad_weights_are_refused(weights: list[float], rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        Mixture(weights, seed=0)
