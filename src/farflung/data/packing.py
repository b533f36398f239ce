"""Packs a stream of documents into rows of seq_len + 1 tokens.

legend: T = seq_len, N = rows. With t the tokens of all documents, each followed by end-of-text,
row i is t[i*T .. i*T+T]: neighbours share one token, so every token but the first is predicted
exactly once. The tail that fills no row is left out.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from farflung.data.tokenizer import Encoded, Tokens

Integers = npt.NDArray[np.integer[Any]]


class PackedRows(NamedTuple):
    tokens: Integers
    """[N, T + 1], of the packer's dtype"""
    n_bytes: Tokens
    """int64 [N]: UTF-8 bytes of the row's T targets (end-of-text has none)."""


class TokenRun(NamedTuple):
    """A stretch of the stream of one side, ends of text included."""

    ids: Integers
    """[n], of any integer dtype"""
    n_bytes: Integers
    """[n]: UTF-8 bytes behind each token."""


class Packer:
    """Feed documents with `add`; `take` hands out the rows completed so far, in order."""

    def __init__(self, seq_len: int, eos: int, dtype: str = "int64") -> None:
        self._seq_len = seq_len
        self._end = TokenRun(np.array([eos]), np.zeros(1, np.uint8))
        self._ids = [np.empty(0, dtype)]
        self._n_bytes: list[Integers] = [np.empty(0, np.uint8)]
        self._dtype = np.dtype(dtype)
        self.tokens = 0
        """Seen so far, end-of-text included."""

    def add(self, document: Encoded) -> None:
        """A whole document: its end of text is added."""
        self.add_run(TokenRun(document.ids, document.n_bytes))
        self.add_run(self._end)

    def add_run(self, run: TokenRun) -> None:
        self._ids.append(run.ids.astype(self._dtype, copy=False))
        self._n_bytes.append(run.n_bytes)
        self.tokens += len(run.ids)

    @property
    def rows_ready(self) -> int:
        """What `take` would hand out."""
        return max(0, sum(map(len, self._ids)) - 1) // self._seq_len

    def take(self, multiple: int = 1) -> PackedRows:
        """A whole number of times `multiple` rows; the others stay."""
        T = self._seq_len
        ids, n_bytes = np.concatenate(self._ids), np.concatenate(self._n_bytes)
        n = max(0, len(ids) - 1) // T // multiple * multiple
        rows = np.empty((n, T + 1), self._dtype)
        rows[:, :T] = ids[: n * T].reshape(n, T)
        rows[:, T] = ids[T : n * T + 1 : T]
        row_bytes = n_bytes[1 : n * T + 1].reshape(n, T).sum(axis=1, dtype=np.int64)
        self._ids, self._n_bytes = [ids[n * T :].copy()], [n_bytes[n * T :].copy()]
        return PackedRows(rows, row_bytes)


def bits_per_byte(total_nats: float, n_bytes: int) -> float:
    """Summed cross-entropy in nats over targets that stand for `n_bytes` of text, in bits per byte.

    NaN without bytes.
    """
    return total_nats / math.log(2) / n_bytes if n_bytes else math.nan
