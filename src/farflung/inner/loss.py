"""Next-token loss in nats, without ever holding all logits, and bits per byte.

Shape suffixes: B rows, T tokens, N = B*T, D model width, V vocabulary, C rows of one chunk.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from farflung.errors import ConfigError

CHUNK_ELEMENTS = 1 << 23
"""Logits held at a time by default (32 MiB of fp32). A batch below it is one chunk whose logits
are kept for the backward pass; above it each chunk is recomputed there."""

EVALUATION_ROWS = 16
"""Rows of one evaluation batch."""


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Sums over N of (lse - logit of the target) and of lse**2, lse = log Σ exp logits.

    With p = softmax: d nats = p - onehot, d lse² = 2 lse p, so one pass over the logits gives
    both gradients. Only lse_N is kept when there are several chunks.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, chunk: int
    ) -> tuple[Tensor, Tensor]:
        lse_N = torch.empty(len(targets_N), dtype=torch.float32, device=hidden_ND.device)
        nats = lse_N.new_zeros(())
        logits_CV = lse_N
        for rows in _chunks(len(targets_N), chunk):
            logits_CV = (hidden_ND[rows] @ weight_VD.T).float()
            lse_N[rows] = torch.logsumexp(logits_CV, dim=-1)
            target_C = logits_CV.gather(1, targets_N[rows, None])[:, 0]
            nats += (lse_N[rows] - target_C).sum()
        kept = [logits_CV] if len(targets_N) <= chunk and any(ctx.needs_input_grad) else []
        ctx.save_for_backward(hidden_ND, weight_VD, targets_N, lse_N, *kept)
        ctx.chunk = chunk
        return nats, lse_N.square().sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_nats: Tensor, d_squares: Tensor) -> tuple[Tensor | None, ...]:
        hidden_ND, weight_VD, targets_N, lse_N, *kept = ctx.saved_tensors
        d_hidden_ND = torch.empty_like(hidden_ND)
        d_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32)
        for rows in _chunks(len(targets_N), ctx.chunk):
            logits_CV = kept[0] if kept else (hidden_ND[rows] @ weight_VD.T).float()
            p_CV = (logits_CV - lse_N[rows, None]).exp_()
            p_CV.mul_((d_nats + 2.0 * lse_N[rows] * d_squares)[:, None])
            minus_one = -d_nats.expand(p_CV.shape[0], 1)
            p_CV.scatter_add_(1, targets_N[rows, None], minus_one)
            narrow_CV = p_CV.to(hidden_ND.dtype)
            torch.mm(narrow_CV, weight_VD, out=d_hidden_ND[rows])
            d_weight_VD += narrow_CV.T @ hidden_ND[rows]
        return d_hidden_ND, d_weight_VD.to(weight_VD.dtype), None, None


def _chunks(rows: int, chunk: int) -> Iterator[slice]:
    return (slice(start, min(start + chunk, rows)) for start in range(0, rows, chunk))


def cross_entropy(
    hidden_BTD: Tensor, weight_VD: Tensor, targets_BT: Tensor, *, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """(Σ nats, Σ lse²) over all targets, both fp32 scalars with gradients.

    The second is the z-loss before its factor (PaLM, arXiv 2204.02311, section 5). `chunk` is
    the number of tokens whose logits exist at a time; by default about 32 MiB of them. Under
    autocast the products run in its type and all else in fp32. First derivatives only.
    """
    device = hidden_BTD.device.type
    dtype = weight_VD.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    if chunk is None:
        chunk = max(1, CHUNK_ELEMENTS // weight_VD.shape[0])
    hidden_ND = hidden_BTD.flatten(0, -2).to(dtype)
    with torch.autocast(device, enabled=False):
        sums: tuple[Tensor, Tensor] = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
            hidden_ND, weight_VD.to(dtype), targets_BT.flatten(), chunk
        )
    return sums


def model_loss(
    model: nn.Module, tokens_BT: Tensor, targets_BT: Tensor, z_loss: float = 0.0
) -> Tensor:
    """Mean nats per token (fp32 scalar), plus `z_loss` times the mean of lse² if above 0.

    The model is a `Llama`, wrapped or not: the loss runs as the head of its forward.
    """

    def head(hidden_BTD: Tensor, weight_VD: Tensor) -> Tensor:
        nats, squares = cross_entropy(hidden_BTD, weight_VD, targets_BT)
        total = nats + z_loss * squares if z_loss else nats
        return total / targets_BT.numel()

    loss: Tensor = model(tokens_BT, head)
    return loss


def bits_per_byte(total_nats: float, n_bytes: int) -> float:
    """Bits per byte of text, comparable between tokenizers. Raises ConfigError without bytes."""
    if n_bytes <= 0:
        raise ConfigError(f"bits per byte needs at least one byte of text, not {n_bytes}")
    return total_nats / math.log(2) / n_bytes


@torch.no_grad()
def evaluate(
    model: nn.Module, rows: Iterable[NDArray[np.int64]], n_bytes: int
) -> tuple[float, float]:
    """(nats per token, bits per byte) over held-out rows of [T + 1] tokens.

    `n_bytes` is the text that the predicted tokens (all but the first of each row) stand for.
    Rows are summed in fp64. Raises ConfigError when there are none.
    """
    device = next(model.parameters()).device
    total_nats, n_tokens = 0.0, 0
    remaining = iter(rows)
    while batch := list(islice(remaining, EVALUATION_ROWS)):
        block = torch.from_numpy(np.stack(batch).astype(np.int64, copy=False)).to(device)
        targets_BT = block[:, 1:].contiguous()
        mean = float(model_loss(model, block[:, :-1], targets_BT))
        total_nats += mean * targets_BT.numel()
        n_tokens += targets_BT.numel()
    if n_tokens == 0:
        raise ConfigError("there are no held-out rows to evaluate; prepare more data")
    return total_nats / n_tokens, bits_per_byte(total_nats, n_bytes)
