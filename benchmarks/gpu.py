"""The built-in step on one GPU beside a plain compiled loop: builds, checks, times, one table.

    python benchmarks/gpu.py --out gpu.json
    python benchmarks/gpu.py --cases 1b,150m --seconds 300
    python benchmarks/gpu.py --tiny            # the same code on any machine, CPUs too

"plain" is the loop that one would write by hand for the same model: the whole loss under
torch.compile, F.cross_entropy on all logits, bf16 autocast, fused AdamW, clipping, and no reading
of the loss. "farflung" is what a peer runs between two synchronisations: rows through
inner/feed.py, inner/step.py, and the loss of every step read one step later. Both train the same
rows per step.

Every case prints its line as soon as it is measured, and goes on after a failure. MFU counts
6 N + 12 L d T (causal: 6 L d T) over the device's bf16 peak (inner/flops.py).
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from farflung.config.run import InnerSpec
from farflung.inner.compiled import fast_attention
from farflung.inner.feed import Feed
from farflung.inner.flops import peak_flops, utilisation
from farflung.inner.late import LateValue
from farflung.inner.meter import device_name, memory_bytes
from farflung.inner.optimizer import build_optimizer
from farflung.inner.options import StepOptions
from farflung.inner.step import LossOptions, Stepper, accumulate
from farflung.model.llama import Llama
from farflung.model.presets import LlamaConfig, flops_per_token, preset

WARM_STEPS = 3
PHRASE = 16


@dataclass(frozen=True, kw_only=True)
class Case:
    """One line of the table."""

    name: str
    preset: str
    seq_len: int
    rows: int
    """Of a step."""
    optimizer: str = "adamw"
    float8: bool = False
    compile: bool = True
    gigabytes: float = 0.0
    """Cap of the GPU's memory; 0: all of it."""
    plain_rows: int = 0
    """Micro-batch of the plain loop; 0: there is none."""

    @property
    def config(self) -> LlamaConfig:
        return preset(self.preset, seq_len=self.seq_len)

    @property
    def inner(self) -> InnerSpec:
        return InnerSpec(optimizer=self.optimizer, batch_rows=self.rows, lr=3e-4, muon_lr=0.01)


CASES = [
    Case(name="1b", preset="1b", seq_len=8192, rows=4, plain_rows=4),
    Case(name="1b float8", preset="1b", seq_len=8192, rows=4, float8=True),
    Case(name="1b muon 256k", preset="1b", seq_len=8192, rows=32, optimizer="muon"),
    Case(name="1b in 24 GB", preset="1b", seq_len=8192, rows=4, optimizer="muon", gigabytes=24),
    Case(name="1b eager", preset="1b", seq_len=8192, rows=4, compile=False),
    Case(name="150m", preset="150m", seq_len=1024, rows=64, plain_rows=64),
    Case(name="150m float8", preset="150m", seq_len=1024, rows=64, float8=True),
    Case(name="150m muon 256k", preset="150m", seq_len=1024, rows=256, optimizer="muon"),
    Case(name="150m in 8 GB", preset="150m", seq_len=1024, rows=64, gigabytes=8),
    Case(name="35m", preset="35m", seq_len=1024, rows=64, plain_rows=64),
]
TINY = [
    Case(name="demo", preset="demo", seq_len=64, rows=4, plain_rows=4),
    Case(name="demo muon", preset="demo", seq_len=64, rows=4, optimizer="muon"),
]


@dataclass(frozen=True)
class Timing:
    seconds: float
    """Of one step, the mean."""
    first_s: float
    """From the first call to the end of the first step: compiling."""
    loss: float
    memory: int
    size: str


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def build_model(config: LlamaConfig, seed: int = 0) -> Llama:
    """Drawn on the device itself: a billion normals take a while on a CPU."""
    torch.manual_seed(seed)
    with device():
        model = Llama(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0.0, 0.02)
    return model


def rows_of(case: Case, symbols: int = 0) -> Callable[[Sequence[int]], Any]:
    """Rows that repeat a phrase, of the first `symbols` of the vocabulary or of all."""
    most = symbols or case.config.vocab

    def read(positions: Sequence[int]) -> Any:
        drawn = [
            np.random.Generator(np.random.Philox(key=p)).integers(most, size=PHRASE, dtype=np.int64)
            for p in positions
        ]
        return np.stack([np.resize(phrase, case.seq_len + 1) for phrase in drawn])

    return read


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def clean() -> None:
    """As a fresh process would begin, but for the compile cache on the disk."""
    gc.collect()
    torch._dynamo.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.set_per_process_memory_fraction(1.0, 0)


class StepClock:
    """Waits for the device after the first step and around the timed ones, never in between."""

    def __init__(self) -> None:
        synchronize()
        self._started_s = time.perf_counter()
        self.first_s = 0.0

    def step(self, step: int) -> None:
        if step == 0:
            synchronize()
            self.first_s = time.perf_counter() - self._started_s
        if step == WARM_STEPS - 1:
            synchronize()
            self._started_s = time.perf_counter()

    def mean_s(self, steps: int) -> float:
        synchronize()
        return (time.perf_counter() - self._started_s) / steps


