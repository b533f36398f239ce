"""The sizes of what is trained, from the run spec. Raises UserError for models without FLOPs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from farflung.config.run import RunSpec
from farflung.errors import UserError
from farflung.model.hf_names import layout_entries
from farflung.model.presets import (
    LlamaConfig,
    config_of_spec,
    flops_per_token,
    parameter_count,
)
from farflung.outer.fragments import make_fragments, size
from farflung.outer.layout import Layout
from farflung.peer.disk_budget import result_bytes


@dataclass(frozen=True, kw_only=True)
class ModelSizes:
    """Everything that the estimates need of a run's model."""

    config: LlamaConfig
    layout: Layout
    parameters: int
    largest_fragment: int
    """Elements."""
    fragment_bytes: float
    """Of an average fragment on the wire: codec with its scales."""
    flops: float
    """Of a token, forward and backward; recomputation never counts."""
    state_floats: float
    """fp32 values per parameter of the inner optimizer."""


def sizes_of(spec: RunSpec, *, vocab: int | None = None, parameters: int = 0) -> ModelSizes:
    """`vocab` of the tokenizer, if known; or the run's number of parameters, which implies it."""
    if spec.model.preset in ("custom", "quadratic"):
        raise UserError(
            f"model.preset={spec.model.preset!r} cannot be estimated: only its own program knows "
            f"its FLOPs and memory; describe a like model with --set model.preset=150m"
        )
    config = config_of_spec(spec.model, vocab=vocab, seq_len=spec.data.seq_len)
    if parameters:
        config = _with_parameters(config, parameters)
    layout = Layout.from_entries(layout_entries(config))
    fragments = make_fragments(layout, spec.outer.fragments)
    return ModelSizes(
        config=config,
        layout=layout,
        parameters=layout.size,
        largest_fragment=max(map(size, fragments)),
        fragment_bytes=result_bytes(layout, spec.outer),
        flops=flops_per_token(config),
        state_floats=state_floats(config, spec.inner.optimizer),
    )


def state_floats(config: LlamaConfig, optimizer: str) -> float:
    """2 per parameter of AdamW, 1 of Muon, which takes the matrices of the blocks."""
    if optimizer == "adamw":
        return 2.0
    entries = layout_entries(config)
    hidden = sum(math.prod(s) for name, s in entries if ".layers." in name and len(s) == 2)
    return 2.0 - hidden / parameter_count(config)


def _with_parameters(config: LlamaConfig, parameters: int) -> LlamaConfig:
    row = config.dim * (1 if config.tied else 2)
    vocab, rest = divmod(parameters - parameter_count(config) + config.vocab * row, row)
    if vocab < 1 or rest:
        raise UserError(
            f"the run has {parameters:,} parameters, which no vocabulary of its model gives; "
            f"install the host's version of farflung"
        )
    return replace(config, vocab=vocab)
