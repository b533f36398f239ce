"""Numbers as people read them."""

from __future__ import annotations

import math

import pytest

from farflung.cli.screens.numbers import flops, loss_text, percent, short, size, span


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (math.nan, "-"),
        (0, "0"),
        (812, "812"),
        (8123.4, "8.12k"),
        (999_999, "1.00M"),
        (12_345_678, "12.3M"),
        (1.02e9, "1.02B"),
        (0.41, "0.41"),
        (1e15, "1000T"),
    ],
)
def test_three_digits_and_a_unit(value: float | None, text: str) -> None:
    assert short(value) == text


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (999, "999 B"),
        (9_400_000, "9.40 MB"),
        (12.1e6, "12.1 MB"),
        (1.2e9, "1.20 GB"),
        (999_999, "1.00 MB"),
    ],
)
def test_sizes(n: float | None, text: str) -> None:
    assert size(n) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (math.inf, "-"),
        (-3, "0 s"),
        (89.4, "89 s"),
        (90, "2 m"),
        (180, "3 m"),
        (8040, "2 h 14 m"),
        (3599, "1 h 0 m"),
        (442_800, "5 d 3 h"),
        (1e9, "11,574 d"),
    ],
)
def test_spans(seconds: float | None, text: str) -> None:
    assert span(seconds) == text


def test_the_rest() -> None:
    assert (percent(0.41), percent(None), percent(0.005, 1)) == ("41 %", "-", "0.5 %")
    assert (loss_text(2.3127), loss_text(0.0013), loss_text(0.0)) == ("2.31", "0.0013", "0.00")
    assert (flops(17.6), flops(0.0086), flops(1234)) == (
        "17.6 TFLOP/s",
        "8.60 GFLOP/s",
        "1.23 PFLOP/s",
    )
