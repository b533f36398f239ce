from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as fn
from torch import Tensor

from farflung.errors import ConfigError
from farflung.inner.loss import (
    bits_per_byte,
    chunk_rows,
    cross_entropy,
    evaluate,
    model_loss,
)
from farflung.model.llama import Llama, init_weights
from farflung.model.presets import LlamaConfig

CONFIG = LlamaConfig(vocab=40, dim=16, layers=1, heads=2, kv_heads=1, ff=24, seq_len=12)


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 7, 16, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(33, 16, generator=generator).to(dtype).requires_grad_()
    targets = torch.randint(0, 33, (3, 7), generator=generator)
    return hidden, weight, targets


def reference(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    logits = (hidden @ weight.T).flatten(0, 1)
    nats = fn.cross_entropy(logits, targets.flatten(), reduction="sum")
    return nats, logits.logsumexp(-1).square().sum()


@pytest.mark.parametrize("chunk", [None, 1, 5, 20, 21, 1000])
@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
def test_sums_and_gradients_equal_torch(chunk: int | None, z_loss: float) -> None:
    hidden, weight, targets = inputs()
    ours = cross_entropy(hidden, weight, targets, chunk=chunk, z_loss=z_loss, scale=0.5)
    nats, squares = reference(hidden, weight, targets)
    theirs = 0.5 * (nats + z_loss * squares)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-4)
    wanted = torch.autograd.grad(3 * theirs, (hidden, weight))
    got = torch.autograd.grad(3 * ours, (hidden, weight))
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=2e-5)


def test_gradients_are_right_in_finite_differences() -> None:
    hidden, weight, targets = inputs()
    loss = cross_entropy(hidden, weight, targets, chunk=4, z_loss=1.0)
    d_hidden, d_weight = torch.autograd.grad(loss, (hidden, weight))
    generator = torch.Generator().manual_seed(1)
    for tensor, gradient in ((hidden, d_hidden), (weight, d_weight)):
        direction = torch.randn(tensor.shape, generator=generator)
        ends = []
        for sign in (1, -1):
            moved = [t + sign * 1e-2 * direction if t is tensor else t for t in (hidden, weight)]
            ends.append(float(cross_entropy(*moved, targets, z_loss=1.0).detach()))
        slope = (ends[0] - ends[1]) / 2e-2
        assert slope == pytest.approx(float((gradient * direction).sum()), rel=1e-2)


def test_no_logits_are_kept() -> None:
    hidden, weight, targets = inputs()
    largest = 0

    def note(tensor: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        cross_entropy(hidden, weight, targets, chunk=21)
    assert largest < 21 * 33


def test_a_chunk_has_thousands_of_tokens_whatever_the_vocabulary() -> None:
    for vocab, budget in ((128_256, 1 << 28), (128_256, 1 << 20), (32_768, 1 << 28)):
        assert chunk_rows(65_536, vocab, 2, budget) >= 1000
    assert chunk_rows(65_536, 128_256, 2, 4 << 30) == 16_384  # equal chunks: no second shape
    assert chunk_rows(100, 128_256, 2, 1 << 28) == 100
    assert chunk_rows(0, 1000, 4, 1 << 28) == 1


def test_a_second_backward_is_refused() -> None:
    hidden, weight, targets = inputs()
    nats = cross_entropy(hidden, weight, targets)
    torch.autograd.grad(nats, hidden, retain_graph=True)
    with pytest.raises(RuntimeError, match="differentiated twice"):
        torch.autograd.grad(nats, hidden)


def test_a_frozen_head_gets_no_gradient() -> None:
    hidden, weight, targets = inputs()
    whole = torch.autograd.grad(cross_entropy(hidden, weight, targets), hidden)[0]
    weight.requires_grad_(False)
    alone = torch.autograd.grad(cross_entropy(hidden, weight, targets), hidden)[0]
    assert torch.equal(whole, alone)


def test_huge_logits_stay_finite() -> None:
    hidden, weight, targets = inputs()
    loss = cross_entropy(hidden * 1e4, weight, targets)
    assert bool(loss.isfinite())
    assert all(bool(g.isfinite().all()) for g in torch.autograd.grad(loss, (hidden, weight)))


def test_narrow_weights_still_sum_in_fp32() -> None:
    hidden, weight, targets = inputs(torch.bfloat16)
    nats = cross_entropy(hidden, weight, targets, chunk=5)
    assert nats.dtype == torch.float32
    wide_hidden, wide_weight = (t.detach().float().requires_grad_() for t in (hidden, weight))
    wide = reference(wide_hidden, wide_weight, targets)[0]
    assert float(nats.detach()) == pytest.approx(float(wide.detach()), rel=1e-2)
    gradients = torch.autograd.grad(nats, (hidden, weight))
    assert all(g.dtype == torch.bfloat16 for g in gradients)
    for got, wanted in zip(
        gradients, torch.autograd.grad(wide, (wide_hidden, wide_weight)), strict=True
    ):
        assert float((got.float() - wanted).norm() / wanted.norm()) < 1e-2


@pytest.fixture
def model() -> Llama:
    model = Llama(CONFIG)
    init_weights(model, 0)
    return model


def block(rows: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, CONFIG.vocab, (rows, CONFIG.seq_len + 1), generator=generator)


def test_model_loss_is_the_mean_of_nats_over_tokens(model: Llama) -> None:
    data = block(4)
    tokens, targets = data[:, :-1], data[:, 1:]
    logits = model(tokens).flatten(0, 1)
    wanted = fn.cross_entropy(logits, targets.flatten())
    torch.testing.assert_close(model_loss(model, tokens, targets), wanted)
    z_part = 1e-3 * logits.logsumexp(-1).square().mean()
    torch.testing.assert_close(model_loss(model, tokens, targets, 1e-3), wanted + z_part)


def test_model_loss_reaches_every_parameter_like_torch(model: Llama) -> None:
    data = block(4)
    tokens, targets = data[:, :-1], data[:, 1:]
    parameters = list(model.parameters())
    wanted = torch.autograd.grad(
        fn.cross_entropy(model(tokens).flatten(0, 1), targets.flatten()), parameters
    )
    got = torch.autograd.grad(model_loss(model, tokens, targets), parameters)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)


def test_model_loss_under_autocast_has_fp32_gradients(model: Llama) -> None:
    data = block(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model_loss(model, data[:, :-1], data[:, 1:])
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


def test_an_untrained_model_knows_nothing(model: Llama) -> None:
    loss = float(model_loss(model, block(4)[:, :-1], block(4)[:, 1:]).detach())
    assert loss == pytest.approx(math.log(CONFIG.vocab), abs=0.05)


def test_evaluate_weighs_every_token_once(model: Llama) -> None:
    data = block(37)  # two full batches and a part
    rows = [row.numpy() for row in data]
    nats, bits = evaluate(model, iter(rows), n_bytes=1000)
    with torch.no_grad():
        whole = float(model_loss(model, data[:, :-1], data[:, 1:]))
    assert nats == pytest.approx(whole, rel=1e-5)
    assert bits == pytest.approx(whole * 37 * CONFIG.seq_len / math.log(2) / 1000, rel=1e-5)


def test_bits_per_byte_of_one_bit() -> None:
    assert bits_per_byte(8 * math.log(2), 8) == pytest.approx(1.0)


def test_evaluation_without_text_is_refused(model: Llama) -> None:
    with pytest.raises(ConfigError, match="at least one byte"):
        bits_per_byte(1.0, 0)
    with pytest.raises(ConfigError, match="no held-out rows"):
        evaluate(model, np.zeros((0, 5), dtype=np.int64), 10)
