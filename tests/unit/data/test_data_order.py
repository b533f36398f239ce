"""Claims about the order of samples: every row once, long reads, a good shuffle."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from statistics import correlation

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farflung.config.run import rows_of_block
from farflung.data.order import Order, permute, round_keys


def order(rows: int, seed: int = 0, block: int = 8, window: int = 16) -> Order:
    return Order(rows, seed, block_rows=block, window_blocks=window)


@settings(max_examples=150, deadline=None)
@given(
    rows=st.integers(1, 700),
    seed=st.integers(),
    epoch=st.integers(0, 5),
    block=st.integers(1, 90),
    window=st.integers(1, 40),
)
def test_every_epoch_visits_every_row_once(
    rows: int, seed: int, epoch: int, block: int, window: int
) -> None:
    visited = order(rows, seed, block, window).rows_of([(epoch * rows, (epoch + 1) * rows)])
    assert sorted(visited) == list(range(rows))


@settings(max_examples=100, deadline=None)
@given(
    rows=st.integers(1, 700),
    seed=st.integers(0, 9),
    block=st.integers(1, 90),
    window=st.integers(1, 40),
)
def test_a_window_holds_whole_blocks_and_no_more_of_them_than_asked(
    rows: int, seed: int, block: int, window: int
) -> None:
    """What one window reads, no other window of the epoch reads: a block is fetched once."""
    one = order(rows, seed, block, window)
    blocks = [row // block for row in one.rows_of([(0, rows)])]
    runs: list[set[int]] = [set()]
    left = Counter(blocks)
    for number in blocks:
        runs[-1].add(number)
        left[number] -= 1
        if all(left[n] == 0 for n in runs[-1]):
            runs.append(set())
    # Windows may fall apart further by chance (one block whose rows come together), never join.
    assert all(len(run) <= window for run in runs)
    total = -(-rows // block)
    assert sum(map(len, runs)) == total


def test_windows_differ_by_at_most_one_block() -> None:
    """65 blocks in windows of 64 are two halves, not 64 and a last one that mixes nothing."""
    one = order(65 * 8, 3, 8, 64)
    first = {row // 8 for row in one.rows_of([(0, 32 * 8)])}
    assert len(first) in (32, 33)


def test_epochs_and_seeds_have_different_orders() -> None:
    first = order(100, 1).rows_of([(0, 100)])
    assert first != order(100, 1).rows_of([(100, 200)])
    assert first != order(100, 2).rows_of([(0, 100)])
    assert first != list(range(100))


@pytest.mark.parametrize(("rows", "block"), [(10_000, 1), (10_000, 8), (10_007, 8), (9_999, 50)])
def test_neighbours_in_the_order_are_no_neighbours_in_the_text(rows: int, block: int) -> None:
    """Rank correlation of consecutive rows is that of a random permutation (1/sqrt(n) = 0.01)
    plus what the window's few blocks leave."""
    visited = order(rows, 5, block, 64).rows_of([(0, rows)])
    assert abs(correlation(visited[:-1], visited[1:])) < 0.05
    together = sum(abs(a - b) == 1 for a, b in pairwise(visited)) / rows
    assert together < 2.5 / 64  # of the rows of a window, both neighbours of a row are two


def test_a_batch_comes_from_many_blocks_and_a_window_is_few_reads() -> None:
    """At 8,192 tokens: 512 rows of a window are 64 reads of 8 rows."""
    block = rows_of_block(8192)
    visited = order(100_000, 1, block, 64).rows_of([(0, 51_200)])
    batches = [visited[i : i + 32] for i in range(0, len(visited), 32)]
    spread = sum(len({row // block for row in batch}) for batch in batches) / len(batches)
    assert 23 < spread < 27  # 64 * (1 - (1 - 1/64) ** 32) = 25.3
    reads = _reads(visited, block, held=128)
    assert 51_200 // block <= reads <= 51_200 // block + 64  # the last window is not over
    assert reads / len(batches) < 4.05


def _reads(rows: list[int], block: int, held: int) -> int:
    """Blocks that a reader which keeps the last `held` ones in memory reads."""
    memory: dict[int, None] = {}
    reads = 0
    for row in rows:
        number = row // block
        reads += number not in memory
        memory.pop(number, None)
        memory[number] = None
        if len(memory) > held:
            memory.pop(next(iter(memory)))
    return reads


def test_the_place_of_a_row_is_spread_evenly() -> None:
    """Chi-square of (first quarter of positions) x (decile of rows): 9 degrees of freedom."""
    rows, draws = 1_000, 400
    seen = Counter(
        order(rows, seed, 4, 16).row(position) * 10 // rows
        for seed in range(draws // 10)
        for position in range(0, 250, 25)
    )
    expected = draws / 10
    chi_square = sum((seen[decile] - expected) ** 2 / expected for decile in range(10))
    assert chi_square < 27.9  # 1 in 1,000


def test_the_short_block_comes_at_other_places_in_other_epochs() -> None:
    """100 blocks of 10 and one of 7: it is no fixed tail."""
    one = order(1007, 0, 10, 4)
    places = {one.rows_of([(e * 1007, (e + 1) * 1007)]).index(1006) // 100 for e in range(20)}
    assert len(places) > 5


def test_order_is_the_golden_one() -> None:
    assert order(10, 0, 3, 2).rows_of([(0, 20)]) == GOLDEN_10
    assert [order(19_790, 7).row(p) for p in (0, 1, 2, 19_789, 19_790)] == GOLDEN_19790
    assert order(1 << 40, -3).row((1 << 41) + 5) == GOLDEN_LARGE


def test_ranges_are_read_in_order_and_half_open() -> None:
    one = order(50, 3)
    assert one.rows_of([(10, 12), (70, 71)]) == [one.row(10), one.row(11), one.row(70)]
    assert one.rows_of([(5, 5)]) == []


@pytest.mark.parametrize("wrong", [(0, 8, 16), (5, 0, 16), (5, 8, 0)])
def test_an_order_needs_rows(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        order(wrong[0], 0, wrong[1], wrong[2])


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_a_permutation_is_one(size: int) -> None:
    keys = round_keys("test", 0, 1)
    assert sorted(permute(i, size, keys) for i in range(size)) == list(range(size))


GOLDEN_10 = [9, 6, 7, 8, 3, 0, 1, 2, 5, 4, 5, 3, 7, 8, 4, 6, 0, 1, 2, 9]
GOLDEN_19790 = [4312, 4313, 9573, 10152, 18869]
GOLDEN_LARGE = 454755438310
