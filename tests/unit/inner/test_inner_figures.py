"""Figures of the steps, the switches of a peer, and the trace."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from farflung.config.run import RunSpec
from farflung.errors import ConfigError
from farflung.inner.channel import Work
from farflung.inner.feed import Feed
from farflung.inner.flops import peak_flops, token_flops, utilisation
from farflung.inner.late import LateValue
from farflung.inner.lease import LrSetter, TrainLease
from farflung.inner.meter import Meter, device_name
from farflung.inner.optimizer import build_optimizer
from farflung.inner.options import StepOptions, options_from
from farflung.inner.rows import TakenRows
from farflung.inner.trace import Trace
from farflung.model.llama import Llama
from farflung.model.presets import PRESETS, LlamaConfig, flops_per_token

CPU = torch.device("cpu")
CONFIG = LlamaConfig(vocab=40, dim=16, layers=1, heads=2, kv_heads=1, ff=24, seq_len=12)


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H200", 989.4),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA GeForce RTX 4080 SUPER", 104.4),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 0),
        ("NVIDIA GeForce RTX 3080 Ti", 0),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("AMD EPYC, 2 threads", 0),
        ("", 0),
    ],
)
def test_the_peak_of_a_device_follows_from_its_name(name: str, tera: float) -> None:
    assert peak_flops(name) == tera * 1e12


def test_model_flops_are_six_per_weight_and_attentions() -> None:
    config = PRESETS["1b"]
    weights = config.layers * (2 * 2048 * 2048 + 2 * 2048 * 512 + 3 * 2048 * 8192)
    weights += config.vocab * config.dim
    for causal in (False, True):
        ours = token_flops(weights, layers=16, width=2048, seq_len=8192, causal=causal)
        assert ours == flops_per_token(config, causal=causal)
    assert flops_per_token(config) == pytest.approx(10.64e9, rel=1e-3)


def test_utilisation_is_the_share_of_the_peak_and_zero_where_nothing_is_known() -> None:
    assert utilisation(989.4e6, 500_000, 1.0, "NVIDIA H200") == pytest.approx(0.5)
    assert utilisation(1e9, 1000, 1.0, "Some CPU, 4 threads") == 0.0
    assert utilisation(1e9, 1000, 0.0, "NVIDIA H200") == 0.0


def test_figures_are_means_of_one_lease() -> None:
    meter = Meter.of_config(CONFIG, CPU)
    for norm in (1.0, 3.0):
        meter.note(torch.tensor(norm))
    meter.data_wait_s += 0.25
    with meter.copying():
        pass
    figures = meter.figures(lr=0.5, tokens=96, seconds=2.0)
    assert (figures.lr, figures.grad_norm, figures.data_wait_s) == (0.5, 2.0, 0.25)
    assert figures.flops == flops_per_token(CONFIG)
    assert figures.mfu == figures.mfu_causal == 0.0  # a CPU's peak is not known
    assert figures.memory_bytes == 0
    assert figures.copy_s > 0
    assert figures.device.endswith(("thread", "threads"))
    again = meter.figures(lr=0.5, tokens=96, seconds=2.0)
    assert (again.grad_norm, again.data_wait_s, again.copy_s) == (0.0, 0.0, 0.0)


def test_a_meter_of_any_module_counts_what_is_multiplied() -> None:
    tied = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 10, bias=False))
    assert Meter.of_module(tied).figures(lr=0, tokens=0, seconds=0).flops == 6 * 40
    tied[1].weight = tied[0].weight
    assert Meter.of_module(tied).figures(lr=0, tokens=0, seconds=0).flops == 6 * 40


def test_a_lease_tells_its_figures_and_reads_losses_late() -> None:
    spec = RunSpec()
    model = Llama(CONFIG)
    optimizer = build_optimizer(model, spec.inner)
    work = Work(
        round=1,
        fragment=0,
        generation=1,
        ranges=((0, 3 * spec.inner.batch_rows),),
        steps=3,
        progress_start=0.0,
        progress_end=0.0,
        slot=0,
    )
    lease = TrainLease(1, work, spec, LrSetter(spec, optimizer), TakenRows())
    lease.meter = Meter.of_config(CONFIG, CPU)
    for loss in (torch.tensor(2.0), 3.0, torch.tensor(float("nan"))):
        lease.lr_factor()
        lease.meter.note(torch.tensor(4.0))
        lease.count(10, loss)
        lease.took(0.5)
    report = lease.outcome(True, 0.0)
    assert (report.loss_sum, report.finite_steps, report.steps) == (5.0, 2, 3)
    assert report.note == "non-finite loss at step 3"
    assert report.figures.grad_norm == 4.0
    assert report.figures.lr == pytest.approx(1 / spec.inner.warmup_steps)


def test_a_late_value_is_what_it_was() -> None:
    x = torch.tensor(2.0, requires_grad=True)
    assert LateValue(x).read() == 2.0
    assert LateValue(1.5).read() == 1.5


def test_a_feed_on_a_cpu_reads_when_it_is_asked() -> None:
    asked: list[list[int]] = []

    def read(positions: Sequence[int]) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        asked.append(list(positions))
        return np.stack([np.arange(p, p + 5) for p in positions])

    feed = Feed(read, CPU)
    feed.prepare([7])
    assert asked == []
    tokens, targets = feed.take([1, 2])
    assert asked == [[1, 2]]
    assert tokens.tolist() == [[1, 2, 3, 4], [2, 3, 4, 5]]
    assert targets.tolist() == [[2, 3, 4, 5], [3, 4, 5, 6]]
    assert feed.wait_s > 0


def test_switches_come_from_the_environment() -> None:
    assert options_from({}) == StepOptions()
    found = options_from(
        {
            "FARFLUNG_COMPILE": "off",
            "FARFLUNG_FLOAT8": "on",
            "FARFLUNG_PROFILE": "1",
            "FARFLUNG_GPU_SHARE": "0.5",
            "FARFLUNG_NODE": "/some/where",
        }
    )
    expected = StepOptions(
        compile=False, float8=True, profile=True, gpu_share=0.5, node=Path("/some/where")
    )
    assert found == expected


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("FARFLUNG_COMPILE", "maybe", "must be on or off"),
        ("FARFLUNG_GPU_SHARE", "0", "must be above 0 and at most 1"),
        ("FARFLUNG_GPU_SHARE", "24GB", "must be above 0 and at most 1"),
        ("FARFLUNG_GPU_SHARE", "nan", "must be above 0 and at most 1"),
    ],
)
def test_a_switch_that_is_none_is_one_sentence(name: str, value: str, rule: str) -> None:
    with pytest.raises(ConfigError, match=rule) as caught:
        options_from({name: value})
    assert repr(value) in str(caught.value)


def test_a_trace_of_a_few_steps_is_written_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = Trace(tmp_path, wanted=True, first=2)
    for _ in range(12):
        torch.randn(8).sum()
        trace.step()
    assert capsys.readouterr().err.count("a trace of 3 steps is in") == 1
    assert (tmp_path / "profile" / "steps.json.gz").stat().st_size > 0
    none = Trace(tmp_path / "none", wanted=False, first=1)
    for _ in range(12):
        none.step()
    assert not (tmp_path / "none").exists()


def test_a_cpu_says_its_model_and_threads() -> None:
    name = device_name(CPU)
    assert str(torch.get_num_threads()) in name
