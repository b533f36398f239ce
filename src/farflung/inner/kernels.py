"""The loss's arithmetic on a GPU, in Triton: the logits are read once from the device's memory,
once more from its cache, and written once.

Three kernels that inductor made of the same arithmetic took twice as long on an H200
(docs/decisions/0031-the-step.md). Loaded only where Triton is.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

WARPS = 8
BLOCK = 4096
"""Columns that a program holds at a time; one program per row."""


@triton.jit  # type: ignore[untyped-decorator]
def _softmax_gradient(  # type: ignore[no-untyped-def]
    logits,
    targets,
    nats,
    squares,
    stride,
    scale,
    z_loss,
    columns: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    start = logits + row * stride
    lanes = tl.arange(0, BLOCK)
    most = tl.full((BLOCK,), -1e30, tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, columns, BLOCK):
        inside = first + lanes < columns
        x = tl.load(start + first + lanes, mask=inside, other=-float("inf")).to(tl.float32)
        above = tl.maximum(most, x)
        total = total * tl.exp(most - above) + tl.exp(x - above)
        most = above
    peak = tl.max(most, 0)
    lse = peak + tl.log(tl.sum(total * tl.exp(most - peak), 0))
    target = tl.load(targets + row)
    tl.store(nats + row, lse - tl.load(start + target).to(tl.float32))
    tl.store(squares + row, lse * lse)
    factor = scale + 2.0 * lse * scale * z_loss
    for first in range(0, columns, BLOCK):
        inside = first + lanes < columns
        x = tl.load(start + first + lanes, mask=inside, other=-float("inf")).to(tl.float32)
        p = tl.exp(x - lse) * factor
        p = tl.where(first + lanes == target, p - scale, p)
        tl.store(start + first + lanes, p.to(logits.dtype.element_ty), mask=inside)


def softmax_gradient(
    logits_CV: Tensor, targets_C: Tensor, scale: float, z_loss: float
) -> tuple[Tensor, Tensor]:
    """A `Softmax` of inner/loss.py: the logits [C, V] become the gradient."""
    rows, columns = logits_CV.shape
    nats_C = torch.empty(rows, dtype=torch.float32, device=logits_CV.device)
    squares_C = torch.empty_like(nats_C)
    block = min(BLOCK, triton.next_power_of_2(columns))
    _softmax_gradient[(rows,)](
        logits_CV,
        targets_C,
        nats_C,
        squares_C,
        logits_CV.stride(0),
        scale,
        z_loss,
        columns=columns,
        BLOCK=block,
        num_warps=WARPS if block == BLOCK else 4,
    )
    return nats_C.sum(), squares_C.sum()
