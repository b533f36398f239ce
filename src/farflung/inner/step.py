"""One inner step: gradient of the batch, clipping, optimizer.

Shape suffixes: B rows of the batch, T tokens of a row.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from farflung import failpoints
from farflung.config.run import InnerSpec
from farflung.inner.compiled import (
    COMPILE_ERRORS,
    compile_blocks,
    fast_attention,
    is_compiled,
    keep_compiled,
    softmax_kernel,
    undo_compile,
    use_float8,
)
from farflung.inner.loss import CHUNK_BYTES, DEVICE_SHARE, Softmax, model_loss, softmax_gradient
from farflung.inner.optimizer import InnerOptimizer
from farflung.inner.options import StepOptions
from farflung.inner.sizing import KEEP_FREE, SizeMemory, StepSize, ladder, needed_bytes
from farflung.model.llama import Llama


@dataclass(frozen=True)
class LossOptions:
    """How the loss is computed on this device."""

    budget_bytes: int = CHUNK_BYTES
    """Of the logits that exist at a time."""
    softmax: Softmax = softmax_gradient


PLAIN_LOSS = LossOptions()


@dataclass(frozen=True)
class StepOutcome:
    """0-d fp32 tensors on the model's device: reading them waits for it."""

    loss: Tensor
    """Before the step: mean nats per token, plus the z-loss if the run has one."""
    grad_norm: Tensor
    """Global, before clipping; 0 without clipping."""


def inner_step(
    model: nn.Module,
    optimizer: InnerOptimizer,
    tokens_BT: Tensor,
    targets_BT: Tensor,
    inner: InnerSpec,
    micro_rows: int,
    loss: LossOptions = PLAIN_LOSS,
) -> StepOutcome:
    """theta <- optimizer(theta, clip(grad of the mean loss over the batch)).

    The batch goes in micro-batches of `micro_rows`, whose gradients add up to the batch's.
    Clipping is on the global norm; 0 switches it off.
    """
    optimizer.zero_grad(set_to_none=True)
    value = accumulate(model, tokens_BT, targets_BT, inner, micro_rows, loss)
    return StepOutcome(value, clip_and_step(model, optimizer, inner))


def clip_and_step(model: nn.Module, optimizer: InnerOptimizer, inner: InnerSpec) -> Tensor:
    """The second half of a step, after all gradients are there; returns their norm."""
    norm = torch.zeros(())
    if inner.clip_norm:
        norm = nn.utils.clip_grad_norm_(model.parameters(), inner.clip_norm)
    optimizer.step()
    return norm


def accumulate(
    model: nn.Module,
    tokens_BT: Tensor,
    targets_BT: Tensor,
    inner: InnerSpec,
    micro_rows: int,
    options: LossOptions = PLAIN_LOSS,
) -> Tensor:
    """Adds the batch's gradient to the parameters'; returns its loss (0-d, no gradient)."""
    total = torch.zeros((), device=tokens_BT.device)
    for first in range(0, len(tokens_BT), micro_rows):
        rows = slice(first, first + micro_rows)
        share = len(tokens_BT[rows]) / len(tokens_BT)
        with _autocast(inner, tokens_BT.device):
            loss = model_loss(
                model,
                tokens_BT[rows],
                targets_BT[rows],
                inner.z_loss,
                budget_bytes=options.budget_bytes,
                softmax=options.softmax,
            )
            loss = loss * share
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    return total


def _autocast(inner: InnerSpec, device: torch.device) -> AbstractContextManager[object]:
    """bf16 products on accelerators; fp32 on CPUs, where bf16 is emulated."""
    if inner.autocast == "off" or device.type == "cpu":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


