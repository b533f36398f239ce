"""The size of a step: how it follows from memory, and what becomes of one that does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException

from farflung.config.run import InnerSpec
from farflung.errors import UserError
from farflung.inner import step as step_module
from farflung.inner.compiled import use_float8
from farflung.inner.optimizer import build_optimizer
from farflung.inner.options import StepOptions
from farflung.inner.sizing import SIZES_FILE, SizeMemory, StepSize, ladder, needed_bytes
from farflung.inner.step import Stepper
from farflung.model.llama import Llama, init_weights
from farflung.model.presets import PRESETS, LlamaConfig

CONFIG = LlamaConfig(vocab=40, dim=16, layers=3, heads=2, kv_heads=1, ff=24, seq_len=12)
INNER = InnerSpec(batch_rows=8, optimizer="adamw", lr=1e-2)
CPU = torch.device("cpu")


def made() -> Llama:
    model = Llama(CONFIG)
    init_weights(model, 0)
    return model


def block() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    data = torch.randint(0, CONFIG.vocab, (8, CONFIG.seq_len + 1), generator=generator)
    return data[:, :-1], data[:, 1:].contiguous()


def stepper(model: Llama, sizes: list[StepSize], node: Path | None = None) -> Stepper:
    return Stepper(model, build_optimizer(model, INNER), INNER, StepOptions(node=node), CPU, sizes)


def test_the_ladder_goes_from_the_batch_to_one_row_with_all_recomputed() -> None:
    rungs = ladder(64, 1024, 12)
    assert rungs[0] == StepSize(64, 0)
    assert StepSize(8, 0) in rungs  # 8192 tokens: fewer would leave a GPU idle
    assert StepSize(4, 0) not in rungs
    assert rungs[-1] == StepSize(1, 12)
    assert ladder(4, 8192, 16)[:3] == [StepSize(4, 0), StepSize(2, 0), StepSize(1, 0)]
    assert ladder(1, 128, 1) == [StepSize(1, 0), StepSize(1, 1)]
    for rows, length, layers in ((7, 100, 3), (512, 256, 24), (3, 8192, 1)):
        steps = ladder(rows, length, layers)
        assert len(set(steps)) == len(steps)
        falls = [s.micro_rows for s in steps]
        assert falls == sorted(falls, reverse=True)


def test_each_rung_needs_less_memory() -> None:
    config = PRESETS["1b"]
    rungs = ladder(8, config.seq_len, config.layers)
    needs = [needed_bytes(config, size, 2.0, 1 << 30) for size in rungs]
    assert needs == sorted(needs, reverse=True)
    measured = 67.3e9  # 4 rows of 8192 tokens with AdamW on an H200 (docs/speed.md)
    assert needed_bytes(config, StepSize(4, 0), 2.0, 4 << 30) == pytest.approx(measured, rel=0.15)


def test_what_did_not_fit_is_remembered_for_this_model_only(tmp_path: Path) -> None:
    memory = SizeMemory(tmp_path, "1b on an H200")
    assert memory.rung() == 0
    memory.note(3)
    assert SizeMemory(tmp_path, "1b on an H200").rung() == 3
    assert SizeMemory(tmp_path, "150m on an H200").rung() == 0
    (tmp_path / SIZES_FILE).write_text("{ damaged")
    assert memory.rung() == 0
    memory.note(1)
    assert memory.rung() == 1
    (tmp_path / SIZES_FILE).write_text('{"x": 1}')
    assert memory.rung() == 0
    SizeMemory(None, "nowhere").note(2)
    SizeMemory(tmp_path / "missing", "nowhere").note(2)


class Hungry:
    """Runs out of memory above so many rows; counts what was tried."""

    def __init__(self, model: Llama, rows: int) -> None:
        self.tried: list[int] = []
        self._rows = rows
        model.register_forward_pre_hook(self)

    def __call__(self, _model: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.tried.append(len(args[0]))
        if len(args[0]) > self._rows:
            raise torch.OutOfMemoryError("no memory for a test")


def test_out_of_memory_takes_the_next_size_and_trains_the_same_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, plain = made(), made()
    sizes = [StepSize(8, 0), StepSize(4, 0), StepSize(2, 0)]
    ours = stepper(model, sizes, tmp_path)
    hungry = Hungry(model, 2)
    outcome = ours(*block())
    assert hungry.tried == [8, 4, 2, 2, 2, 2]
    expected = stepper(plain, [StepSize(2, 0)])(*block())
    assert torch.equal(outcome.loss, expected.loss)
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b)
    said = capsys.readouterr().err
    assert "a micro-batch of 8 rows did not fit this GPU's memory" in said
    assert "goes on with a micro-batch of 2 rows, which is remembered" in said
    assert list(json.loads((tmp_path / SIZES_FILE).read_text()).values()) == [2]
    ours(*block())
    assert hungry.tried[6:] == [2, 2, 2, 2]


def test_when_nothing_smaller_is_left_it_is_an_error() -> None:
    model = made()
    Hungry(model, 0)
    with pytest.raises(torch.OutOfMemoryError):
        stepper(model, [StepSize(8, 0), StepSize(1, 3)])(*block())


def test_out_of_memory_in_the_optimizer_is_left_to_a_fresh_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = made()
    ours = stepper(model, [StepSize(8, 0), StepSize(4, 0)], tmp_path)

    def full(*_: object) -> Tensor:
        raise torch.OutOfMemoryError("no memory for a test")

    monkeypatch.setattr(step_module, "clip_and_step", full)
    with pytest.raises(torch.OutOfMemoryError):
        ours(*block())
    assert list(json.loads((tmp_path / SIZES_FILE).read_text()).values()) == [1]


@pytest.mark.parametrize("checkpointed", [1, 2, 3])
def test_recomputed_blocks_give_the_same_bits(checkpointed: int) -> None:
    model, plain = made(), made()
    ours = stepper(model, [StepSize(8, checkpointed)])
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    for layer in model.model.layers:
        layer.register_forward_pre_hook(count)
    outcome = ours(*block())
    assert calls == CONFIG.layers + checkpointed
    expected = stepper(plain, [StepSize(8, 0)])(*block())
    assert torch.equal(outcome.loss, expected.loss)
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b)
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in plain.named_parameters()]


def test_a_compiler_that_fails_is_one_sentence_and_training_goes_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, plain = made(), made()
    ours = stepper(model, [StepSize(8, 0)])

    def broken(*_: object, **__: object) -> Tensor:
        raise TorchDynamoException("no compiler\nand a long story")

    model.model.norm._compiled_call_impl = broken
    outcome = ours(*block())
    assert torch.equal(outcome.loss, stepper(plain, [StepSize(8, 0)])(*block()).loss)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "not compiled here, training goes on without (no compiler)" in said
    assert not ours.compiled


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_float8_without_a_gpu_is_one_sentence() -> None:
    with pytest.raises(UserError, match="float8 needs a GPU"):
        use_float8(made())
