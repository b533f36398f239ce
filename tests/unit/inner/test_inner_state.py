"""The inner optimizer's state in a file: exact, checked, and refused when it does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from farflung.config.run import InnerSpec, OuterSpec, RunSpec
from farflung.errors import CorruptState, MismatchError
from farflung.inner import state_file
from farflung.inner.channel import Work
from farflung.inner.flat import FlatParameters
from farflung.inner.lease import LrSetter
from farflung.inner.optimizer import HasParamGroups, build_optimizer
from farflung.inner.optimizer_state import collect, forget, install, is_finite, write
from farflung.inner.state_file import Header, StateEntry, encode_header, read_header

SIZES = [6, 4]


def model(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3)).to(dtype)


def make(kind: str, net: nn.Module) -> Any:
    if kind in ("muon", "adamw"):
        return build_optimizer(net, InnerSpec(optimizer=kind))  # type: ignore[arg-type]
    if kind == "amsgrad":
        return torch.optim.AdamW(net.parameters(), lr=0.01, amsgrad=True)
    return torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)


def step(net: nn.Module, optimizer: Any, seed: int) -> None:
    """One step on gradients that follow from the seed."""
    generator = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
    optimizer.step()


def vector(net: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().float().reshape(-1) for p in net.parameters()])


def trained(kind: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Any]:
    net = model(dtype)
    optimizer = make(kind, net)
    for seed in range(3):
        step(net, optimizer, seed)
    return net, optimizer


def save(net: nn.Module, optimizer: HasParamGroups, path: Path, round_: int = 7) -> None:
    write(collect(FlatParameters(net), optimizer, round_), path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["muon", "adamw", "amsgrad", "sgd"])
def test_an_optimizer_with_a_loaded_state_goes_on_bit_by_bit(
    kind: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    net, optimizer = trained(kind, dtype)
    save(net, optimizer, tmp_path / "state")
    other, fresh = model(dtype), model(dtype)
    for twin in (other, fresh):
        twin.load_state_dict(net.state_dict())
    loaded, empty = make(kind, other), make(kind, fresh)
    for group in loaded.param_groups:
        group["lr"] *= 0.5  # a rate is the schedule's business, not the state's
    rates = [g["lr"] for g in loaded.param_groups]
    header = install(FlatParameters(other), loaded, tmp_path / "state")
    assert header.round == 7
    assert [g["lr"] for g in loaded.param_groups] == rates
    for group in (*optimizer.param_groups, *empty.param_groups):
        group["lr"] *= 0.5
    for seed in (3, 4):
        step(net, optimizer, seed)
        step(other, loaded, seed)
        step(fresh, empty, seed)
    assert torch.equal(vector(net), vector(other))
    assert not torch.equal(vector(net), vector(fresh))
    assert [p.name for p in tmp_path.iterdir()] == ["state"]


def test_an_untrained_optimizer_has_an_empty_state(tmp_path: Path) -> None:
    net = model()
    save(net, make("adamw", net), tmp_path / "state", round_=-1)
    header, start, total = read_header((tmp_path / "state").read_bytes(), [32, 8, 24, 3])
    assert (header.entries, header.round, start) == ((), -1, total)


def test_a_state_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    net, optimizer = trained("adamw")
    optimizer.parts[0].state[net[0].weight]["exp_avg"][0, 0] = float("inf")  # type: ignore[index]
    with pytest.raises(CorruptState, match="not finite"):
        save(net, optimizer, tmp_path / "state")
    assert list(tmp_path.iterdir()) == []


def test_an_optimizer_without_such_a_state_is_refused(tmp_path: Path) -> None:
    net = model()

    class Foreign:
        param_groups: list[dict[str, Any]] = []  # noqa: RUF012

    with pytest.raises(MismatchError, match="state of a Foreign cannot be moved"):
        save(net, Foreign(), tmp_path / "state")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    optimizer.state[net[0].weight]["count"] = 3
    with pytest.raises(MismatchError, match="'count' is no float tensor"):
        save(net, optimizer, tmp_path / "state")
    optimizer.state[net[0].weight] = {"rows": torch.zeros(8)}
    with pytest.raises(MismatchError, match="'rows' has another shape"):
        save(net, optimizer, tmp_path / "state")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda d: d[:-4], "cut or not finite"),
        (lambda d: d + b"\0\0\0\0", "cut or not finite"),
        (lambda d: d[:-4] + b"\0\0\xc0\x7f", "cut or not finite"),
        (lambda d: d[:2], "no header"),
        (lambda d: d[:20], "header is cut"),
        (lambda d: d[:4] + b"[" + d[5:], "malformed"),
        (lambda d: d.replace(b'"version":1', b'"version":2'), "version 2, expected 1"),
        (lambda d: d + bytes(2 << 20), "longer than this model's"),
    ],
)
def test_a_damaged_file_is_refused_and_changes_nothing(
    damage: Any, sentence: str, tmp_path: Path
) -> None:
    net, optimizer = trained("adamw")
    path = tmp_path / "state"
    save(net, optimizer, path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CorruptState, match=sentence):
        install(FlatParameters(net), make("adamw", net), path)
    other = make("adamw", net)
    with pytest.raises(CorruptState):
        install(FlatParameters(net), other, path)
    assert not other.parts[0].state


@pytest.mark.parametrize(("mine", "kind"), [("muon", "Muon[+]AdamW"), ("amsgrad", "AdamW amsgrad")])
def test_another_optimizers_state_is_refused(mine: str, kind: str, tmp_path: Path) -> None:
    net, optimizer = trained("adamw")
    save(net, optimizer, tmp_path / "state")
    with pytest.raises(MismatchError, match=f"is of AdamW, mine is {kind}"):
        install(FlatParameters(net), make(mine, net), tmp_path / "state")


# ---- the header ----------------------------------------------------------------------------


def header(*entries: StateEntry, version: int = 1) -> bytes:
    return encode_header(Header(version=version, kind="AdamW", round=3, entries=entries))


def test_sizes_follow_from_the_layout() -> None:
    data = header(
        StateEntry(parameter=0, slots=("a", "b"), scalars=(("step", 0.1),)),
        StateEntry(parameter=1, slots=("a",)),
    )
    found, start, total = read_header(data, SIZES)
    assert found.entries[0].scalars == (("step", 0.1),)
    assert (start, total) == (len(data), len(data) + 4 * (2 * 6 + 4))
    assert start % 4 == 0


@pytest.mark.parametrize(
    "entries",
    [
        (StateEntry(parameter=2, slots=("a",)),),
        (StateEntry(parameter=-1, slots=("a",)),),
        (StateEntry(parameter=1, slots=("a",)), StateEntry(parameter=0, slots=("a",))),
        (StateEntry(parameter=0, slots=("a",)), StateEntry(parameter=0, slots=("b",))),
        (StateEntry(parameter=0, slots=("a", "a")),),
        (StateEntry(parameter=0, slots=("a",), scalars=(("a", 1.0),)),),
        (StateEntry(parameter=0, slots=("a", "b", "c", "d", "e")),),
    ],
)
def test_entries_that_no_optimizer_has_are_refused(entries: tuple[StateEntry, ...]) -> None:
    with pytest.raises(CorruptState):
        read_header(header(*entries), SIZES)


def test_a_header_above_the_cap_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = header(StateEntry(parameter=0, slots=("a",)))
    monkeypatch.setattr(state_file, "HEADER_CAP", len(data) - 8)
    with pytest.raises(CorruptState, match="cut or too long"):
        read_header(data, SIZES)
    with pytest.raises(CorruptState, match="exceeds"):
        header(StateEntry(parameter=0, slots=("a",)))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80), st.integers(0, 120))
def test_hostile_headers_only_raise_corrupt_state(junk: bytes, at: int) -> None:
    good = header(StateEntry(parameter=0, slots=("a",), scalars=(("step", 1.0),)))
    for data in (junk, good[:at] + junk + good[at + len(junk) :]):
        try:
            _, start, total = read_header(data, SIZES)
        except CorruptState:
            continue
        assert start <= len(data)
        assert total <= state_file.most_bytes(SIZES)


# ---- fresh starts --------------------------------------------------------------------------


def test_a_poisoned_state_is_forgotten_and_a_sound_one_kept() -> None:
    net, optimizer = trained("muon")
    assert is_finite(optimizer)
    assert all(part.state for part in optimizer.parts)
    optimizer.parts[1].state[net[0].bias]["exp_avg"].fill_(float("nan"))  # type: ignore[index]
    assert not is_finite(optimizer)
    forget(optimizer)
    assert not any(part.state for part in optimizer.parts)


def lease(start: float) -> Work:
    return Work(
        round=5,
        fragment=0,
        generation=1,
        ranges=((0, 80),),
        steps=10,
        progress_start=start,
        progress_end=start,
        slot=0,
    )


def test_the_rate_ramps_up_after_each_fresh_start_in_mid_run() -> None:
    inner = InnerSpec(schedule="constant", warmup_steps=0, join_warmup_steps=4)
    rate = LrSetter(RunSpec(inner=inner, outer=OuterSpec(rounds=10)), make("adamw", model()))

    def factors(n: int) -> list[float]:
        found = []
        for _ in range(n):
            found.append(rate.factor(lease(0.5), 0, 10))
            rate.own_steps += 1
        return found

    assert factors(5) == [0.25, 0.5, 0.75, 1.0, 1.0]
    rate.restart()
    assert factors(5) == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rate.own_steps == 10


def test_no_ramp_at_genesis_nor_with_a_warm_state() -> None:
    inner = InnerSpec(schedule="constant", warmup_steps=0, join_warmup_steps=4)
    spec = RunSpec(inner=inner, outer=OuterSpec(rounds=10))
    genesis = LrSetter(spec, make("adamw", model()))
    assert genesis.factor(lease(0.0), 0, 10) == 1.0
    warm = LrSetter(spec, make("adamw", model()))
    warm.warm()
    assert warm.factor(lease(0.5), 0, 10) == 1.0
    np.testing.assert_equal(warm.own_steps, 0)
