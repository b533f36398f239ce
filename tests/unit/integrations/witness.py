"""Runs an example and prints what its model really sees and when its optimizer really steps.

    python witness.py EXAMPLE.py

Global hooks of torch: "ROWS n n" for the samples of a forward with gradients (each begins with its
own number, base 64), "STEP" after each optimizer step. Nothing of farflung's is asked.
"""

from __future__ import annotations

import runpy
import sys
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook


def see(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    if isinstance(module, nn.Embedding) and torch.is_grad_enabled():
        print("ROWS", *(inputs[0][:, 0] * 64 + inputs[0][:, 1]).tolist(), flush=True)


def stepped(*_: Any) -> None:
    print("STEP", flush=True)


def steps_of(log: str) -> list[list[int]]:
    """Sample numbers of each step."""
    steps: list[list[int]] = []
    rows: list[int] = []
    for line in log.splitlines():
        if line.startswith("ROWS"):
            rows += [int(number) for number in line.split()[1:]]
        elif line == "STEP":
            steps.append(rows)
            rows = []
    return steps


if __name__ == "__main__":
    register_module_forward_pre_hook(see)
    register_optimizer_step_post_hook(stepped)
    torch.set_num_threads(1)
    runpy.run_path(sys.argv[1], run_name="__main__")