def run_ours(case: Case, steps: int, folder: Path | None = None) -> Timing:
    """The step of a peer."""
    model = build_model(case.config)
    optimizer = build_optimizer(model, case.inner)
    share = 1.0
    if case.gigabytes and torch.cuda.is_available():
        share = case.gigabytes * 1e9 / torch.cuda.get_device_properties(0).total_memory
    options = StepOptions(
        compile=case.compile, float8=case.float8, gpu_share=min(1.0, share), node=folder
    )
    stepper = Stepper(model, optimizer, case.inner, options, device())
    feed = Feed(rows_of(case), device())
    clock = StepClock()
    loss = LateValue(0.0)
    for step in range(WARM_STEPS + steps):
        batch = range(step * case.rows, (step + 1) * case.rows)
        outcome = stepper(*feed.take(batch))
        feed.prepare(range((step + 1) * case.rows, (step + 2) * case.rows))
        loss.read()  # of the step before, as a lease does
        loss = LateValue(outcome.loss)
        clock.step(step)
    size = f"{stepper.size.micro_rows} rows"
    if stepper.size.checkpointed:
        size += f", {stepper.size.checkpointed} recomputed"
    if case.compile and torch.cuda.is_available() and not stepper.compiled:
        size += ", NOT COMPILED"
    mean_s = clock.mean_s(steps)
    return Timing(mean_s, clock.first_s, loss.read(), memory_bytes(device()), size)


def run_plain(case: Case, steps: int) -> Timing:
    """The loop that one would write by hand."""
    model = build_model(case.config)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )

    @torch.compile
    def loss_of(tokens: Tensor, targets: Tensor) -> Tensor:
        return fn.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())

    narrow = torch.autocast(device().type, torch.bfloat16, enabled=torch.cuda.is_available())
    read = rows_of(case)
    blocks = [
        torch.from_numpy(read(range(i * case.rows, (i + 1) * case.rows))).to(device())
        for i in range(WARM_STEPS + steps)
    ]
    clock = StepClock()
    loss = torch.zeros(())
    for step, block in enumerate(blocks):
        optimizer.zero_grad()
        for first in range(0, case.rows, case.plain_rows):
            part = block[first : first + case.plain_rows]
            with narrow:
                loss = loss_of(part[:, :-1], part[:, 1:]) * (len(part) / case.rows)
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        clock.step(step)
    size = f"{case.plain_rows} rows"
    loss_value = float(loss.detach())
    return Timing(clock.mean_s(steps), clock.first_s, loss_value, memory_bytes(device()), size)


def row_of(case: Case, kind: str, timing: Timing) -> dict[str, Any]:
    tokens = case.rows * case.seq_len
    name = device_name(device())
    flops, causal = (flops_per_token(case.config, causal=c) for c in (False, True))
    return {
        "case": case.name,
        "loop": kind,
        "tokens_per_s": tokens / timing.seconds,
        "mfu": utilisation(flops, tokens, timing.seconds, name),
        "mfu_causal": utilisation(causal, tokens, timing.seconds, name),
        "step_s": timing.seconds,
        "first_step_s": timing.first_s,
        "memory_gb": timing.memory / 1e9,
        "size": timing.size,
        "loss": timing.loss,
        "tokens_per_step": tokens,
    }


def shown(row: dict[str, Any]) -> str:
    return (
        f"{row['case']:<16} {row['loop']:<9} {row['tokens_per_s']:>11,.0f} tok/s "
        f"{100 * row['mfu']:5.1f} % MFU ({100 * row['mfu_causal']:4.1f} causal) "
        f"{1e3 * row['step_s']:8.1f} ms {row['memory_gb']:6.1f} GB"
        f"  first {row['first_step_s']:5.1f} s  loss {row['loss']:.3f}  {row['size']}"
    )


# ---- checks -------------------------------------------------------------------------------


def gradients(case: Case, prepare: Callable[[Llama], LossOptions], inner: InnerSpec) -> Any:
    """(loss, all gradients as one fp64 vector) of one batch."""
    clean()
    model = build_model(case.config, seed=1)
    options = prepare(model)
    block = torch.from_numpy(rows_of(case)(range(case.rows))).to(device())
    with fast_attention(device()):
        loss = accumulate(
            model, block[:, :-1], block[:, 1:].contiguous(), inner, case.rows, options
        )
    parts = [p.grad.flatten().double() for p in model.parameters() if p.grad is not None]
    return float(loss), torch.cat(parts)


