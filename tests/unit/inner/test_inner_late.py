"""Losses are read behind the device, yet before a departure; times and bad losses stay right."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from agent_end import AgentEnd
from torch import Tensor, nn

from farflung.attach import attach
from farflung.config.run import DataSpec, InnerSpec, ModelSpec, OuterSpec, RunSpec
from farflung.inner import lease as lease_module
from farflung.inner import meter as meter_module
from farflung.inner.flat import FlatParameters
from farflung.inner.late import LateValue
from farflung.inner.options import StepOptions
from farflung.inner.shards import RankPlace
from farflung.inner.trace import FIRST, STEPS, Trace

SPEC = RunSpec(
    model=ModelSpec(preset="custom", program=("python", "loop.py")),
    data=DataSpec(source="synthetic", rows=10_000),
    inner=InnerSpec(batch_rows=2, warmup_steps=2),
    outer=OuterSpec(inner_steps=3, rounds=4),
)
STEP_S, COPY_S = 1.0, 0.25


class Device:
    """A clock, and a device whose steps end one after the other: reading a loss waits for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        self.said: list[str] = []
        device = self

        class Late(LateValue):
            def __init__(self, value: float | Tensor) -> None:
                super().__init__(value)
                device.said.append("queued")

            def read(self) -> float:
                device.now_s += STEP_S
                device.said.append("read")
                return super().read()

        read = FlatParameters.read

        def slow(flat: FlatParameters, *args: object) -> None:
            device.now_s += COPY_S
            device.said.append("copied")
            read(flat, *args)  # type: ignore[arg-type]

        monkeypatch.setattr(lease_module, "LateValue", Late)
        monkeypatch.setattr(FlatParameters, "read", slow)
        for module in (sys.modules["farflung.attach"], meter_module):
            monkeypatch.setattr(module, "time", self)

    def perf_counter(self) -> float:
        return self.now_s

    def monotonic(self) -> float:
        return self.now_s


def train(
    losses: list[float], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[AgentEnd, Device]:
    """Leases of three steps, with these losses of their steps."""
    model = nn.Linear(2, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    left = iter(losses)
    with AgentEnd(folder, SPEC, model, monkeypatch, leases=len(losses) // 3, steps=3) as agent:
        device = Device(monkeypatch)
        with attach(model, optimizer) as peer:
            while lease := peer.lease():
                for positions in lease.batches():
                    optimizer.zero_grad()
                    model(torch.ones(len(positions), 2)).sum().backward()
                    optimizer.step()
                    loss = torch.tensor([next(left)])
                    peer.step(tokens=8, metrics={"loss": loss})
                    loss.zero_()  # a program's own accumulator
    return agent, device


def test_a_step_is_queued_before_the_loss_of_the_one_before_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, device = train([1.0, 2.0, 4.0], tmp_path, monkeypatch)
    assert device.said == ["queued", "queued", "read", "queued", "read", "read", "copied"]
    report = agent.reports[0]
    assert (report.loss_sum, report.finite_steps, report.finite) == (7.0, 3, True)


def test_the_devices_time_is_training_and_the_copy_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, _ = train([1.0] * 6, tmp_path, monkeypatch)
    assert [r.compute_s for r in agent.reports] == [3 * STEP_S] * 2
    assert [r.figures.copy_s for r in agent.reports] == [COPY_S] * 2


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_loss_that_is_not_finite_is_found_before_the_departure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    losses = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    losses[at] = float("nan")
    agent, _ = train(losses, tmp_path, monkeypatch)
    assert [r.finite for r in agent.reports] == [False, True]
    assert agent.reports[0].note == f"non-finite loss at step {at + 1}"
    assert agent.reports[0].finite_steps == 2


def test_figures_of_several_devices_are_per_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter_module, "device_name", lambda _: "NVIDIA H200")
    cpu = torch.device("cpu")
    one, two = (meter_module.Meter(cpu, 989.4e6, 494.7e6, devices=n) for n in (1, 2))
    alone = one.figures(lr=1.0, tokens=400_000, seconds=1.0)
    joint = two.figures(lr=1.0, tokens=800_000, seconds=1.0)
    assert alone.mfu == joint.mfu == pytest.approx(0.4)
    assert alone.mfu_causal == joint.mfu_causal == pytest.approx(0.2)


def test_only_the_leader_of_several_ranks_writes_a_trace(tmp_path: Path) -> None:
    options = StepOptions(profile=True, node=tmp_path)
    for rank, written in ((1, False), (0, True)):
        trace = Trace.of_options(options, RankPlace(rank, 2))
        for _ in range(FIRST + STEPS):
            trace.step()
        assert (tmp_path / "profile" / "steps.json.gz").exists() == written
