"""One arithmetic: the definition, torch's two ways of it and the in-process trainer agree in every
bit of fp32, for every operation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from farflung.config.run import DataSpec, ModelSpec, RunSpec
from farflung.inner.channel import Landing
from farflung.inner.flat import FlatParameters, land_elsewhere
from farflung.inner.seam import SharedState
from farflung.outer import merge
from farflung.outer.merge import Operation
from farflung.trainers.numpy_trainer import NumpyTrainer

Float32 = merge.Float32
N = 40
RANGES = ((3, 11), (17, 40))
SIZE = 31
OPERATIONS: tuple[Operation, ...] = get_args(Operation)

values = hnp.arrays(np.float32, SIZE, elements=st.floats(width=32))
alphas = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1))


def in_numpy(local: Float32, operation: Operation, value: Float32, alpha: float) -> Float32:
    merge.land(local, operation, value, alpha)
    return local


def in_torch(local: Float32, operation: Operation, value: Float32, alpha: float) -> Float32:
    """Through the parameters of a module, cut across several of them."""
    model = nn.ParameterList([nn.Parameter(torch.zeros(5)), nn.Parameter(torch.zeros(5, 7))])
    flat = FlatParameters(model)
    flat.land(RANGES, "overwrite", local)
    flat.land(RANGES, operation, value, alpha)
    out = np.empty(SIZE, np.float32)
    flat.read(RANGES, out)
    return out


def as_on_a_device(local: Float32, operation: Operation, value: Float32, alpha: float) -> Float32:
    tensor = torch.from_numpy(local)
    land_elsewhere(tensor, operation, torch.from_numpy(value), alpha)
    return tensor.numpy()


def in_the_numpy_trainer(
    local: Float32, operation: Operation, value: Float32, alpha: float
) -> Float32:
    spec = RunSpec(
        model=ModelSpec(preset="quadratic", parameters=N),
        data=DataSpec(source="synthetic", rows=100, seq_len=4),
    )
    shared = SharedState.create(N, (RANGES, ((0, 3), (11, 17))), 1, memfd=False)
    trainer = NumpyTrainer(shared, spec)
    trainer.local[3:11], trainer.local[17:40] = local[:8], local[8:]
    shared.anchor[3:11], shared.anchor[17:40] = value[:8], value[8:]
    shared.land(0, 0)[:] = value
    if merge.reads_anchor(operation):
        shared.land(0, 0)[:] = 7
    else:
        shared.anchor[:] = 7
    landing = Landing(round=0, fragment=0, op=operation, alpha=alpha, slot=0)
    asyncio.run(trainer.land(landing))
    assert not trainer.local[:3].any() and not trainer.local[11:17].any()
    return np.concatenate([trainer.local[3:11], trainer.local[17:40]])


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("way", [in_torch, as_on_a_device, in_the_numpy_trainer])
@settings(max_examples=40, deadline=None)
@given(local=values, value=values, alpha=alphas)
def test_every_trainer_lands_with_the_bits_of_the_definition(
    way: Callable[[Float32, Operation, Float32, float], Float32],
    operation: Operation,
    local: Float32,
    value: Float32,
    alpha: float,
) -> None:
    expected = in_numpy(local.copy(), operation, value, alpha)
    got = way(local.copy(), operation, value, alpha)
    np.testing.assert_array_equal(got, expected)  # a NaN equals a NaN
    numbers = ~np.isnan(expected)
    assert got[numbers].tobytes() == expected[numbers].tobytes()


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_are_rounded_once(operation: Operation, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(5)
    start, value = rng.standard_normal((2, SIZE), np.float32)
    local = torch.from_numpy(start).to(dtype)
    expected = local.float().numpy().copy()
    merge.land(expected, operation, value, 0.3)
    land_elsewhere(local, operation, torch.from_numpy(value), 0.3)
    if dtype == torch.float64:
        np.testing.assert_allclose(local.numpy(), expected, rtol=0, atol=1e-6)
    else:
        np.testing.assert_array_equal(
            local.float().numpy(), torch.from_numpy(expected).to(dtype).float().numpy()
        )


@pytest.mark.parametrize("alpha", [-0.1, 1.5])
def test_an_impossible_alpha_is_refused_on_every_way(alpha: float) -> None:
    for way in (in_torch, as_on_a_device, in_the_numpy_trainer):
        with pytest.raises(ValueError, match="alpha"):
            way(np.zeros(SIZE, np.float32), "blend", np.zeros(SIZE, np.float32), alpha)