def check(case: Case) -> list[dict[str, Any]]:
    """Every way of computing a gradient against fp32 without any kernel of ours."""
    from farflung.inner.compiled import compile_blocks, softmax_kernel

    def eager(_model: Llama) -> LossOptions:
        return LossOptions()

    def compiled(model: Llama) -> LossOptions:
        compile_blocks(model)
        return LossOptions(softmax=softmax_kernel(compiled=True))

    def recomputed(model: Llama) -> LossOptions:
        model.model.checkpointed = case.config.layers
        return compiled(model)

    exact = replace_inner(case.inner, autocast="off")
    loss, wanted = gradients(case, eager, exact)
    rows = []
    ways = {
        "eager bf16": (eager, case.inner),
        "compiled fp32": (compiled, exact),
        "compiled bf16": (compiled, case.inner),
        "recomputed bf16": (recomputed, case.inner),
    }
    for name, (prepare, inner) in ways.items():
        value, got = gradients(case, prepare, inner)
        error = float((got - wanted).norm() / wanted.norm())
        rows.append({"way": name, "loss_error": abs(value - loss) / loss, "gradient_error": error})
        print(f"check {name:<16} loss off by {rows[-1]['loss_error']:.1e}, gradient {error:.1e}")
    return rows


LEARN_STEPS = 60


def learn(tiny: bool) -> list[dict[str, Any]]:
    """The same rows, one after the other, in fp8, bf16 and fp32: how far the losses part."""
    case = Case(name="learn", preset="demo" if tiny else "150m", seq_len=256, rows=16)
    ways = {"bf16": {}, "bf16 eager": {"compile": False}, "float8": {"float8": True}}
    if not torch.cuda.is_available():
        ways.pop("float8")
    found = []
    for name, switches in ways.items():
        clean()
        model = build_model(case.config)
        optimizer = build_optimizer(model, case.inner)
        stepper = Stepper(model, optimizer, case.inner, StepOptions(**switches), device())
        feed = Feed(rows_of(case, symbols=64), device())
        losses = [
            stepper(*feed.take(range(i * case.rows, (i + 1) * case.rows))).loss
            for i in range(4 if tiny else LEARN_STEPS)
        ]
        last = [float(loss) for loss in losses[-10:]]
        found.append({"way": name, "first": float(losses[0]), "last": float(np.mean(last))})
        print(f"learn {name:<11} loss {found[-1]['first']:.4f} -> {found[-1]['last']:.4f}")
    return found


def replace_inner(inner: InnerSpec, **fields: Any) -> InnerSpec:
    import msgspec

    return msgspec.structs.replace(inner, **fields)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default="", help="comma-separated names; default: all")
    parser.add_argument("--seconds", type=float, default=1500.0, help="no case begins after it")
    parser.add_argument("--steps", type=int, default=8, help="timed steps of a case")
    parser.add_argument("--no-plain", action="store_true", help="leave the plain loops out")
    parser.add_argument("--no-check", action="store_true", help="leave the checks out")
    parser.add_argument("--no-learn", action="store_true", help="leave the losses out")
    parser.add_argument("--tiny", action="store_true", help="tiny models, to try this program")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    began_s = time.monotonic()
    cases = TINY if options.tiny else CASES
    if options.cases:
        wanted = options.cases.split(",")
        cases = [next(c for c in cases if c.name == name) for name in wanted]
    name = device_name(device())
    print(f"{name}, torch {torch.__version__}, peak {peak_flops(name) / 1e12:.0f} TFLOP/s bf16")
    report: dict[str, Any] = {"device": name, "torch": torch.__version__, "rows": []}
    if not options.no_check:
        small = Case(name="check", preset="demo" if options.tiny else "35m", seq_len=128, rows=4)
        report["checks"] = check(small)
    if not options.no_learn:
        report["learned"] = learn(options.tiny)
    failed = 0
    for case in cases:
        kinds: list[tuple[str, Callable[[], Timing]]] = []
        if case.plain_rows and not options.no_plain:
            kinds.append(("plain", lambda case=case: run_plain(case, options.steps)))
        kinds.append(("farflung", lambda case=case: run_ours(case, options.steps)))
        for kind, measure in kinds:
            if time.monotonic() - began_s > options.seconds:
                print(f"{case.name:<16} {kind:<9} left out: {options.seconds:.0f} s are over")
                continue
            clean()
            try:
                row = row_of(case, kind, measure())
            except Exception as error:
                failed += 1
                traceback.print_exc()
                print(f"{case.name:<16} {kind:<9} FAILED: {error!r}"[:300], flush=True)
                continue
            report["rows"].append(row)
            print(shown(row), flush=True)
            write(options.out, report)
    write(options.out, report)
    print_ratios(report["rows"])
    return 1 if failed else 0


def print_ratios(rows: list[dict[str, Any]]) -> None:
    speed = {(r["case"], r["loop"]): r["tokens_per_s"] for r in rows}
    for case, loop in speed:
        if loop == "farflung" and (case, "plain") in speed:
            ratio = speed[case, loop] / speed[case, "plain"]
            print(f"{case}: {ratio:.3f} x the plain compiled loop")


def write(path: Path | None, report: dict[str, Any]) -> None:
    if path is not None:
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
