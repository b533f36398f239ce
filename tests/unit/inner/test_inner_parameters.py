"""Which parameters a run averages, which it only compares, and which it refuses by name; and whose
learning rate holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from agent_end import AgentEnd
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from farflung.attach import attach
from farflung.config.run import DataSpec, InnerSpec, ModelSpec, RunSpec
from farflung.errors import ConfigError, MismatchError, UserError
from farflung.inner.channel import ENV_GENESIS, ENV_SOCKET, check_frozen
from farflung.inner.flat import FlatParameters, content_hash
from farflung.inner.optimizer import set_lr_factor, take_peaks
from farflung.outer.layout import Layout

SPEC = RunSpec(
    model=ModelSpec(preset="custom", program=("toy",)),
    data=DataSpec(source="synthetic", seq_len=10),
    inner=InnerSpec(batch_rows=2, schedule="constant", warmup_steps=4, join_warmup_steps=0),
)


def half_frozen(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    return model


# ---- frozen --------------------------------------------------------------------------------


def test_frozen_parameters_are_no_part_of_the_vector_but_known_by_their_hash() -> None:
    flat = FlatParameters(half_frozen())
    assert [name for name, _ in flat.entries] == ["1.weight", "1.bias"] and flat.size == 10
    assert [(name, shape) for name, shape, _ in flat.frozen] == [
        ("0.weight", (4, 3)),
        ("0.bias", (4,)),
    ]
    assert flat.frozen == FlatParameters(half_frozen()).frozen
    assert flat.frozen != FlatParameters(half_frozen(1)).frozen


@pytest.mark.parametrize(
    "values",
    [
        torch.arange(12, dtype=torch.uint8),
        torch.arange(12).bfloat16(),
        torch.arange(12).to(torch.complex64),
        torch.tensor(3.0),
        torch.empty(0),
    ],
)
def test_a_hash_is_of_type_and_values_whatever_the_memory(values: torch.Tensor) -> None:
    assert content_hash(values) == content_hash(values.clone())
    assert content_hash(values) != content_hash(values.to(torch.complex128))
    square = torch.arange(9.0).reshape(3, 3)
    assert content_hash(square.T) == content_hash(square.T.contiguous()) != content_hash(square)


def test_genesis_keeps_the_hashes_and_the_layout_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENV_GENESIS, str(tmp_path))
    model = half_frozen()
    with pytest.raises(SystemExit):
        attach(model, torch.optim.SGD(model[1].parameters(), lr=1.0))
    data = (tmp_path / "layout.json").read_bytes()
    layout = Layout.from_json(data)
    assert layout.frozen == FlatParameters(model).frozen
    assert layout.size == 10 == np.fromfile(tmp_path / "anchor.f32", "<f4").size
    assert layout.to_json() == data and Layout.from_json(data) == layout
    plain = Layout(layout.entries)
    assert plain.hash != layout.hash
    assert plain.to_json() == b'[["1.weight",[2,4]],["1.bias",[2]]]'


def test_a_layout_that_names_a_parameter_twice_is_refused() -> None:
    twice = b'{"frozen":[["a",[2],"00"]],"trained":[["a",[2]]]}'
    with pytest.raises(ConfigError, match="'a' is listed twice"):
        Layout.from_json(twice)


def test_frozen_parameters_that_differ_are_named() -> None:
    run = FlatParameters(half_frozen()).frozen
    check_frozen(run, run)
    with pytest.raises(
        MismatchError, match=r"frozen parameter '0\.weight' has other values \(hash"
    ):
        check_frozen(FlatParameters(half_frozen(1)).frozen, run)
    with pytest.raises(MismatchError, match=r"'0\.bias' is frozen in the run and not here"):
        check_frozen(run[:1], run)
    with pytest.raises(MismatchError, match=r"'0\.bias' is frozen here and not in the run"):
        check_frozen(run, run[:1])
    other = (("0.weight", (12,), run[0][2]), run[1])
    with pytest.raises(MismatchError, match=r"'0\.weight' has shape \[12\], in the run \[4, 3\]"):
        check_frozen(other, run)


def test_a_parameter_that_is_unfrozen_later_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = half_frozen()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with (
        AgentEnd(tmp_path, SPEC, model, monkeypatch, leases=2, steps=1) as agent,
        attach(model, optimizer) as peer,
    ):
        assert agent.shared.n == 10
        lease = peer.lease()
        assert lease is not None
        model[0].requires_grad_(True)
        next(lease.batches())
        with pytest.raises(UserError, match=r"'0\.weight' was frozen when attach was called"):
            peer.step(tokens=1)


# ---- refused by name -----------------------------------------------------------------------


def with_parameter(values: torch.Tensor) -> nn.Module:
    model = nn.Module()
    model.odd = nn.Parameter(
        values, requires_grad=values.is_floating_point() or values.is_complex()
    )
    model.plain = nn.Parameter(torch.zeros(2))
    return model


@pytest.mark.filterwarnings("ignore:.*quantize.*")
@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (torch.zeros(2, dtype=torch.float64), "'odd' is torch.float64, which the run's fp32"),
        (torch.zeros(2, dtype=torch.complex64), "'odd' is torch.complex64, which"),
        (torch.zeros(2, device="meta"), "'odd' has no values yet"),
        (torch.eye(2).to_sparse(), "'odd' is sparse"),
    ],
)
def test_what_the_vector_cannot_hold_is_refused_by_name(
    values: torch.Tensor, sentence: str
) -> None:
    with pytest.raises(MismatchError, match=sentence):
        FlatParameters(with_parameter(values))


def test_a_lazy_parameter_and_a_wholly_frozen_model_are_refused() -> None:
    with pytest.raises(MismatchError, match="'weight' has no values yet"):
        FlatParameters(nn.LazyLinear(3))
    with pytest.raises(MismatchError, match="no parameter with requires_grad=True"):
        FlatParameters(nn.Linear(2, 2).requires_grad_(False))


def test_an_integer_parameter_can_only_be_frozen_and_is_compared() -> None:
    flat = FlatParameters(with_parameter(torch.tensor([1, 2])))
    assert [name for name, _, _ in flat.frozen] == ["odd"]


# ---- learning rates ------------------------------------------------------------------------


def with_warmup() -> tuple[nn.Module, torch.optim.Optimizer, LambdaLR]:
    """As most libraries make it: the first rate is 0."""
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    return model, optimizer, LambdaLR(optimizer, lambda k: min(1.0, k / 5))


def rates(
    folder: Path, monkeypatch: pytest.MonkeyPatch, schedule: str
) -> tuple[list[float], list[float]]:
    """Used in eight steps with a torch scheduler beside, and what the run's schedule says."""
    model, optimizer, scheduler = with_warmup()
    used, runs = [], []
    with (
        AgentEnd(folder, SPEC, model, monkeypatch, leases=2, steps=4),
        attach(model, optimizer, schedule=schedule) as peer,  # type: ignore[arg-type]
    ):
        while lease := peer.lease():
            for _ in lease.batches():
                used.append(float(optimizer.param_groups[0]["lr"]))
                runs.append(0.5 * lease.lr_factor())
                optimizer.step()
                scheduler.step()
                peer.step(tokens=1)
    return used, runs


