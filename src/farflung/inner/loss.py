"""Next-token loss in nats, without ever holding all logits, and bits per byte.

Shape suffixes: B rows, T tokens, N = B*T, D model width, V vocabulary, C tokens of one chunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from farflung.errors import ConfigError

CHUNK_BYTES = 1 << 28
"""Logits held at a time on a CPU, and where nobody chose: 256 MiB."""
CHUNK_ROWS = 1024
"""Tokens of a chunk at least: products of fewer leave a GPU idle, and every chunk passes once over
the gradient of the whole head."""
DEVICE_SHARE = 1 / 32
"""Of an accelerator's memory that the logits of a chunk may take."""

EVALUATION_ROWS = 16
"""Rows of one evaluation batch."""

Softmax = Callable[[Tensor, Tensor, float, float], tuple[Tensor, Tensor]]
"""(logits_CV, targets_C, scale, z_loss) -> (sum of nats, sum of lse squared), fp32 scalars. The
logits become the gradient with respect to them of scale * (nats + z_loss * squares)."""


def softmax_gradient(
    logits_CV: Tensor, targets_C: Tensor, scale: float, z_loss: float
) -> tuple[Tensor, Tensor]:
    """The reference `Softmax`, operation by operation.

    With p = softmax: d nats = p - onehot, d lse^2 = 2 lse p.
    """
    wide_CV = logits_CV.float()
    lse_C = torch.logsumexp(wide_CV, dim=-1)
    target_C = wide_CV.gather(1, targets_C[:, None])[:, 0]
    wide_CV.sub_(lse_C[:, None]).exp_()
    wide_CV.mul_((scale + 2.0 * lse_C * (scale * z_loss))[:, None])
    wide_CV.scatter_add_(1, targets_C[:, None], wide_CV.new_full((len(targets_C), 1), -scale))
    if wide_CV.dtype != logits_CV.dtype:
        logits_CV.copy_(wide_CV)
    return (lse_C - target_C).sum(), lse_C.square().sum()


class _ChunkedCrossEntropy(torch.autograd.Function):
    """(sum of nats + z_loss * sum of lse^2) * scale over N tokens, lse = log sum exp logits.

    The gradients are made in the forward pass, chunk by chunk, while the logits exist: nothing is
    computed twice, and only gradients of the size of hidden states and head are kept.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        targets_N: Tensor,
        scale: float,
        z_loss: float,
        chunk: int,
        softmax: Softmax,
    ) -> Tensor:
        narrow_VD = weight_VD.to(hidden_ND.dtype)
        wants_hidden, wants_weight, *_ = ctx.needs_input_grad
        d_hidden_ND = torch.empty_like(hidden_ND) if wants_hidden else None
        d_weight_VD: Tensor | None = None
        total = torch.zeros((), dtype=torch.float32, device=hidden_ND.device)
        for rows in _chunks(len(targets_N), chunk):
            logits_CV = hidden_ND[rows] @ narrow_VD.T
            if not (wants_hidden or wants_weight):
                total += _value(logits_CV, targets_N[rows], z_loss)
                continue
            nats, squares = softmax(logits_CV, targets_N[rows], scale, z_loss)
            total += nats + z_loss * squares if z_loss else nats
            if d_hidden_ND is not None:
                torch.mm(logits_CV, narrow_VD, out=d_hidden_ND[rows])
            if wants_weight:
                d_weight_VD = _add_product(d_weight_VD, logits_CV, hidden_ND[rows])
        ctx.gradients = (
            d_hidden_ND,
            None if d_weight_VD is None else d_weight_VD.to(weight_VD.dtype),
        )
        return total * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_total: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("the loss was differentiated twice; compute it again")
        gradients, ctx.gradients = ctx.gradients, None
        scaled = [None if g is None else g.mul_(d_total) for g in gradients]
        return *scaled, None, None, None, None, None


def _value(logits_CV: Tensor, targets_C: Tensor, z_loss: float) -> Tensor:
    wide_CV = logits_CV.float()
    lse_C = torch.logsumexp(wide_CV, dim=-1)
    nats = (lse_C - wide_CV.gather(1, targets_C[:, None])[:, 0]).sum()
    return nats + z_loss * lse_C.square().sum() if z_loss else nats


def _add_product(sum_VD: Tensor | None, d_logits_CV: Tensor, hidden_CD: Tensor) -> Tensor:
    """fp32 sum of d_logits.T @ hidden over the chunks."""
    if d_logits_CV.is_cuda and d_logits_CV.dtype != torch.float32:  # cuBLAS writes fp32 by itself
        if sum_VD is None:
            return torch.mm(d_logits_CV.T, hidden_CD, out_dtype=torch.float32)
        return torch.addmm(sum_VD, d_logits_CV.T, hidden_CD, out_dtype=torch.float32)
    product_VD = (d_logits_CV.T @ hidden_CD).float()
    return product_VD if sum_VD is None else sum_VD.add_(product_VD)


def _chunks(rows: int, chunk: int) -> Iterator[slice]:
    return (slice(start, min(start + chunk, rows)) for start in range(0, rows, chunk))


def chunk_rows(tokens: int, vocab: int, element_bytes: int, budget_bytes: int) -> int:
    """Tokens whose logits exist at a time: as many as the budget holds, at least CHUNK_ROWS, in
    chunks of one size."""
    most = max(CHUNK_ROWS, budget_bytes // (vocab * element_bytes))
    pieces = -(-tokens // most)
    return max(1, -(-tokens // max(1, pieces)))


def cross_entropy(
    hidden_BTD: Tensor,
    weight_VD: Tensor,
    targets_BT: Tensor,
    *,
    z_loss: float = 0.0,
    scale: float = 1.0,
    chunk: int | None = None,
    budget_bytes: int = CHUNK_BYTES,
    softmax: Softmax = softmax_gradient,
) -> Tensor:
    """scale * (sum of nats + z_loss * sum of lse^2) over all targets: an fp32 scalar.

    The second term is the z-loss (PaLM, arXiv 2204.02311, section 5). `chunk` is the number of
    tokens whose logits exist at a time; by default what `budget_bytes` hold. Under autocast the
    products run in its type and all else in fp32. One first derivative only: it is made together
    with the value.
    """
    device = hidden_BTD.device.type
    dtype = weight_VD.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    if chunk is None:
        chunk = chunk_rows(targets_BT.numel(), weight_VD.shape[0], dtype.itemsize, budget_bytes)
    hidden_ND = hidden_BTD.flatten(0, -2).to(dtype)
    with torch.autocast(device, enabled=False):
        total: Tensor = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
            hidden_ND, weight_VD, targets_BT.flatten(), scale, z_loss, chunk, softmax
        )
    return total


def model_loss(
    model: nn.Module,
    tokens_BT: Tensor,
    targets_BT: Tensor,
    z_loss: float = 0.0,
    *,
    budget_bytes: int = CHUNK_BYTES,
    softmax: Softmax = softmax_gradient,
) -> Tensor:
    """Mean nats per token (fp32 scalar), plus `z_loss` times the mean of lse^2 if above 0.

    The model is a `Llama`, wrapped or not: the loss runs as the head of its forward.
    """

    def head(hidden_BTD: Tensor, weight_VD: Tensor) -> Tensor:
        return cross_entropy(
            hidden_BTD,
            weight_VD,
            targets_BT,
            z_loss=z_loss,
            scale=1.0 / targets_BT.numel(),
            budget_bytes=budget_bytes,
            softmax=softmax,
        )

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
