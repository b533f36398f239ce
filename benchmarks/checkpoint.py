"""How long training stands still for a saved optimizer state, against the time until it is on disk.

    python benchmarks/checkpoint.py [--gb 1 4] [--saves 3] [--folder DIR] [--out FILE.json]

One process, AdamW on a stack of linear layers whose optimizer state has the wanted size; forward,
backward and step go on without a pause while states are saved. Blocked is what the training thread
waits: the call that starts a save, and how much longer the next steps wait for it (their
optimizer's pre-hook). Total is from the call until the file is whole, renamed and synced. Beside it
in the same run, with the same model: torch.distributed.checkpoint's async_save, whose call stages a
copy, and a plain blocking write of the same bytes (safetensors). Goal: blocked is 5 % of total or
less.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import queue
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from farflung.inner import optimizer_state
from farflung.inner.channel import InnerSaved, SaveInner
from farflung.inner.flat import FlatParameters
from farflung.inner.optimizer_state import OptimizerStateIo

GOAL = 0.05
WIDTH = 4096
TOKENS = 64
WAIT_S = 600.0


class Training:
    """Steps of a model whose AdamW moments have `gb` gigabytes (10^9 bytes)."""

    def __init__(self, gb: float) -> None:
        torch.manual_seed(0)
        layers = max(1, round(gb * 1e9 / 8 / WIDTH**2))
        self.net = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(layers)))
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=1e-4)
        self.flat = FlatParameters(self.net)
        self.x = torch.randn(TOKENS, WIDTH)
        self.state_bytes = 8 * sum(p.numel() for p in self.net.parameters())

    def passes(self) -> None:
        self.optimizer.zero_grad(set_to_none=False)
        self.net(self.x).square().mean().backward()

    def step_s(self) -> float:
        started = time.monotonic()
        self.optimizer.step()
        return time.monotonic() - started


def ours(training: Training, folder: Path, saves: int) -> dict[str, Any]:
    """The way of a run; the wait of the hook is measured in the hook."""
    heard: queue.Queue[InnerSaved] = queue.Queue()
    io = OptimizerStateIo(training.flat, training.optimizer, heard.put)
    waited = 0.0
    settle = io.settle

    def timed() -> None:
        nonlocal waited
        started = time.monotonic()
        settle()
        waited += time.monotonic() - started

    io.settle = timed  # type: ignore[method-assign]
    rows = []
    for number in range(saves):
        training.passes()
        training.step_s()
        waited = 0.0
        started = time.monotonic()
        io.ask(SaveInner(serial=number, path=str(folder / f"inner-{number % 2}")))
        io.serve(number)
        called = time.monotonic() - started
        steps = 0
        answer: InnerSaved | None = None
        while answer is None:
            training.passes()
            training.step_s()
            steps += 1
            try:
                answer = heard.get_nowait()
            except queue.Empty:
                assert time.monotonic() - started < WAIT_S
        assert not answer.note, answer.note
        rows.append((called + waited, WRITTEN.pop() - started, steps))
    return _row(rows)


WRITTEN: list[float] = []
"""When the last file was whole."""


def note_ends() -> None:
    """`write` of the module under test says when it ended: steps are longer than a poll."""
    real = optimizer_state.write

    def write(*arguments: Any) -> None:
        real(*arguments)
        WRITTEN.append(time.monotonic())

    optimizer_state.write = write


def torch_async(training: Training, folder: Path, saves: int) -> dict[str, Any]:
    """torch.distributed.checkpoint: blocked is the call, which stages the copy."""
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp

    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29517")
    dist.init_process_group("gloo", rank=0, world_size=1)
    rows = []
    try:
        for number in range(saves):
            training.passes()
            training.step_s()
            started = time.monotonic()
            future = dcp.async_save(
                training.optimizer.state_dict(), checkpoint_id=str(folder / f"dcp-{number % 2}")
            )
            called = time.monotonic() - started
            ended: list[float] = []
            future.add_done_callback(lambda _, e=ended: e.append(time.monotonic()))
            steps = 0
            while not ended:
                training.passes()
                training.step_s()
                steps += 1
            future.result()
            rows.append((called, ended[0] - started, steps))
    finally:
        dist.destroy_process_group()
    return _row(rows)


def blocking(training: Training, folder: Path, saves: int) -> dict[str, Any]:
    """The plain way: write, sync, go on."""
    from safetensors.torch import save_file

    rows = []
    for number in range(saves):
        training.passes()
        training.step_s()
        started = time.monotonic()
        state = training.optimizer.state_dict()["state"]
        tensors = {f"{p}.{k}": t for p, s in state.items() for k, t in s.items() if t.ndim}
        path = folder / f"plain-{number % 2}"
        save_file(tensors, path)
        with path.open("rb") as file:
            os.fsync(file.fileno())
        rows.append((time.monotonic() - started, time.monotonic() - started, 0))
    return _row(rows)


def _row(rows: list[tuple[float, float, int]]) -> dict[str, Any]:
    blocked = statistics.median(b for b, _, _ in rows)
    total = statistics.median(t for _, t, _ in rows)
    return {
        "blocked_s": round(blocked, 4),
        "total_s": round(total, 3),
        "share": round(blocked / total, 4),
        "steps_meanwhile": statistics.median(s for _, _, s in rows),
        "worst_blocked_s": round(max(b for b, _, _ in rows), 4),
    }


def step_seconds(training: Training) -> float:
    started = time.monotonic()
    training.passes()
    training.step_s()
    return time.monotonic() - started


def measure(gb: float, folder: Path, saves: int) -> dict[str, Any]:
    training = Training(gb)
    step_seconds(training)
    result: dict[str, Any] = {
        "state_gb": round(training.state_bytes / 1e9, 2),
        "step_s": round(step_seconds(training), 3),
    }
    ways: dict[str, Callable[[Training, Path, int], dict[str, Any]]] = {
        "farflung": ours,
        "torch.distributed.checkpoint async_save": torch_async,
        "blocking safetensors": blocking,
    }
    for name, way in ways.items():
        with tempfile.TemporaryDirectory(dir=folder) as where:
            result[name] = way(training, Path(where), saves)
        gc.collect()
        print(f"{result['state_gb']} GB  {name}: {result[name]}", flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gb", type=float, nargs="+", default=[1.0, 4.0])
    parser.add_argument("--saves", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    note_ends()
    found = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "threads": torch.get_num_threads(),
        "sizes": [measure(gb, options.folder, options.saves) for gb in options.gb],
        "goal_share": GOAL,
    }
    text = json.dumps(found, indent=2)
    if options.out:
        options.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
