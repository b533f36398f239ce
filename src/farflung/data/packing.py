"""Packs a stream of documents into rows of seq_len + 1 tokens.

legend: T = seq_len, N = rows. With t the tokens of all documents, each followed by end-of-text,
row i is t[i*T .. i*T+T]: neighbours share one token, so every token but the first is predicted
exactly once. The tail that fills no row is left out.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from farflung.data.tokenizer import Encoded, Tokens


class PackedRows(NamedTuple):
    tokens: Tokens
    """int64 [N, T + 1]"""
    n_bytes: Tokens
    """int64 [N]: UTF-8 bytes of the row's T targets (end-of-text has none)."""


class Packer:
    """Feed documents with `add`; `take` hands out the rows completed so far, in order."""

    def __init__(self, seq_len: int, eos: int) -> None:
        self._seq_len = seq_len
        self._eos = np.array([eos], np.int64)
        self._no_bytes = np.zeros(1, np.int64)
        self._ids: list[Tokens] = []
        self._n_bytes: list[Tokens] = []
        self.tokens = 0
        """Seen so far, end-of-text included."""

    def add(self, document: Encoded) -> None:
        self._ids += [document.ids, self._eos]
        self._n_bytes += [document.n_bytes, self._no_bytes]
        self.tokens += len(document.ids) + 1

    def take(self) -> PackedRows:
        T = self._seq_len
        ids = np.concatenate([*self._ids, self._eos[:0]])
        n_bytes = np.concatenate([*self._n_bytes, self._no_bytes[:0]])
        n = max(0, len(ids) - 1) // T
        rows = np.empty((n, T + 1), np.int64)
        rows[:, :T] = ids[: n * T].reshape(n, T)
        rows[:, T] = ids[T : n * T + 1 : T]
        row_bytes = n_bytes[1 : n * T + 1].reshape(n, T).sum(axis=1)
        self._ids, self._n_bytes = [ids[n * T :].copy()], [n_bytes[n * T :].copy()]
        return PackedRows(rows, row_bytes)


def bits_per_byte(total_nats: float, n_bytes: int) -> float:
    """Summed cross-entropy in nats over targets that stand for `n_bytes` of text, in bits per byte.

    NaN without bytes.
    """
    return total_nats / math.log(2) / n_bytes if n_bytes else math.nan
