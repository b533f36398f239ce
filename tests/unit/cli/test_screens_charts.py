"""Curves out of characters."""

from __future__ import annotations

import math

import pytest
from rich.cells import cell_len

from farflung.cli.screens.charts import bar, buckets, plotted, sparkline


def test_a_sparkline_falls_with_its_values_and_leaves_gaps() -> None:
    assert sparkline([8, 7, 6, 5, 4, 3, 2, 1], 8) == "█▇▆▅▄▃▂▁"
    assert sparkline([1, None, 2], 10) == "▁ █"
    assert sparkline([], 8) == sparkline([None, math.nan], 8) == ""
    assert len(set(sparkline([3.0] * 5, 5))) == 1
    assert len(sparkline(list(range(1000)), 40)) == 40


def test_buckets_are_means_of_what_is_known() -> None:
    assert buckets([1, 3, None, 5, None, None], 3) == [2, 5, None]
    assert buckets([1, 2], 5) == [1, 2]


@pytest.mark.parametrize("share", [0, 0.004, 0.5, 0.999, 1, 1.7, -1])
def test_a_bar_is_full_only_when_all_is_done(share: float) -> None:
    done, rest = bar(share, 20)
    assert len(done + rest) == 20 and (not rest) is (share >= 1)


@pytest.mark.parametrize("braille", [True, False])
@pytest.mark.parametrize("n", [0, 1, 2, 50, 1000])
def test_a_curve_fills_its_rectangle_exactly(braille: bool, n: int) -> None:
    values: list[float | None] = [4 * math.exp(-i / 100) for i in range(n)]
    lines, low, high = plotted(values, 30, 5, braille=braille)
    assert len(lines) == 5 and all(cell_len(line) == 30 for line in lines)
    if n:
        assert min(values) <= low <= high <= max(values)  # type: ignore[type-var, operator]
    if n >= 50:
        assert lines[0].strip() and not lines[0].endswith("*"), "it starts at the top"
        assert lines[-1].strip(), "and ends at the bottom"
    if not braille:
        assert "".join(lines).isascii()


def test_a_spike_does_not_flatten_the_rest() -> None:
    values: list[float | None] = [2 + i / 100 for i in range(60)]
    values[30] = 500.0
    _, low, high = plotted(values, 30, 5)
    assert (low, high) == (2.0, pytest.approx(2.58, abs=0.05))
