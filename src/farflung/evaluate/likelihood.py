"""How likely a model finds given tokens after others.

legend: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch

from farflung.data.tokenizer import Tokenizer
from farflung.errors import ConfigError
from farflung.model.llama import Llama

BATCH_TOKENS = 4096
"""Tokens that go through the model at a time, about."""

Progress = Callable[[int, int], None]
"""(done, in all)."""


class Request(NamedTuple):
    context: Sequence[int]
    """At least one token."""
    continuation: Sequence[int]
    """At least one, at most `seq_len`."""


class Likelihood(NamedTuple):
    nats: float
    """Log-probability of the whole continuation, at most 0."""
    greedy: bool
    """Whether each of its tokens was the likeliest."""


def encode_pair(tokenizer: Tokenizer, context: str, continuation: str) -> Request:
    """Both as one document, of which the continuation is scored: the end-of-document token stands
    before it, as in training."""
    before, after = cut_between(tokenizer, context, continuation)
    return Request([tokenizer.eos, *before], after)


def cut_between(
    tokenizer: Tokenizer, context: str, continuation: str
) -> tuple[list[int], list[int]]:
    """Tokens of both texts as those of one; each by itself where a token would cross the border."""
    before = tokenizer.encode(context)
    together = tokenizer.encode(context + continuation)
    if together[: len(before)] != before:
        return before, tokenizer.encode(continuation)
    return before, together[len(before) :]


@torch.no_grad()
def likelihoods(
    model: Llama, requests: Sequence[Request], progress: Progress | None = None
) -> list[Likelihood]:
    """In the requests' order. A context that is too long loses its beginning.

    Raises ConfigError for an empty part, or a continuation longer than the model's rows.
    """
    limit = model.config.seq_len
    rows = [_row(request, limit) for request in requests]
    found: dict[int, Likelihood] = {}
    for batch in _batches(rows):
        for index, value in zip(batch, _score(model, [rows[i] for i in batch]), strict=True):
            found[index] = value
        if progress is not None:
            progress(len(found), len(rows))
    return [found[i] for i in range(len(rows))]


def _row(request: Request, limit: int) -> tuple[list[int], int]:
    """(at most limit + 1 tokens, how many of them are scored)."""
    context, continuation = list(request.context), list(request.continuation)
    if not context or not continuation:
        raise ConfigError("a likelihood needs at least one token before and one to be scored")
    if len(continuation) > limit:
        raise ConfigError(
            f"a continuation of {len(continuation)} tokens is longer than the model's rows of "
            f"{limit}; cut it into parts"
        )
    return (context + continuation)[-(limit + 1) :], len(continuation)


def _batches(rows: Sequence[tuple[list[int], int]]) -> Iterator[list[int]]:
    """Indices of rows of similar length, the longest first: what does not fit shows at once."""
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i][0]))
    batch: list[int] = []
    for index in order:
        if batch and (len(batch) + 1) * len(rows[batch[0]][0]) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _score(model: Llama, rows: Sequence[tuple[list[int], int]]) -> list[Likelihood]:
    """Rows are filled up at their end, which no earlier token sees."""
    longest = len(rows[0][0]) - 1
    tokens_BT = torch.zeros((len(rows), longest), dtype=torch.int64)
    for number, (tokens, _) in enumerate(rows):
        tokens_BT[number, : len(tokens) - 1] = torch.tensor(tokens[:-1])
    hidden_BTD = model.hidden(tokens_BT.to(model.head_weight.device))
    found = []
    for hidden_TD, (tokens, scored) in zip(hidden_BTD, rows, strict=True):
        stop = len(tokens) - 1
        logits_TV = (hidden_TD[stop - scored : stop] @ model.head_weight.T).float()
        targets_T = torch.tensor(tokens[-scored:], device=logits_TV.device)
        lse_T = torch.logsumexp(logits_TV, dim=-1)
        target_T = logits_TV.gather(1, targets_T[:, None])[:, 0]
        greedy = bool((logits_TV.argmax(dim=-1) == targets_T).all())
        found.append(Likelihood(float((target_T - lse_T).double().sum()), greedy))
    return found
