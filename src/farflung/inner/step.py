"""One inner step: gradient of the batch, clipping, optimizer.

Shape suffixes: B rows of the batch, T tokens of a row.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from farflung.config.run import InnerSpec
from farflung.inner.loss import model_loss
from farflung.inner.optimizer import InnerOptimizer

KEEP_FREE = 0.05
"""Share of the accelerator's memory that the micro-batch leaves free."""
OPTIMIZER_COPIES = 2
"""fp32 states per parameter that the first optimizer step allocates (AdamW)."""


def inner_step(
    model: nn.Module,
    optimizer: InnerOptimizer,
    tokens_BT: Tensor,
    targets_BT: Tensor,
    inner: InnerSpec,
    micro_rows: int,
) -> Tensor:
    """theta <- optimizer(theta, clip(grad of the mean loss over the batch)).

    The batch goes in micro-batches of `micro_rows`, whose gradients add up to the batch's.
    Clipping is on the global norm; 0 switches it off. Returns the loss before the step (0-d
    fp32, no gradient): mean nats per token, plus the z-loss if the run has one.
    """
    optimizer.zero_grad(set_to_none=True)
    loss = accumulate(model, tokens_BT, targets_BT, inner, micro_rows)
    if inner.clip_norm:
        nn.utils.clip_grad_norm_(model.parameters(), inner.clip_norm)
    optimizer.step()
    return loss


def accumulate(
    model: nn.Module, tokens_BT: Tensor, targets_BT: Tensor, inner: InnerSpec, micro_rows: int
) -> Tensor:
    """Adds the batch's gradient to the parameters'; returns its loss (0-d, no gradient)."""
    total = torch.zeros((), device=tokens_BT.device)
    for first in range(0, len(tokens_BT), micro_rows):
        rows = slice(first, first + micro_rows)
        share = len(tokens_BT[rows]) / len(tokens_BT)
        with _autocast(inner, tokens_BT.device):
            loss = model_loss(model, tokens_BT[rows], targets_BT[rows], inner.z_loss) * share
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    return total


def _autocast(inner: InnerSpec, device: torch.device) -> AbstractContextManager[object]:
    """bf16 products on accelerators; fp32 on CPUs, where bf16 is emulated."""
    if inner.autocast == "off" or device.type == "cpu":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def pick_micro_rows(model: nn.Module, inner: InnerSpec, seq_len: int, vocab: int) -> int:
    """The largest micro-batch that fits the model's device: the batch, its half, its quarter...

    On CPUs the whole batch. On an accelerator measured by one backward pass each, with room for
    the optimizer's state; parameters are unchanged and gradients freed.
    One row is returned untried: the first step says whether it fits.
    """
    device = next(model.parameters()).device
    rows = inner.batch_rows
    if device.type == "cpu":
        return rows
    while rows > 1 and not _fits(model, inner, rows, seq_len, vocab):
        rows = -(-rows // 2)
    return rows


def _fits(model: nn.Module, inner: InnerSpec, rows: int, seq_len: int, vocab: int) -> bool:
    parameters = list(model.parameters())
    device = parameters[0].device
    state_bytes = OPTIMIZER_COPIES * 4 * sum(p.numel() for p in parameters)
    tokens_BT = torch.randint(vocab, (rows, seq_len), device=device)
    torch.cuda.reset_peak_memory_stats(device)
    try:
        accumulate(model, tokens_BT, tokens_BT, inner, rows)
        peak = torch.cuda.max_memory_reserved(device) + state_bytes
        return peak <= (1 - KEEP_FREE) * torch.cuda.get_device_properties(device).total_memory
    except torch.OutOfMemoryError:
        return False
    finally:
        for parameter in parameters:
            parameter.grad = None
        torch.cuda.empty_cache()
