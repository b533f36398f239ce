"""Down-sampling: every bucket says of its rounds what they say together."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farflung.monitor.columns import ABANDONED, COMMITTED, OPEN, RoundColumns, stride_for
from farflung.monitor.thinned import CAPACITY, Thinned

LOSSES = st.one_of(st.none(), st.floats(0.125, 16, width=16))
ROUNDS = st.lists(
    st.tuples(LOSSES, st.integers(0, 1000), st.sampled_from([OPEN, COMMITTED, ABANDONED])),
    max_size=400,
)


def columns_of(rounds: list[tuple[float | None, int, int]]) -> RoundColumns:
    columns = RoundColumns()
    for number, (loss, tokens, outcome) in enumerate(rounds):
        assert columns.reach(number)
        columns.set(number, outcome=outcome)
        if outcome == COMMITTED:
            columns.set(number, tokens=tokens, peers=2, at=10.0 * number + 5, opened=10.0 * number)
            columns.set(number, loss=math.nan if loss is None else loss)
    return columns


@settings(max_examples=150, deadline=None)
@given(rounds=ROUNDS, points=st.integers(1, 60), first=st.integers(0, 400))
def test_a_bucket_is_its_rounds(
    rounds: list[tuple[float | None, int, int]], points: int, first: int
) -> None:
    table = columns_of(rounds).table(first, len(rounds), points)
    stride = table["stride"]
    assert len({len(c) for c in table.values() if isinstance(c, list)}) == 1
    assert len(table["round"]) <= points
    shown = [n for n in range(first, len(rounds)) if rounds[n][2] != OPEN]
    buckets = [[n for n in shown if n // stride == b] for b in sorted({n // stride for n in shown})]
    assert table["round"] == [bucket[-1] for bucket in buckets]
    for index, bucket in enumerate(buckets):
        known = [rounds[n][0] for n in bucket if rounds[n][2] == COMMITTED]
        losses = [loss for loss in known if loss is not None]
        if not losses:
            assert table["loss"][index] is table["loss_min"][index] is None
        else:
            assert table["loss"][index] == pytest.approx(np.mean(losses), rel=1e-5)
            assert table["loss_min"][index] == pytest.approx(min(losses), rel=1e-5)
            assert table["loss_max"][index] == pytest.approx(max(losses), rel=1e-5)
        done = [n for n in range(bucket[-1] + 1) if rounds[n][2] == COMMITTED]
        assert table["tokens"][index] == sum(rounds[n][1] for n in done)
        assert table["abandoned"][index] == sum(rounds[n][2] == ABANDONED for n in bucket)
        mine = [rounds[n][1] for n in bucket if rounds[n][2] == COMMITTED]
        speed = sum(mine) / (5.0 * len(mine)) if mine else None
        assert table["tokens_per_s"][index] == (
            None if speed is None else pytest.approx(speed, 1e-5)
        )


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 5000), st.integers(0, 5000), st.integers(1, 300))
def test_a_stride_is_the_smallest_that_fits(first: int, length: int, points: int) -> None:
    def buckets(stride: int) -> int:
        return (first + length - 1) // stride - first // stride + 1 if length else 0

    stride = stride_for(first, first + length, points)
    assert buckets(stride) <= points
    assert stride == 1 or length / (stride - 1) > points or buckets(stride - 1) > points


def test_a_longer_table_has_the_same_buckets() -> None:
    rounds = [(1.0 + n % 7, n, COMMITTED) for n in range(900)]
    columns = columns_of(rounds)
    shorter, longer = columns.table(0, 800, 200), columns.table(0, 900, 225)
    assert shorter["stride"] == longer["stride"] == 4
    assert longer["loss"][: len(shorter["loss"])] == shorter["loss"]


def test_rounds_that_overlap_share_the_time() -> None:
    columns = RoundColumns()
    for number, (opened, at) in enumerate([(0.0, 10.0), (5.0, 15.0), (10.0, 20.0)]):
        columns.reach(number)
        columns.set(number, opened=opened, at=at, outcome=COMMITTED, tokens=100, took_s=at - opened)
    assert columns.seconds(0, 3).tolist() == [10.0, 5.0, 5.0]
    assert columns.seconds(1, 3).tolist() == [5.0, 5.0]
    assert columns.table(0, 3, 10)["tokens_per_s"] == [10.0, 20.0, 20.0]


def test_rounds_without_wall_times_take_what_the_coordinator_measured() -> None:
    columns = RoundColumns()
    columns.reach(0)
    columns.set(0, outcome=COMMITTED, tokens=100, took_s=4.0)
    assert columns.table(0, 1, 10)["tokens_per_s"] == [25.0]


def test_columns_grow_and_keep_what_they_hold() -> None:
    columns = RoundColumns()
    for number in range(0, 3000, 7):
        columns.reach(number)
        columns.set(number, outcome=COMMITTED, loss=float(number))
    assert columns.length == 2997
    assert columns.get("loss", 2996) == 2996.0
    assert math.isnan(columns.get("loss", 5000)) and columns.get("tokens", 5000) == 0
    assert not columns.reach(1 << 40) and not columns.reach(-1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.5, 2, width=16), min_size=1, max_size=1500))
def test_a_thinned_series_keeps_its_length_and_its_mean(values: list[float]) -> None:
    series = Thinned()
    for number, value in enumerate(values):
        series.add(number, loss=value)
        series.add(number, bytes_up=2 * value)
    table = series.table()
    assert len(table["round"]) <= CAPACITY
    assert table["round"][-1] == len(values) - 1
    assert table["round"] == sorted(set(table["round"]))
    assert table["wait_s"] == [None] * len(table["round"])
    weights = np.diff([-1, *table["round"]])
    assert weights @ np.array(table["loss"]) == pytest.approx(sum(values), rel=1e-4)
    assert table["bytes_up"] == pytest.approx([2 * v for v in table["loss"]], rel=1e-4)


def test_rounds_that_an_old_log_has_lost_share_the_time_between_their_neighbours() -> None:
    columns = RoundColumns()
    for number in range(8):
        columns.reach(number)
        columns.set(number, outcome=COMMITTED, tokens=100)
        if number % 2 == 0:
            columns.set(number, opened=10.0 * number, at=10.0 * number + 10.0, loss=1.0)
    assert columns.seconds(0, 6).tolist() == [10.0] * 6
    assert columns.seconds(3, 5).tolist() == [10.0, 10.0], "whatever part is asked for"
    table = columns.table(0, 7, 100)
    assert table["tokens_per_s"] == [10.0] * 7
    assert table["loss"] == [1.0, None] * 3 + [1.0] and table["at"][1] is None
    assert np.isnan(columns.seconds(7, 8)).all(), "nothing is known of what follows"
