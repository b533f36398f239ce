"""The built-in step on a real GPU. Run on such a machine: make test-gpu."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from farflung.config.run import InnerSpec
from farflung.inner.compiled import compile_blocks, softmax_kernel, undo_compile
from farflung.inner.feed import Feed
from farflung.inner.late import LateValue
from farflung.inner.loss import softmax_gradient
from farflung.inner.meter import Meter, memory_bytes
from farflung.inner.optimizer import build_optimizer
from farflung.inner.options import StepOptions
from farflung.inner.sizing import SIZES_FILE, StepSize
from farflung.inner.step import LossOptions, Stepper, accumulate
from farflung.inner.trace import Trace
from farflung.model.llama import Llama, init_weights
from farflung.model.presets import LlamaConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

CONFIG = LlamaConfig(
    vocab=4000, dim=256, layers=4, heads=4, kv_heads=2, ff=512, seq_len=256, qk_norm=True
)
INNER = InnerSpec(batch_rows=8, optimizer="adamw", lr=1e-3)
GPU = torch.device("cuda")


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1.0, 0)


def made() -> Llama:
    model = Llama(CONFIG)
    init_weights(model, 0)
    return model.to(GPU)


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (INNER.batch_rows, CONFIG.seq_len + 1)
    block = torch.randint(0, CONFIG.vocab, shape, generator=generator).to(GPU)
    return block[:, :-1], block[:, 1:].contiguous()


def gradient(model: Llama, inner: InnerSpec, options: LossOptions) -> Tensor:
    accumulate(model, *batch(), inner, INNER.batch_rows, options)
    return torch.cat([p.grad.flatten().double() for p in model.parameters()])  # type: ignore[union-attr]


def error(got: Tensor, wanted: Tensor) -> float:
    return float((got - wanted).norm() / wanted.norm())


@pytest.mark.parametrize(("rows", "vocab"), [(7, 1000), (130, 4096), (64, 50_257)])
@pytest.mark.parametrize("z_loss", [0.0, 1e-3])
def test_the_kernel_does_what_torchs_operations_do(rows: int, vocab: int, z_loss: float) -> None:
    kernel = softmax_kernel(compiled=True)
    assert kernel is not softmax_gradient, "no Triton here"
    for dtype, most in ((torch.float32, 1e-5), (torch.bfloat16, 5e-3)):
        torch.manual_seed(vocab)
        ours = torch.randn(rows, vocab, device=GPU).mul_(4).to(dtype)
        theirs = ours.clone()
        targets = torch.randint(vocab, (rows,), device=GPU)
        sums = kernel(ours, targets, 0.25, z_loss)
        expected = softmax_gradient(theirs, targets, 0.25, z_loss)
        torch.testing.assert_close(sums, expected, rtol=1e-5, atol=1e-3)
        assert error(ours.double(), theirs.double()) < most


def test_compiled_blocks_give_the_gradient_of_eager_ones() -> None:
    exact = InnerSpec(batch_rows=8, autocast="off")
    wanted = gradient(made(), exact, LossOptions())
    model = made()
    compile_blocks(model)
    options = LossOptions(softmax=softmax_kernel(compiled=True))
    assert error(gradient(model, exact, options), wanted) < 1e-4
    model.zero_grad(set_to_none=True)
    narrow = error(gradient(model, INNER, options), wanted)
    assert narrow < 1.5 * error(gradient(made(), INNER, LossOptions()), wanted) < 5e-2
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in made().named_parameters()]


def test_recomputed_blocks_give_the_same_gradient_in_less_memory() -> None:
    found = []
    for checkpointed in (0, CONFIG.layers):
        model = made()
        model.model.checkpointed = checkpointed
        torch.cuda.reset_peak_memory_stats()
        found.append((gradient(model, INNER, LossOptions()), memory_bytes(GPU)))
        del model
    assert error(found[1][0], found[0][0]) < 1e-6
    assert found[1][1] < found[0][1]


def test_a_batch_that_does_not_fit_goes_in_smaller_parts_from_then_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    total = torch.cuda.get_device_properties(0).total_memory
    options = StepOptions(compile=False, gpu_share=0.5e9 / total, node=tmp_path)
    inner = InnerSpec(batch_rows=512, optimizer="adamw")
    sizes = [StepSize(512, 0), StepSize(4, 0)]
    torch.manual_seed(0)
    block = torch.randint(CONFIG.vocab, (512, CONFIG.seq_len + 1), device=GPU)

    def stepper() -> Stepper:
        model = made()
        return Stepper(model, build_optimizer(model, inner), inner, options, GPU, sizes)

    first = stepper()
    first._rung = 0  # as if the arithmetic had promised more than there is
    loss = first(block[:, :-1], block[:, 1:].contiguous()).loss
    assert float(loss) == pytest.approx(np.log(CONFIG.vocab), abs=0.2)
    assert first.size == sizes[1]
    assert "did not fit this GPU's memory" in capsys.readouterr().err
    assert list(json.loads((tmp_path / SIZES_FILE).read_text()).values()) == [1]
    assert stepper().size == sizes[1]


def test_training_goes_on_when_blocks_cannot_be_compiled(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = made()
    stepper = Stepper(model, build_optimizer(model, INNER), INNER, StepOptions(), GPU)

    def broken(_graph: object, _inputs: object) -> object:
        raise RuntimeError("no compiler here")

    for layer in model.model.layers:
        layer.compile(backend=broken)
    assert bool(stepper(*batch()).loss.isfinite())
    assert not stepper.compiled
    assert "are not compiled here" in capsys.readouterr().err


def test_twenty_steps_learn_alike_compiled_and_eager() -> None:
    losses = {}
    for compiled in (True, False):
        model = made()
        options = StepOptions(compile=compiled)
        stepper = Stepper(model, build_optimizer(model, INNER), INNER, options, GPU)
        losses[compiled] = [float(stepper(*batch(step % 2)).loss) for step in range(20)]
    assert losses[True][-1] < losses[True][0] - 0.5
    assert losses[True] == pytest.approx(losses[False], rel=0.02)


@pytest.mark.skipif(
    not importlib.util.find_spec("torchao"), reason="needs torchao: pip install 'farflung[gpu]'"
)
def test_float8_learns_like_bf16() -> None:
    last = []
    for float8 in (False, True):
        model = made()
        names = [n for n, _ in model.named_parameters()]
        options = StepOptions(float8=float8)
        stepper = Stepper(model, build_optimizer(model, INNER), INNER, options, GPU)
        assert [n for n, _ in model.named_parameters()] == names
        last.append([float(stepper(*batch(step % 2)).loss) for step in range(20)][-1])
    assert last[1] == pytest.approx(last[0], rel=0.05)


def test_rows_arrive_as_they_were_read() -> None:
    def read(positions: list[int]) -> np.ndarray:
        return np.stack([np.arange(p, p + 9, dtype=np.int64) for p in positions])

    feed = Feed(read, GPU)  # type: ignore[arg-type]
    busy = torch.randn(4096, 4096, device=GPU)
    for step in range(20):
        tokens, targets = feed.take([step, 100 + step])
        busy = busy @ busy * 1e-3
        feed.prepare([step + 1, 101 + step])
        assert tokens[:, 0].tolist() == [step, 100 + step]
        assert targets[:, -1].tolist() == [step + 8, 108 + step]
    assert feed.wait_s >= 0.0


def test_a_value_is_read_without_what_was_queued_after_it() -> None:
    x = torch.ones((), device=GPU)
    late = LateValue(x * 3)
    x += 1
    assert late.read() == 3.0


def test_figures_name_the_gpu_and_its_memory() -> None:
    meter = Meter.of_config(CONFIG, GPU)
    meter.note(torch.full((), 2.0, device=GPU))
    meter.note(torch.full((), 4.0, device=GPU))
    figures = meter.figures(lr=0.5, tokens=1000, seconds=1.0)
    assert figures.grad_norm == 3.0
    assert figures.device == torch.cuda.get_device_name()
    assert figures.memory_bytes > 0


def test_a_trace_is_written_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = Trace(tmp_path, wanted=True, first=1)
    for _ in range(10):
        torch.randn(64, device=GPU).sum()
        trace.step()
    assert "a trace of 3 steps is in" in capsys.readouterr().err
    assert (tmp_path / "profile" / "steps.json.gz").stat().st_size > 0


def test_undoing_leaves_a_plain_model(capsys: pytest.CaptureFixture[str]) -> None:
    model = made()
    compile_blocks(model)
    undo_compile(model, RuntimeError("for a test\nwith a second line"))
    assert all(part._compiled_call_impl is None for part in model.modules())
    assert capsys.readouterr().err.count("\n") == 1
