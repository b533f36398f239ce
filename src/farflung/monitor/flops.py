"""Model FLOPs of a token, as far as the run's spec tells them."""

from __future__ import annotations

import math
from dataclasses import replace

from farflung.config.run import RunSpec
from farflung.errors import ConfigError
from farflung.model.presets import (
    LlamaConfig,
    config_of_spec,
    flops_per_token,
    parameter_count,
)


def model_flops(spec: RunSpec, parameters: int) -> float:
    """Forward and backward, 6 N + 12 L d T; NaN for models that are not the built-in one.

    The vocabulary stands in no journal: it is what is left of `parameters` for the embedding.
    """
    if spec.model.preset in ("custom", "quadratic"):
        return math.nan
    try:
        config = config_of_spec(spec.model, vocab=None, seq_len=spec.data.seq_len)
    except ConfigError:
        return math.nan
    found = _with_vocab(config, parameters)
    return flops_per_token(found) if found else math.nan


def _with_vocab(config: LlamaConfig, parameters: int) -> LlamaConfig | None:
    row = config.dim * (1 if config.tied else 2)
    vocab, rest = divmod(parameters - parameter_count(config) + config.vocab * row, row)
    return replace(config, vocab=vocab) if vocab >= 1 and not rest else None