def test_the_runs_schedule_scales_initial_lr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    used, runs = rates(tmp_path, monkeypatch, "run")
    assert used == runs and 0 < used[0] < used[-1] == 0.5
    assert "(inner.schedule) replaces this program's" in capsys.readouterr().err


def test_an_own_schedule_is_never_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    used, _ = rates(tmp_path, monkeypatch, "own")
    assert used == pytest.approx([0.5 * min(1.0, k / 5) for k in range(8)])
    assert capsys.readouterr().err == ""


def test_a_peak_of_zero_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENV_SOCKET, raising=False)
    model = nn.Linear(2, 1)
    groups = [{"params": [model.weight], "lr": 0.1}, {"params": [model.bias], "lr": 0.0}]
    with pytest.raises(UserError, match=r"parameter group 1 .* learning rate 0, which is taken as"):
        attach(model, torch.optim.SGD(groups))
    with pytest.raises(UserError, match="farflung join INVITE --trainer"):  # passes that check
        attach(model, torch.optim.SGD(groups), schedule="own")
    model.bias.requires_grad_(False)
    with pytest.raises(UserError, match="farflung join INVITE --trainer"):
        attach(model, torch.optim.SGD(groups))
    with pytest.raises(UserError, match="schedule='mine' must be 'run' or 'own'"):
        attach(model, torch.optim.SGD(groups), schedule="mine")  # type: ignore[arg-type]


def test_a_learning_rate_in_a_tensor_is_changed_in_place() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=torch.tensor(0.5))
    held = optimizer.param_groups[0]["lr"]
    take_peaks(optimizer)
    set_lr_factor(optimizer, 0.5)
    set_lr_factor(optimizer, 0.25)
    assert optimizer.param_groups[0]["lr"] is held and float(held) == 0.125
