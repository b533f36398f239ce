"""Draws text from a model, one token at a time, with a key-value cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from farflung.errors import ConfigError
from farflung.model.cache import KeyValueCache
from farflung.model.llama import Llama


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is drawn. Raises ConfigError for a value outside its range."""

    temperature: float = 0.8
    """0 takes the likeliest token."""
    top_k: int = 0
    """Of the likeliest so many; 0: of all."""
    top_p: float = 1.0
    """Of the likeliest that have this share of the probability together (arXiv 1904.09751)."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"temperature={self.temperature} must be 0 (likeliest) or above")
        if self.top_k < 0:
            raise ConfigError(f"top_k={self.top_k} must be 0 (all) or above")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p={self.top_p} must be above 0 and at most 1 (all)")


class Decoding:
    """A text that a model reads token by token.

    It sees `seq_len` tokens at most. When the text grows beyond them, it goes on with the newer
    half: rotary positions count from the first token, so every key has to be made again, and this
    way that happens once in `seq_len / 2` tokens. `cached=False` computes everything at every step.
    """

    def __init__(self, model: Llama, *, cached: bool = True) -> None:
        self._model = model
        self._cached = cached
        self._window: list[int] = []
        self._cache = KeyValueCache(model.config)

    @torch.no_grad()
    def read(self, tokens: Sequence[int]) -> Tensor:
        """fp32 logits [V] of the token after these and all before, on the CPU.

        Raises ConfigError when there are none.
        """
        if not tokens:
            raise ConfigError("a model needs at least one token to go on from")
        new = list(tokens)
        limit = self._model.config.seq_len
        if len(self._window) + len(new) > limit:
            keep = max(1, limit // 2) if self._window else limit
            new = (self._window + new)[-keep:]
            self._window, self._cache = [], KeyValueCache(self._model.config)
        self._window += new
        if not self._cached:
            return self._logits(self._window, None)
        return self._logits(new, self._cache)

    def _logits(self, tokens: list[int], cache: KeyValueCache | None) -> Tensor:
        """No position but the last is projected."""
        tokens_1T = torch.tensor([tokens], device=self._model.head_weight.device)
        logits_11V: Tensor = self._model(
            tokens_1T, lambda hidden, weight: hidden[:, -1:] @ weight.T, cache
        )
        return logits_11V[0, 0].float().cpu()


def stream(
    model: Llama, tokens: Sequence[int], sampling: Sampling, *, cached: bool = True
) -> Iterator[int]:
    """The tokens after the prompt, without end. Raises ConfigError for an empty prompt.

    The same seed and weights give the same text on one device.
    """
    generator = torch.Generator(device="cpu").manual_seed(sampling.seed)
    decoding = Decoding(model, cached=cached)
    logits_V = decoding.read(tokens)
    while True:
        token = draw(logits_V, sampling, generator)
        yield token
        logits_V = decoding.read([token])


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

    Raises ConfigError for an empty prompt or a negative number.
    """
    if not tokens or n < 0:
        raise ConfigError(
            f"a sample needs a prompt (got {len(tokens)} tokens) and n={n} of at least 0"
        )
    sampling = Sampling(temperature=temperature, top_k=top_k, seed=seed)
    return list(islice(stream(model, tokens, sampling), n))


def draw(logits_V: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """One token from fp32 logits on the CPU."""
    if sampling.temperature == 0:
        return int(logits_V.argmax())
    logits_V = logits_V / sampling.temperature
    if 0 < sampling.top_k < len(logits_V):
        kept_K, index_K = torch.topk(logits_V, sampling.top_k)
        logits_V = torch.full_like(logits_V, -torch.inf).scatter_(0, index_K, kept_K)
    probability_V = torch.softmax(logits_V, dim=-1)
    if sampling.top_p < 1:
        probability_V = _nucleus(probability_V, sampling.top_p)
    return int(torch.multinomial(probability_V, 1, generator=generator))


def _nucleus(probability_V: Tensor, top_p: float) -> Tensor:
    """The others set to 0; the likeliest always stays."""
    sorted_V, index_V = torch.sort(probability_V, descending=True, stable=True)
    before_V = sorted_V.cumsum(0) - sorted_V
    sorted_V = torch.where(before_V < top_p, sorted_V, 0.0)
    return torch.zeros_like(probability_V).scatter_(0, index_V, sorted_V)
