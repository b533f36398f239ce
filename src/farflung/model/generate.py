"""Draws text from a model, one token at a time. No key-value cache: samples are short."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from farflung.errors import ConfigError
from farflung.model.llama import Llama


@torch.no_grad()
def sample(
    model: Llama,
    tokens: Sequence[int],
    n: int,
    *,
    temperature: float = 0.8,
    top_k: int = 0,
    seed: int = 0,
) -> list[int]:
    """The `n` tokens after the prompt `tokens` (not the prompt itself).

    Temperature 0 takes the likeliest token; `top_k` 0 keeps all. The model sees the last
    `seq_len` tokens. The same seed and weights give the same text on one device.
    Raises ConfigError for an empty prompt or a negative number.
    """
    if not tokens or min(n, temperature, top_k) < 0:
        raise ConfigError(
            f"a sample needs a prompt (got {len(tokens)} tokens) and n={n}, "
            f"temperature={temperature}, top_k={top_k} of at least 0"
        )
    device = model.head_weight.device
    generator = torch.Generator(device="cpu").manual_seed(seed)
    text = list(tokens)
    for _ in range(n):
        window_1T = torch.tensor([text[-model.config.seq_len :]], device=device)
        logits_V = _last_logits(model, window_1T)
        text.append(_draw(logits_V, temperature, top_k, generator))
    return text[len(tokens) :]


def _last_logits(model: Llama, tokens_1T: Tensor) -> Tensor:
    """fp32 logits [V] of the position after the row, on the CPU; no other position is projected."""
    logits_11V: Tensor = model(tokens_1T, lambda hidden, weight: hidden[:, -1:] @ weight.T)
    return logits_11V[0, 0].float().cpu()


def _draw(logits_V: Tensor, temperature: float, top_k: int, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits_V.argmax())
    if 0 < top_k < len(logits_V):
        kept_K, index_K = torch.topk(logits_V, top_k)
        logits_V = torch.full_like(logits_V, -torch.inf).scatter_(0, index_K, kept_K)
    probability_V = torch.softmax(logits_V / temperature, dim=-1)
    return int(torch.multinomial(probability_V, 1, generator=generator))
