"""attach() from the trainer's side: the flat vector, genesis mode, and a foreign loop."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from farflung.attach import attach
from farflung.config.run import DataSpec, InnerSpec, ModelSpec, OuterSpec, RunSpec
from farflung.errors import LinkDown, MismatchError, UserError
from farflung.inner.channel import ENV_GENESIS, ENV_SOCKET, Work, WorkReport
from farflung.inner.flat import FlatParameters
from farflung.inner.progress import LearningRate, Speed, batches, total_steps
from farflung.inner.seam import SharedState
from farflung.outer.layout import Layout
from farflung.trainers.process import ProcessTrainer

OWN_LOOP = Path(__file__).parents[3] / "examples" / "own_loop.py"


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.norm = nn.LayerNorm(3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight
        self.count = nn.Parameter(torch.zeros(2, dtype=torch.int64), requires_grad=False)
        self.register_buffer("table", torch.ones(7))


def whole(flat: FlatParameters) -> np.ndarray:
    out = np.empty(flat.size, np.float32)
    flat.read([(0, flat.size)], out)
    return out


def test_the_flat_vector_holds_each_floating_parameter_once_and_no_buffer() -> None:
    flat = FlatParameters(Tied())
    assert flat.entries == (("embed.weight", (5, 3)), ("norm.weight", (3,)), ("norm.bias", (3,)))
    assert flat.size == 21


def test_names_of_wrappers_are_stripped_and_names_can_be_mapped() -> None:
    compiled = torch.compile(nn.Linear(2, 2), backend="eager")
    assert isinstance(compiled, nn.Module)
    flat = FlatParameters(compiled, {"bias": "run.bias"})
    assert [name for name, _ in flat.entries] == ["weight", "run.bias"]


def test_the_runs_order_is_adopted_and_differences_are_named() -> None:
    linear = nn.Linear(2, 3)
    flat = FlatParameters(linear)
    flat.adopt([("bias", (3,)), ("weight", (3, 2))])
    np.testing.assert_array_equal(whole(flat)[:3], linear.bias.detach().numpy())
    with pytest.raises(MismatchError, match=r"'weight' has shape \[3, 2\], in the run \[6\]"):
        flat.adopt([("bias", (3,)), ("weight", (6,))])


def test_ranges_across_parameters_read_and_merge_exactly() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).requires_grad_(True)
    flat = FlatParameters(model)
    ranges, size = [(2, 14), (15, 15), (17, 26)], 21
    where = np.r_[2:14, 17:26]
    values = np.random.Generator(np.random.PCG64(1)).standard_normal(size, np.float32)
    expected = whole(flat)
    flat.land(ranges, "overwrite", values)
    expected[where] = values
    np.testing.assert_array_equal(whole(flat), expected)
    flat.land(ranges, "rebase", values)
    expected[where] += values
    np.testing.assert_array_equal(whole(flat), expected)
    flat.land(ranges, "blend", values, 0.25)
    expected[where] = expected[where] * np.float32(0.25) + values * np.float32(0.75)
    np.testing.assert_array_equal(whole(flat), expected)
    out = np.empty(size, np.float32)
    flat.read(ranges, out)
    np.testing.assert_array_equal(out, expected[where])
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_parameters_of_any_memory_format_and_width_are_written() -> None:
    conv = nn.Conv2d(2, 3, 2).to(memory_format=torch.channels_last).to(torch.bfloat16)
    flat = FlatParameters(conv)
    values = np.arange(flat.size, dtype=np.float32)
    flat.land([(0, flat.size)], "overwrite", values)
    np.testing.assert_array_equal(whole(flat), values)
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(conv.weight.detach().float().flatten().numpy(), values[:24])


def test_without_an_agent_attach_says_how_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    monkeypatch.delenv(ENV_SOCKET, raising=False)
    with pytest.raises(UserError, match="farflung join INVITE --trainer"):
        attach(model, optimizer)
    monkeypatch.setenv(ENV_SOCKET, "/nowhere/agent")
    with pytest.raises(LinkDown, match="no agent listens at /nowhere/agent"):
        attach(model, optimizer)


def test_genesis_mode_writes_layout_and_weights_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENV_GENESIS, str(tmp_path))
    model = nn.Linear(2, 3)
    with pytest.raises(SystemExit) as ended:
        attach(model, torch.optim.SGD(model.parameters(), lr=1.0))
    assert ended.value.code == 0
    layout = Layout.from_json((tmp_path / "layout.json").read_bytes())
    assert [(e.name, tuple(e.shape)) for e in layout.entries] == [
        ("weight", (3, 2)),
        ("bias", (3,)),
    ]
    anchor = np.fromfile(tmp_path / "anchor.f32", "<f4")
    np.testing.assert_array_equal(anchor, whole(FlatParameters(model)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["anchor.f32", "layout.json"]


# ---- schedule and batches ------------------------------------------------------------------


def a_lease(rows: int, start: float = 0.0, end: float = 0.1) -> Work:
    return Work(
        round=0,
        fragment=0,
        generation=1,
        ranges=((0, rows),),
        steps=rows // 4,
        progress_start=start,
        progress_end=end,
        slot=0,
    )


def test_batches_cross_ranges_and_leave_a_rest() -> None:
    lease = Work(
        round=0,
        fragment=0,
        generation=1,
        ranges=((0, 3), (10, 14), (20, 22)),
        steps=2,
        progress_start=0.0,
        progress_end=0.1,
        slot=0,
    )
    assert list(batches(lease, 4)) == [[0, 1, 2, 10], [11, 12, 13, 20]]


def test_the_learning_rate_interpolates_progress_and_ramps_a_late_joiner() -> None:
    spec = RunSpec(
        inner=InnerSpec(schedule="wsd", warmup_steps=0, decay_fraction=1.0, join_warmup_steps=10),
        outer=OuterSpec(rounds=10, inner_steps=4),
    )
    assert total_steps(spec) == 40
    early = LearningRate(spec)
    assert early.factor(a_lease(16, 0.0, 0.4), 2, 4, 2) == pytest.approx(0.8)
    late = LearningRate(spec)
    assert late.factor(a_lease(16, 0.5, 0.6), 0, 4, 0) == pytest.approx(0.5 * 0.1)
    assert late.factor(a_lease(16, 0.5, 0.6), 0, 4, 9) == pytest.approx(0.5)


def test_a_run_by_tokens_has_the_steps_of_its_genesis_cohort() -> None:
    spec = RunSpec(outer=OuterSpec(tokens=1024 * 300))
    assert total_steps(spec) == 300


def test_the_speed_forgets_the_slow_first_step() -> None:
    speed = Speed()
    assert speed.steps_per_s == 0
    for seconds in (30.0, 0.5, 0.5):
        speed.note(seconds)
    assert speed.steps_per_s == pytest.approx(2.0)


# ---- a foreign loop ------------------------------------------------------------------------


def test_the_example_is_short_enough_to_read() -> None:
    assert len(OWN_LOOP.read_text().splitlines()) <= 60


@pytest.mark.slow
def test_two_peers_of_a_foreign_loop_learn_together(tmp_path: Path) -> None:
    program = (sys.executable, str(OWN_LOOP))
    spec = RunSpec(
        model=ModelSpec(preset="custom", program=program),
        data=DataSpec(source="synthetic", seq_len=32),
        inner=InnerSpec(batch_rows=8, schedule="constant", warmup_steps=0),
        outer=OuterSpec(rounds=4, inner_steps=10),
    )
    env = {**os.environ, ENV_GENESIS: str(tmp_path), "OMP_NUM_THREADS": "1"}
    subprocess.run(program, env=env, check=True, timeout=60)
    entries = [(n, tuple(s)) for n, s in json.loads((tmp_path / "layout.json").read_text())]
    layout = Layout.from_entries(entries)
    anchor = np.fromfile(tmp_path / "anchor.f32", np.float32)
    reports = asyncio.run(_average_rounds(tmp_path, spec, layout, anchor))
    losses = [sum(r.loss_sum for r in pair) / sum(r.steps for r in pair) for pair in reports]
    assert all(r.steps == 10 and r.tokens == 10 * 8 * 32 for pair in reports for r in pair)
    assert losses[0] > 4.0 and losses[-1] < 0.75 * losses[0]


async def _average_rounds(
    folder: Path, spec: RunSpec, layout: Layout, anchor: np.ndarray
) -> list[list[WorkReport]]:
    """Two trainers; after each round both get the mean of their parameters."""
    peers = []
    for name in ("a", "b"):
        shared = SharedState.create(layout.size, (((0, layout.size),),), 1, memfd=True)
        shared.anchor[:] = anchor
        peers.append(
            ProcessTrainer(
                shared,
                spec,
                layout=layout,
                program=spec.model.program,
                data_dir=folder,
                log_path=folder / f"{name}.log",
                emit=print,
            )
        )
    try:
        async with asyncio.timeout(120):
            await asyncio.gather(*(p.start() for p in peers))
            return [await _round(peers, r) for r in range(spec.outer.rounds)]
    finally:
        await asyncio.gather(*(p.close() for p in peers))


async def _round(peers: list[ProcessTrainer], number: int) -> list[WorkReport]:
    from farflung.inner.channel import Landing

    leases = [
        Work(
            round=number,
            fragment=0,
            generation=1,
            ranges=((160 * number + 80 * i, 160 * number + 80 * (i + 1)),),
            steps=10,
            progress_start=number / 4,
            progress_end=(number + 1) / 4,
            slot=0,
        )
        for i in range(2)
    ]
    reports = await asyncio.gather(*(p.train(x) for p, x in zip(peers, leases, strict=True)))
    mean = (peers[0].shared.sent(0, 0) + peers[1].shared.sent(0, 0)) / np.float32(2)
    for peer in peers:
        peer.shared.begin_write(0)
        peer.shared.anchor[:] = mean
        peer.shared.end_write(0)
    landing = Landing(round=number, fragment=0, op="overwrite", alpha=0.0, slot=0)
    await asyncio.gather(*(p.land(landing) for p in peers))
    return list(reports)
