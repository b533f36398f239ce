"""The built-in model's step in one of several ranks.

What differs from one device: parameters are shards, so sizes are; gradients are reduced by the last
micro-batch; and nobody changes the size of a micro-batch alone. An out-of-memory in one rank is
remembered in the node's folder and ends the process: the agent starts all ranks again, and they
agree on the smaller size.
"""

from __future__ import annotations

import msgspec
import torch
from torch import Tensor

from farflung.config.run import InnerSpec
from farflung.inner.compiled import keep_compiled, softmax_kernel, use_float8
from farflung.inner.loss import DEVICE_SHARE
from farflung.inner.optimizer import InnerOptimizer
from farflung.inner.options import StepOptions
from farflung.inner.parallel import LastReduces, largest
from farflung.inner.shards import place_from_environment
from farflung.inner.sizing import KEEP_FREE, SizeMemory, StepSize, ladder, needed_bytes
from farflung.inner.step import LossOptions, Stepper, limit_memory
from farflung.model.llama import Llama
from farflung.model.presets import parameter_count

BLOCKS_AHEAD = 3
"""Blocks whose parameters are gathered at a time: one computes, one comes, one goes."""


class RankStepper(Stepper):
    """All ranks call it together, each with its own rows."""

    def __init__(
        self,
        model: Llama,
        optimizer: InnerOptimizer,
        inner: InnerSpec,
        options: StepOptions,
        device: torch.device,
        *,
        world: int = 0,
    ) -> None:
        self._world = world or place_from_environment().world
        self._reduces = LastReduces(model)
        mine = msgspec.structs.replace(inner, batch_rows=inner.batch_rows // self._world)
        super().__init__(model, optimizer, mine, options, device)

    def _gradients(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        self._reduces.begin(-(-len(tokens_BT) // self.size.micro_rows))
        return super()._gradients(tokens_BT, targets_BT)

    def _finish(self) -> Tensor:
        norm = super()._finish()
        whole: Tensor = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        return whole

    def _shrink(self) -> bool:
        """Noted for the next start; this process cannot go on, others have gone further."""
        if self._rung + 1 < len(self._rungs):
            self._memory.note(self._rung + 1)
        return False

    def _set_up(self, options: StepOptions, sizes: list[StepSize] | None) -> None:
        config, inner = self._model.config, self._inner
        limit = limit_memory(self._device, options.gpu_share)
        budget = int(limit * DEVICE_SHARE)
        self._loss = LossOptions(budget, softmax_kernel(compiled=options.compile))
        if options.float8:
            use_float8(self._model)
        if options.compile:
            keep_compiled(options.node)
            compile_forwards(self._model)
        self._rungs = sizes or ladder(inner.batch_rows, config.seq_len, config.layers)
        name = torch.cuda.get_device_name(self._device)
        shape = (config, inner.batch_rows, inner.optimizer, inner.autocast, self._world)
        key = repr((name, limit >> 28, shape, options.compile, options.float8, torch.__version__))
        self._memory = SizeMemory(options.node, key)
        rung = self._memory.rung() or self._expected(limit, budget)
        self._rung = largest(min(rung, len(self._rungs) - 1), self._device)

    def _expected(self, limit: int, budget: int) -> int:
        """The first rung that should fit."""
        state = self._state_floats_held()
        fits = (
            index
            for index, size in enumerate(self._rungs)
            if self._needed(size, state, budget) <= (1 - KEEP_FREE) * limit
        )
        return next(fits, len(self._rungs) - 1)

    def _state_floats_held(self) -> float:
        """fp32 values per parameter that the optimizer will hold: 2 of AdamW, 1 of Muon."""
        held = sum(
            (1 if getattr(part, "STATE_KIND", "") == "Muon" else 2) * p.numel()
            for part in self._optimizer.parts
            for group in part.param_groups
            for p in group["params"]
        )
        return float(held / parameter_count(self._model.config))

    def _needed(self, size: StepSize, state_floats: float, budget: int) -> int:
        """Peak of a rank: its shards of parameters, gradients and state; what is gathered of the
        parameters in bf16 and made of their gradients; activations as on one device."""
        config = self._model.config
        n = parameter_count(config)
        shards = 4 * n * (2 + state_floats) / self._world
        outside = config.vocab * config.dim * (1 if config.tied else 2)
        block = (n - outside) / config.layers
        gathered = (2 + 4) * (outside + BLOCKS_AHEAD * block)
        kept = 4 * n if self._reduces.keeps and size.micro_rows < self._inner.batch_rows else 0
        activations = needed_bytes(config, size, -2.0, budget)  # without parameters
        return int(shards + gathered + kept + activations)


def compile_forwards(model: Llama) -> None:
    """Each block's own computation: FSDP gathers before and lets go after it, uncompiled."""
    for layer in [*model.model.layers, model.model.norm]:
        layer.forward = torch.compile(layer.forward, dynamic=False)
