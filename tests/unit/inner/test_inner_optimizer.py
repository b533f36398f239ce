from __future__ import annotations

import copy
import math
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from farflung.config.run import InnerSpec
from farflung.errors import ConfigError, MismatchError
from farflung.inner.loss import model_loss
from farflung.inner.optimizer import (
    NS_COEFFICIENTS,
    NS_EPS,
    NS_STEPS,
    Muon,
    build_optimizer,
    orthogonalize,
    set_lr_factor,
)
from farflung.model.llama import Llama, init_weights
from farflung.model.presets import LlamaConfig

CONFIG = LlamaConfig(vocab=40, dim=16, layers=2, heads=2, kv_heads=1, ff=24, seq_len=12)
SHAPES = [(16, 16), (8, 16), (24, 16), (16, 24), (16, 16), (24, 16)]


def made(config: LlamaConfig = CONFIG) -> Llama:
    model = Llama(config)
    init_weights(model, 0)
    return model


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    block = torch.randint(0, CONFIG.vocab, (4, CONFIG.seq_len + 1), generator=generator)
    return block[:, :-1], block[:, 1:]


def matrices(seed: int) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def fp32_reference(
    grad: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> Tensor:
    """torch.optim.Muon's iteration, one matrix at a time, without its cast to bf16."""
    a, b, c = coefficients
    x = grad.T if grad.shape[0] > grad.shape[1] else grad
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if grad.shape[0] > grad.shape[1] else x


def train_both(steps: int, wd: float) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    ours, theirs = matrices(0), matrices(0)
    mine = Muon(ours, lr=0.02, momentum=0.95, weight_decay=wd)
    torchs = torch.optim.Muon(theirs, lr=0.02, momentum=0.95, weight_decay=wd)
    for step in range(steps):
        for p, q, g in zip(ours, theirs, matrices(step + 1), strict=True):
            p.grad, q.grad = g.detach().clone(), g.detach().clone()
        mine.step()
        torchs.step()
    return ours, theirs


@pytest.mark.parametrize("wd", [0.0, 0.1])
def test_muon_equals_torch_muon_when_that_iterates_in_fp32(
    wd: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.optim._muon._zeropower_via_newtonschulz", fp32_reference)
    for p, q in zip(*train_both(5, wd), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-5)


def test_muon_agrees_with_torch_muon_within_bf16() -> None:
    for p, q in zip(*train_both(5, 0.1), strict=True):
        moved = (p - q).norm() / math.sqrt(p.numel())
        assert float(moved.detach()) < 0.02 * 5 * 0.02


def test_the_iteration_matches_its_unbatched_reference() -> None:
    batch = torch.randn(3, 16, 24, generator=torch.Generator().manual_seed(0))
    wanted = torch.stack([fp32_reference(x, NS_COEFFICIENTS, NS_STEPS, NS_EPS) for x in batch])
    torch.testing.assert_close(orthogonalize(batch), wanted, rtol=1e-5, atol=1e-5)


def test_the_iteration_is_nearly_orthogonal_and_keeps_the_singular_vectors() -> None:
    x = torch.randn(1, 12, 20, generator=torch.Generator().manual_seed(0))
    u, s, vh = torch.linalg.svd(orthogonalize(x)[0], full_matrices=False)
    assert 0.6 < float(s.min()) < float(s.max()) < 1.3
    left, _, right = torch.linalg.svd(x[0], full_matrices=False)
    assert float((left @ right * (u @ vh)).sum()) == pytest.approx(12.0, rel=1e-3)


def test_a_zero_gradient_moves_nothing_but_the_decay() -> None:
    (p, *_) = matrices(0)
    before = p.detach().clone()
    p.grad = torch.zeros_like(p)
    Muon([p], lr=0.1, momentum=0.9, weight_decay=0.5).step()
    torch.testing.assert_close(p.detach(), before * 0.95)


def test_a_parameter_without_gradient_is_left_alone() -> None:
    ps = matrices(0)
    before = [p.detach().clone() for p in ps]
    ps[0].grad = torch.ones_like(ps[0])
    Muon(ps, lr=0.1, momentum=0.9, weight_decay=0.5).step()
    assert not torch.equal(ps[0], before[0])
    assert all(torch.equal(p, b) for p, b in zip(ps[1:], before[1:], strict=True))


def test_muon_refuses_vectors() -> None:
    with pytest.raises(ConfigError, match="not a parameter of shape"):
        Muon([nn.Parameter(torch.zeros(3))], lr=0.1, momentum=0.9, weight_decay=0.0)


@pytest.mark.parametrize("tied", [True, False])
def test_muon_takes_the_hidden_matrices_and_adamw_the_rest(tied: bool) -> None:
    model = made(LlamaConfig(**{**vars(CONFIG), "tied": tied}))
    optimizer = build_optimizer(model, InnerSpec(optimizer="muon", lr=4e-3, muon_lr=0.02))
    names = {id(p): name for name, p in model.named_parameters()}
    rates = {names[id(p)]: g["lr"] for g in optimizer.param_groups for p in g["params"]}
    assert set(rates) == set(names.values())
    for name, rate in rates.items():
        assert rate == (0.02 if name.endswith("_proj.weight") else 4e-3), name


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_norms_are_not_decayed(kind: Literal["muon", "adamw"]) -> None:
    optimizer = build_optimizer(made(), InnerSpec(optimizer=kind, weight_decay=0.3))
    for group in optimizer.param_groups:
        assert group["weight_decay"] == (0.3 if group["params"][0].ndim == 2 else 0.0)


def test_adamw_equals_the_textbook() -> None:
    """Loshchilov and Hutter, arXiv 1711.05101, algorithm 2."""
    linear = nn.Linear(4, 3, bias=False)
    optimizer = build_optimizer(linear, InnerSpec(optimizer="adamw", lr=0.01, weight_decay=0.1))
    w = linear.weight.detach().double()
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    for step in range(1, 6):
        g = torch.randn(3, 4, generator=torch.Generator().manual_seed(step))
        linear.weight.grad = g.clone()
        optimizer.step()
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g.double() ** 2
        update = (m / (1 - 0.9**step)) / ((v / (1 - 0.95**step)).sqrt() + 1e-8)
        w = w - 0.01 * 0.1 * w - 0.01 * update
    torch.testing.assert_close(linear.weight.detach().double(), w, rtol=1e-5, atol=1e-6)


def test_the_lr_factor_scales_every_group_from_its_base() -> None:
    optimizer = build_optimizer(made(), InnerSpec(lr=4e-3, muon_lr=0.02))
    for factor in (0.5, 0.0, 0.25):
        optimizer.set_lr_factor(factor)
        for group in optimizer.param_groups:
            assert group["lr"] == group["base_lr"] * factor
            assert group["base_lr"] in (4e-3, 0.02)


def test_the_lr_factor_works_on_any_torch_optimizer() -> None:
    foreign = torch.optim.SGD(matrices(0), lr=0.3)
    set_lr_factor(foreign, 0.5)
    set_lr_factor(foreign, 0.1)
    assert foreign.param_groups[0]["lr"] == pytest.approx(0.03)


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_training_lowers_the_loss(kind: Literal["muon", "adamw"]) -> None:
    model, (tokens, targets) = made(), data()
    optimizer = build_optimizer(model, InnerSpec(optimizer=kind, lr=1e-2))
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = model_loss(model, tokens, targets)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def advance(model: Llama, optimizer: object, steps: int) -> None:
    tokens, targets = data()
    for _ in range(steps):
        model.zero_grad()
        model_loss(model, tokens, targets).backward()
        optimizer.step()  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_a_saved_state_continues_bit_by_bit(kind: Literal["muon", "adamw"]) -> None:
    inner = InnerSpec(optimizer=kind)
    model, twin = made(), made()
    optimizer = build_optimizer(model, inner)
    optimizer.set_lr_factor(0.5)
    advance(model, optimizer, 3)
    twin.load_state_dict(model.state_dict())
    restored = build_optimizer(twin, inner)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    advance(model, optimizer, 3)
    advance(twin, restored, 3)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)
    assert [g["base_lr"] for g in restored.param_groups] == [
        g["base_lr"] for g in optimizer.param_groups
    ]


def test_another_optimizers_state_is_refused() -> None:
    model = made()
    muon = build_optimizer(model, InnerSpec(optimizer="muon"))
    adamw = build_optimizer(model, InnerSpec(optimizer="adamw"))
    with pytest.raises(MismatchError, match="has 1 parts, this one 2"):
        muon.load_state_dict(adamw.state_dict())


def test_reset_forgets_all_momenta() -> None:
    model, fresh = made(), made()
    optimizer = build_optimizer(model, InnerSpec())
    advance(model, optimizer, 2)
    model.load_state_dict(fresh.state_dict())
    optimizer.reset()
    advance(model, optimizer, 2)
    advance(fresh, build_optimizer(fresh, InnerSpec()), 2)
    for p, q in zip(model.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(p, q)
