"""The built-in program: one step, one peer alone, and the same peer under an agent."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from farflung.config.load import from_table
from farflung.config.run import DataSpec, InnerSpec, ModelSpec, OuterSpec, RunSpec, spec_bytes
from farflung.data.prepare import prepare
from farflung.data.samples import mixture_of
from farflung.data.split import Document
from farflung.data.tokenizer import ByteTokenizer, load_tokenizer
from farflung.errors import ConfigError
from farflung.inner.built_in import build, read_spec
from farflung.inner.channel import ENV_DATA, ENV_GENESIS, ENV_SPEC, Work
from farflung.inner.loss import model_loss
from farflung.inner.options import StepOptions
from farflung.inner.report import load_weights, sample_text
from farflung.inner.seam import SharedState
from farflung.inner.solo import held_out_loss
from farflung.inner.step import accumulate, inner_step
from farflung.outer.layout import Layout
from farflung.trainers.port import TrainerDied
from farflung.trainers.process import ProcessTrainer

T = 16
STEPS = 6
SPEC = RunSpec(
    seed=3,
    data=DataSpec(source="synthetic", seq_len=T, tokenizer="bytes", rows=500),
    inner=InnerSpec(batch_rows=4, warmup_steps=2),
    outer=OuterSpec(rounds=1, inner_steps=STEPS),
)
BUILT_IN = (sys.executable, "-m", "farflung.inner.trainer")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    text = "\n".join(f"The {n} ships of {n * n} sailors went out to sea." for n in range(400))
    prepare([Document("ships", text)], ByteTokenizer(), T, folder, held_out_fraction=0.1)
    return folder


def with_shards(spec: RunSpec = SPEC) -> RunSpec:
    raw = json.loads(spec_bytes(spec))
    raw["data"]["source"] = "ships"
    return RunSpec(**{**_structs(spec), "data": DataSpec(**raw["data"])})


def _structs(spec: RunSpec) -> dict[str, object]:
    return {name: getattr(spec, name) for name in spec.__struct_fields__}


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exact comparisons: no GPU, no autocast, also on machines that have one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_one_step_equals_the_plain_recipe(tmp_path: Path) -> None:
    ours, plain = (build(SPEC, tmp_path, fresh=True) for _ in range(2))
    tokens, targets = ours.batch([0, 1, 2, 3])
    loss = inner_step(ours.model, ours.optimizer, tokens, targets, SPEC.inner, 4).loss
    expected = model_loss(plain.model, tokens, targets)
    expected.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(plain.model.parameters(), 1.0)
    plain.optimizer.step()
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-6)
    for a, b in zip(ours.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("micro_rows", [1, 3, 4])
def test_accumulated_gradients_equal_the_batches(tmp_path: Path, micro_rows: int) -> None:
    built, whole = (build(SPEC, tmp_path, fresh=True) for _ in range(2))
    tokens, targets = built.batch([5, 6, 7, 8])
    loss = accumulate(built.model, tokens, targets, SPEC.inner, micro_rows)
    expected = accumulate(whole.model, tokens, targets, SPEC.inner, 4)
    torch.testing.assert_close(loss, expected)
    for a, b in zip(built.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)


def test_clipping_bounds_the_global_norm_and_zero_switches_it_off(tmp_path: Path) -> None:
    for clip in (0.001, 0.0):
        inner = InnerSpec(batch_rows=4, clip_norm=clip)
        built = build(SPEC, tmp_path, fresh=True)
        inner_step(built.model, built.optimizer, *built.batch([0, 1, 2, 3]), inner, 4)
        grads = [p.grad for p in built.model.parameters() if p.grad is not None]
        norm = float(torch.stack([g.norm() for g in grads]).norm())
        assert norm == pytest.approx(clip, rel=1e-3) if clip else norm > 0.01


def test_the_micro_batch_on_a_cpu_is_the_batch(tmp_path: Path) -> None:
    ours, plain = (build(SPEC, tmp_path, fresh=True) for _ in range(2))
    stepper = ours.stepper(StepOptions())
    assert stepper.size.micro_rows == 4
    assert not stepper.compiled
    batch = ours.batch([0, 1, 2, 3])
    outcome = stepper(*batch)
    expected = inner_step(plain.model, plain.optimizer, *batch, SPEC.inner, 4)
    assert torch.equal(outcome.loss, expected.loss)
    assert torch.equal(outcome.grad_norm, expected.grad_norm)
    for a, b in zip(ours.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_rows_follow_from_the_position_and_the_seeds(tmp_path: Path, data: Path) -> None:
    spec = with_shards()
    built = build(spec, data, fresh=True)
    again = build(spec, data, fresh=True)
    np.testing.assert_array_equal(built.source.block([7, 3]), again.source.block([7, 3]))
    tokens, targets = built.batch([7, 3])
    assert tokens.shape == targets.shape == (2, T)
    torch.testing.assert_close(tokens[:, 1:], targets[:, :-1])
    synthetic = build(SPEC, tmp_path, fresh=False).source
    assert not np.array_equal(synthetic.block([1]), synthetic.block([2]))


def mixed(names: Sequence[str], seq_len: int = T) -> RunSpec:
    return from_table(
        {
            **json.loads(spec_bytes(SPEC)),
            "data": {
                "seq_len": seq_len,
                "sources": [{"name": n, "source": n, "weight": 1} for n in names],
            },
        }
    )


def test_a_mixture_reads_each_position_from_its_source(tmp_path: Path) -> None:
    """Texts without a letter in common: a row says where it comes from."""
    texts = {"lower": "abcdefg hijk " * 200, "upper": "ABCDEFG\tHIJK\t" * 300}
    for name, text in texts.items():
        prepare([Document(name, text)], ByteTokenizer(), T, tmp_path / name)
    spec = mixed(list(texts))
    built = build(spec, tmp_path, fresh=False)
    timeline = mixture_of(spec)
    for position, row in zip(range(500), built.source.block(range(500)), strict=True):
        letters = set("ABCDEFG\tHIJK" if timeline.place(position)[0] else "abcdefg hijk")
        assert {chr(t) for t in row if t != 256} <= letters
    assert built.rows is not None
    assert len(built.rows.train) == sum(len(s) for s in built.rows.sources)
    held_out = [built.rows.held_out[i] for i in range(len(built.rows.held_out))]
    assert {97, 65} <= set(np.concatenate(held_out))  # both sources are evaluated


def test_a_changed_mixture_changes_what_comes_after_it_only(tmp_path: Path) -> None:
    for name in ("a", "b"):
        prepare([Document(name, f"{name} text " * 300)], ByteTokenizer(), T, tmp_path / name)
    spec = mixed(["a", "b"])
    source = build(spec, tmp_path, fresh=False).source
    before = source.block(range(990, 1010))
    change = mixture_of(spec).change([1, 4], 700)
    source.expect(range(990, 1010), [change])
    after = source.block(range(990, 1010))
    np.testing.assert_array_equal(before[:10], after[:10])
    assert not np.array_equal(before[10:], after[10:])
    again = build(spec, tmp_path, fresh=False).source
    again.expect(range(1000, 1010), [change])
    np.testing.assert_array_equal(again.block(range(1000, 1010)), after[10:])


def test_sources_that_do_not_go_together_are_one_sentence(tmp_path: Path) -> None:
    text = [Document("x", "some words to read " * 200)]
    prepare(text, ByteTokenizer(), T, tmp_path / "bytes")
    prepare(text, load_tokenizer("bpe-1024"), T, tmp_path / "bpe")
    prepare(text, ByteTokenizer(), 2 * T, tmp_path / "long")
    with pytest.raises(ConfigError, match=r"bpe was prepared with another tokenizer than .*bytes"):
        build(mixed(["bytes", "bpe"]), tmp_path, fresh=False)
    with pytest.raises(ConfigError, match="long holds rows of 32 tokens; set"):
        build(mixed(["bytes", "long"]), tmp_path, fresh=False)
    with pytest.raises(ConfigError, match=r"none has no manifest\.json"):
        build(mixed(["bytes", "none"]), tmp_path, fresh=False)


def test_mistakes_are_one_sentence(tmp_path: Path, data: Path) -> None:
    raw = {**_structs(SPEC), "data": DataSpec(source="ships", seq_len=32)}
    with pytest.raises(ConfigError, match=r"data.seq_len=32, but .* holds rows of 16"):
        build(RunSpec(**raw), data, fresh=False)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="cannot read the run spec"):
        read_spec(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ConfigError, match="is damaged"):
        read_spec(tmp_path / "bad.json")


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    np.zeros(5, "<f4").tofile(tmp_path / "w.f32")
    with pytest.raises(ConfigError, match="holds 5 weights"):
        load_weights(build(SPEC, tmp_path, fresh=False), tmp_path / "w.f32")


def test_a_report_has_held_out_loss_and_a_sample(data: Path) -> None:
    built = build(with_shards(), data, fresh=True)
    outcome = held_out_loss(built)
    assert outcome["nats_per_token"] == pytest.approx(np.log(257), rel=0.05)
    assert outcome["bits_per_byte"] == pytest.approx(np.log2(257), rel=0.1)
    text = sample_text(built, 20, "The ")
    assert text.startswith("The ") and text == sample_text(built, 20, "The ")


# ---- real processes ------------------------------------------------------------------------


def run_module(*command: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command],
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
def test_a_peer_under_an_agent_trains_bit_for_bit_what_it_trains_alone(
    tmp_path: Path, data: Path
) -> None:
    spec = with_shards()
    (tmp_path / "spec.json").write_bytes(spec_bytes(spec))
    paths = ["--spec", str(tmp_path / "spec.json"), "--data", str(data)]
    weights = str(tmp_path / "solo.f32")
    out = ["--steps", str(STEPS), "--out", str(tmp_path / "solo.json"), "--weights", weights]
    solo = run_module("farflung.inner.solo", *paths, *out)
    assert solo.returncode == 0, solo.stderr
    alone = json.loads((tmp_path / "solo.json").read_text())
    assert alone["loss_last"] < alone["loss_first"] and alone["bits_per_byte"] > 0
    steps = [json.loads(line) for line in solo.stdout.splitlines()]
    assert [s["step"] for s in steps] == list(range(1, STEPS + 1))

    env = {ENV_SPEC: paths[1], ENV_DATA: str(data), ENV_GENESIS: str(tmp_path)}
    genesis = run_module("farflung.inner.trainer", **env)
    assert genesis.returncode == 0, genesis.stderr
    local, loss_sum = asyncio.run(_under_an_agent(tmp_path, data, spec))
    assert loss_sum == pytest.approx(sum(s["loss"] for s in steps), rel=1e-6)
    np.testing.assert_array_equal(local, np.fromfile(weights, "<f4"))

    report = run_module(
        "farflung.inner.report",
        *paths,
        "--weights",
        weights,
        "--sample",
        "10",
        "--out",
        str(tmp_path / "report.json"),
    )
    assert report.returncode == 0, report.stderr
    said = json.loads((tmp_path / "report.json").read_text())
    assert said["bits_per_byte"] == pytest.approx(alone["bits_per_byte"], rel=1e-6)
    assert said["sample"]


async def _under_an_agent(folder: Path, data: Path, spec: RunSpec) -> tuple[np.ndarray, float]:
    """(final local parameters, sum of losses) of one lease over the whole run."""
    layout = Layout.from_json((folder / "layout.json").read_bytes())
    shared = SharedState.create(layout.size, (((0, layout.size),),), 1, memfd=True)
    shared.anchor[:] = np.fromfile(folder / "anchor.f32", "<f4")
    port = ProcessTrainer(
        shared,
        spec,
        layout=layout,
        program=BUILT_IN,
        data_dir=data,
        log_path=folder / "trainer.log",
        emit=print,
    )
    lease = Work(
        round=0,
        fragment=0,
        generation=1,
        ranges=((0, 4 * STEPS),),
        steps=STEPS,
        progress_start=0.0,
        progress_end=1.0,
        slot=0,
    )
    try:
        async with asyncio.timeout(60):
            await port.start()
            report = await port.train(lease)
        return shared.sent(0, 0).copy(), report.loss_sum
    finally:
        await port.close()


@pytest.mark.slow
def test_a_mistake_of_the_built_in_trainer_reaches_the_agent(tmp_path: Path) -> None:
    async def main() -> None:
        spec = RunSpec(**{**_structs(SPEC), "model": ModelSpec(preset="dmo")})  # type: ignore[arg-type]
        port = ProcessTrainer(
            SharedState.create(4, (((0, 4),),), 1, memfd=True),
            spec,
            layout=Layout.from_entries([("w", (4,))]),
            program=BUILT_IN,
            data_dir=tmp_path,
            log_path=tmp_path / "trainer.log",
            emit=print,
        )
        try:
            with pytest.raises(TrainerDied, match=r"exit code 2\): farflung: unknown model.preset"):
                await port.start()
        finally:
            await port.close()

    asyncio.run(main())
