"""Claims about outer/nesterov.py: the published recurrence, with the same bits everywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outer_samples import Float32, arithmetic, sample

from farflung.outer.nesterov import bits_of, float_from_bits, outer_step

SAMPLES = Path(__file__).with_name("outer_samples.py")
LR, MU = bits_of(0.7), bits_of(0.9)


def dispatched_features() -> list[str]:
    """NumPy's run-time SIMD levels of this CPU, lowest first."""
    try:
        from numpy._core import _multiarray_umath as umath
    except ImportError:  # NumPy 1
        from numpy.core import _multiarray_umath as umath  # type: ignore[no-redef]
    return [name for name in umath.__cpu_dispatch__ if umath.__cpu_features__.get(name)]


def stepped(chunk_elements: int, n: int) -> tuple[Float32, Float32]:
    anchor, momentum, gradient = (sample(n, seed) for seed in range(3))
    outer_step(
        anchor, momentum, gradient, LR, MU,
        out_anchor=anchor, out_momentum=momentum, chunk_elements=chunk_elements,
    )  # fmt: skip
    return anchor, momentum


def test_constant_gradient_gives_the_published_steps() -> None:
    theta, m, ones = np.zeros(3, np.float32), np.zeros(3, np.float32), np.ones(3, np.float32)
    for momentum, step in ((1.0, 1.33), (1.9, 1.897), (2.71, 2.4073)):
        before = theta.copy()
        outer_step(theta, m, ones, LR, MU, out_anchor=theta, out_momentum=m)
        np.testing.assert_allclose(m, momentum, rtol=1e-6)
        np.testing.assert_allclose(before - theta, step, rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 3000), st.integers(1, 1000))
def test_chunks_do_not_change_a_bit(n: int, chunk: int) -> None:
    for part, whole in zip(stepped(chunk, n), stepped(max(1, n), n), strict=True):
        np.testing.assert_array_equal(part, whole)


def test_in_place_equals_out_of_place() -> None:
    n = 200_000
    anchor, momentum, gradient = (sample(n, seed) for seed in range(3))
    kept = [a.copy() for a in (anchor, momentum, gradient)]
    new_anchor, new_momentum = np.empty(n, np.float32), np.empty(n, np.float32)
    outer_step(anchor, momentum, gradient, LR, MU, out_anchor=new_anchor, out_momentum=new_momentum)
    for input_, copy in zip((anchor, momentum, gradient), kept, strict=True):
        np.testing.assert_array_equal(input_, copy)
    in_place = stepped(65_536, n)
    np.testing.assert_array_equal(new_anchor, in_place[0])
    np.testing.assert_array_equal(new_momentum, in_place[1])


def test_each_operation_is_rounded_on_its_own() -> None:
    theta, m, g = (sample(5000, seed) for seed in range(3))
    lr, mu = np.float32(0.7), np.float32(0.9)
    m_new = np.float32(mu * m) + g
    expected = theta - np.float32(lr * np.float32(g + np.float32(mu * m_new)))
    outer_step(theta, m, g, LR, MU, out_anchor=theta, out_momentum=m)
    np.testing.assert_array_equal(m, m_new)
    np.testing.assert_array_equal(theta, expected)


def test_results_do_not_depend_on_the_cpu_features() -> None:
    features = dispatched_features()
    if not features:
        pytest.skip("NumPy dispatches to no SIMD level above its baseline on this CPU")
    expected = arithmetic()
    for lowest in range(len(features)):
        environment = {**os.environ, "NPY_DISABLE_CPU_FEATURES": " ".join(features[lowest:])}
        command = [sys.executable, "-W", "error", str(SAMPLES)]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=True
        )
        assert json.loads(done.stdout) == {"digests": expected, "heavy": []}, features[lowest:]


def test_it_follows_torch_sgd_nesterov() -> None:
    torch = pytest.importorskip("torch")
    theta = sample(4096, 1)
    momentum = np.zeros_like(theta)
    reference = torch.nn.Parameter(torch.from_numpy(theta.copy()))
    sgd = torch.optim.SGD([reference], lr=0.7, momentum=0.9, nesterov=True)
    for seed in range(20):
        gradient = sample(4096, seed) * np.float32(0.01)
        reference.grad = torch.from_numpy(gradient)
        sgd.step()
        outer_step(theta, momentum, gradient, LR, MU, out_anchor=theta, out_momentum=momentum)
    np.testing.assert_allclose(theta, reference.detach().numpy(), rtol=1e-6, atol=1e-6)


def test_overflow_is_silent_and_infinite() -> None:
    huge = np.full(4, 3e38, np.float32)
    theta, m = huge.copy(), huge.copy()
    outer_step(theta, m, huge, LR, MU, out_anchor=theta, out_momentum=m)
    assert np.isinf(m).all()
    assert not np.isfinite(theta).any()


def test_mismatched_vectors_are_refused() -> None:
    three, one = np.zeros(3, np.float32), np.zeros(1, np.float32)
    with pytest.raises(ValueError, match="one length"):
        outer_step(three, three, one, LR, MU, out_anchor=three, out_momentum=three)
    double = np.zeros(3)
    with pytest.raises(ValueError, match="float64"):
        outer_step(three, three, double, LR, MU, out_anchor=three, out_momentum=three)  # type: ignore[arg-type]


@settings(max_examples=50, deadline=None)
@given(st.floats(width=32, allow_nan=False))
def test_fp32_bits_round_trip(value: float) -> None:
    back = float_from_bits(bits_of(value))
    assert back.dtype == np.float32
    assert back == value
    assert bits_of(float(back)) == bits_of(value)


def test_bits_are_those_of_ieee() -> None:
    assert bits_of(1.0) == 0x3F800000
    assert bits_of(0.7) == int(np.float32(0.7).view(np.uint32))
    with pytest.raises(OverflowError):
        bits_of(1e39)
    for bits in (-1, 1 << 32):
        with pytest.raises(ValueError, match="fp32 bits"):
            float_from_bits(bits)
