"""The arithmetic of an owner."""

from __future__ import annotations

import numpy as np
import pytest
from averaging_samples import CHUNK, ELEMENTS, decoded, encoded, grid, included, values

from farflung.averaging.reduce import coefficient, reduce_slice, statistics
from farflung.outer.codecs import CODECS

WEIGHTS = {"a": 640, "b": 1920, "c": 128}
DIVISOR = sum(WEIGHTS.values())


def contributions(codec: str) -> dict[str, list[bytes]]:
    return {n: encoded(values(i), codec) for i, n in enumerate(WEIGHTS)}


@pytest.mark.parametrize("codec", list(CODECS))
def test_the_mean_equals_a_float64_reference(codec: str) -> None:
    inputs = contributions(codec)
    got = decoded(reduce_slice(grid(codec), 0, inputs, included(WEIGHTS), DIVISOR), codec)
    exact = sum(
        decoded(inputs[n], codec).astype(np.float64) * (w / DIVISOR) for n, w in WEIGHTS.items()
    )
    once = decoded(encoded(exact.astype(np.float32), codec), codec)
    step = np.abs(exact).max() / 64 if codec != "fp32" else 1e-6
    np.testing.assert_allclose(got, once, atol=step)
    if codec == "fp32":
        np.testing.assert_allclose(got, exact, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("codec", list(CODECS))
@pytest.mark.parametrize("cut", [1, 2, 4])
def test_the_bytes_are_the_same_whoever_owns_the_slice(codec: str, cut: int) -> None:
    inputs = contributions(codec)
    whole = reduce_slice(grid(codec), 0, inputs, included(WEIGHTS), DIVISOR)
    left = {n: c[:cut] for n, c in inputs.items()}
    right = {n: c[cut:] for n, c in inputs.items()}
    parts = reduce_slice(grid(codec), 0, left, included(WEIGHTS), DIVISOR)
    parts += reduce_slice(grid(codec), cut, right, included(WEIGHTS), DIVISOR)
    assert parts == whole


def test_the_order_of_arrival_does_not_matter_but_the_verdicts_order_does() -> None:
    inputs = contributions("fp32")
    entries = included(WEIGHTS)
    whole = reduce_slice(grid("fp32"), 0, inputs, entries, DIVISOR)
    arrived = dict(reversed(inputs.items()))
    assert reduce_slice(grid("fp32"), 0, arrived, entries, DIVISOR) == whole
    assert reduce_slice(grid("fp32"), 0, inputs, entries[::-1], DIVISOR) != whole


def test_a_contributor_outside_the_verdict_has_no_influence() -> None:
    inputs = contributions("fp32")
    two = included({"a": 640, "b": 1920})
    with_c = reduce_slice(grid("fp32"), 0, inputs, two, 2560)
    del inputs["c"]
    assert reduce_slice(grid("fp32"), 0, inputs, two, 2560) == with_c


def test_a_lone_contributor_in_fp32_is_returned_bit_by_bit() -> None:
    inputs = {"a": encoded(values(1), "fp32")}
    assert reduce_slice(grid("fp32"), 0, inputs, included({"a": 7}), 7) == inputs["a"]


def test_a_coefficient_is_weight_times_clip_over_divisor_in_one_rounding() -> None:
    half = int(np.float32(0.5).view(np.uint32))
    (entry,) = included({"a": 3}, clip=half)
    assert coefficient(entry, 7) == np.float32(3 * 0.5 / 7)


def test_enormous_values_overflow_to_infinity_without_a_warning() -> None:
    big = np.full(ELEMENTS, 3e38, np.float32)
    inputs = {n: encoded(big, "fp32") for n in "ab"}
    out = reduce_slice(grid("fp32"), 0, inputs, included({"a": 9, "b": 9}), 9)
    assert not np.isfinite(decoded(out, "fp32")).any()


def test_statistics_are_norms_and_dot_products_with_the_sum() -> None:
    inputs = contributions("int8")
    wide = {n: decoded(c).astype(np.float64) for n, c in inputs.items()}
    total = sum(wide.values())
    got = statistics(grid(), 0, inputs)
    assert [p.node for p in got] == list(inputs)
    for partial in got:
        assert partial.square == pytest.approx(float(wide[partial.node] @ wide[partial.node]))
        assert partial.dot == pytest.approx(float(wide[partial.node] @ total))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_input_shows_as_an_infinite_square_of_its_sender_only(bad: float) -> None:
    poisoned = values(0)
    poisoned[300] = bad
    inputs = {"a": encoded(poisoned, "fp32"), "b": encoded(values(1), "fp32")}
    a, b = statistics(grid("fp32"), 0, inputs)
    assert a.square == float("inf")
    assert np.isfinite(b.square)
    assert np.isfinite([a.dot, b.dot]).all()


def test_the_grid_knows_every_chunks_size() -> None:
    g = grid()
    assert [g.elements_of(c) for c in range(g.chunks)] == [CHUNK] * 4 + [ELEMENTS - 4 * CHUNK]
    sizes = [g.bytes_of(c) for c in range(g.chunks)]
    for first in range(g.chunks):
        for stop in range(first + 1, g.chunks + 1):
            assert g.bytes_between(first, stop) == sum(sizes[first:stop])
    for first, stop in [(0, 0), (-1, 1), (3, 2), (0, 6)]:
        with pytest.raises(ValueError, match="outside"):
            g.bytes_between(first, stop)