class Stepper:
    """The built-in model's step on this device: compiled where that helps, as large as fits.

    On a CPU it is `inner_step` with the whole batch. On an accelerator the first calls compile and
    find the size; an out-of-memory before the optimizer's step takes the next smaller size, and
    the batch is computed again: parameters are as before it.
    """

    def __init__(
        self,
        model: Llama,
        optimizer: InnerOptimizer,
        inner: InnerSpec,
        options: StepOptions,
        device: torch.device,
        sizes: list[StepSize] | None = None,
    ) -> None:
        """`sizes` to go down instead of the ladder for this device's memory.

        Raises UserError when float8 is wanted and cannot be had.
        """
        self._model = model
        self._optimizer = optimizer
        self._inner = inner
        self._device = device
        self._loss = PLAIN_LOSS
        self._rungs = sizes or [StepSize(inner.batch_rows, 0)]
        self._rung = 0
        self._memory = SizeMemory(options.node, "")
        if device.type != "cpu":
            self._set_up(options, sizes)
        self._use_size()

    @property
    def size(self) -> StepSize:
        """What a micro-batch is at present."""
        return self._rungs[self._rung]

    @property
    def compiled(self) -> bool:
        return is_compiled(self._model)

    def __call__(self, tokens_BT: Tensor, targets_BT: Tensor) -> StepOutcome:
        """Raises torch.OutOfMemoryError when not even the smallest size fits."""
        with fast_attention(self._device):
            self._optimizer.zero_grad(set_to_none=True)
            loss = self._gradients(tokens_BT, targets_BT)
            return StepOutcome(loss, self._finish())

    def _gradients(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        while True:
            try:
                rows = self.size.micro_rows
                if failpoints.fails("step.memory"):
                    raise torch.OutOfMemoryError("failpoint step.memory")
                return accumulate(self._model, tokens_BT, targets_BT, self._inner, rows, self._loss)
            except torch.OutOfMemoryError:
                if not self._shrink():
                    raise
            except COMPILE_ERRORS as error:
                if not self.compiled:
                    raise
                undo_compile(self._model, error)
                self._loss = replace(self._loss, softmax=softmax_kernel(compiled=False))
            self._optimizer.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()

    def _finish(self) -> Tensor:
        try:
            return clip_and_step(self._model, self._optimizer, self._inner)
        except torch.OutOfMemoryError:
            # part of the parameters may have moved: only a fresh process can go on
            self._memory.note(self._rung + 1)
            raise

    def _shrink(self) -> bool:
        """The next smaller size from now on; False: there is none."""
        if self._rung + 1 >= len(self._rungs):
            return False
        self._memory.note(self._rung + 1)
        before, self._rung = self.size, self._rung + 1
        print(
            f"farflung: {_said(before)} did not fit this GPU's memory; the step goes on with "
            f"{_said(self.size)}, which is remembered",
            file=sys.stderr,
        )
        self._use_size()
        return True

    def _set_up(self, options: StepOptions, sizes: list[StepSize] | None) -> None:
        config, inner = self._model.config, self._inner
        limit = limit_memory(self._device, options.gpu_share)
        budget = int(limit * DEVICE_SHARE)
        self._loss = LossOptions(budget, softmax_kernel(compiled=options.compile))
        if options.float8:
            use_float8(self._model)
        if options.compile:
            keep_compiled(options.node)
            compile_blocks(self._model)
        self._rungs = sizes or ladder(inner.batch_rows, config.seq_len, config.layers)
        name = torch.cuda.get_device_name(self._device)
        shape = (config, inner.batch_rows, inner.optimizer, inner.autocast)
        key = repr((name, limit >> 28, shape, options.compile, options.float8, torch.__version__))
        self._memory = SizeMemory(options.node, key)
        self._rung = min(self._memory.rung() or self._expected(limit, budget), len(self._rungs) - 1)

    def _expected(self, limit: int, budget: int) -> int:
        """The first rung that should fit."""
        floats = _state_floats(self._optimizer, self._model)
        fits = (
            index
            for index, size in enumerate(self._rungs)
            if needed_bytes(self._model.config, size, floats, budget) <= (1 - KEEP_FREE) * limit
        )
        return next(fits, len(self._rungs) - 1)

    def _use_size(self) -> None:
        self._model.model.checkpointed = self.size.checkpointed


def limit_memory(device: torch.device, share: float) -> int:
    """Bytes of an accelerator that this process may take; a share below 1 is enforced."""
    index = torch.cuda.current_device() if device.index is None else device.index
    total = torch.cuda.get_device_properties(index).total_memory
    share = min(share, torch.cuda.get_per_process_memory_fraction(index))
    if share < 1:
        torch.cuda.set_per_process_memory_fraction(share, index)
    free, _ = torch.cuda.mem_get_info(index)
    return int(min(total * share, free + torch.cuda.memory_reserved(index)))


def _state_floats(optimizer: InnerOptimizer, model: nn.Module) -> float:
    """fp32 values per parameter that the optimizer will hold: 2 of AdamW, 1 of Muon."""
    total = sum(p.numel() for p in model.parameters())
    held = 0
    for part in optimizer.parts:
        each = 1 if type(part).__name__ == "Muon" else 2
        held += each * sum(p.numel() for g in part.param_groups for p in g["params"])
    return held / total


def _said(size: StepSize) -> str:
    rows = "1 row" if size.micro_rows == 1 else f"{size.micro_rows} rows"
    again = f" and {size.checkpointed} blocks recomputed" if size.checkpointed else ""
    return f"a micro-batch of {rows}{again}"
