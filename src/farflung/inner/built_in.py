"""The built-in program's parts: model, optimizer and rows of a run spec.

Shape suffixes: B rows of a batch, T = seq_len.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from farflung.config.run import RunSpec, spec_from_bytes
from farflung.data.order import Order
from farflung.data.shards import Rows, open_rows
from farflung.errors import ConfigError
from farflung.inner.channel import ENV_THREADS
from farflung.inner.optimizer import InnerOptimizer, build_optimizer
from farflung.model.llama import Llama, init_weights
from farflung.model.presets import preset

Block = npt.NDArray[np.int64]
"""int64 [B, T + 1]: inputs are [:, :-1], targets [:, 1:]."""


class Source(Protocol):
    """Rows by position in the run's order."""

    def block(self, positions: Sequence[int]) -> Block: ...


class ShardSource:
    """Rows of a data folder in the keyed order of the run."""

    def __init__(self, rows: Rows, spec: RunSpec) -> None:
        self._table = rows.train
        self._order = Order(len(rows.train), order_seed(spec))

    def block(self, positions: Sequence[int]) -> Block:
        return self._table.gather([self._order.row(p) for p in positions])


class SyntheticSource:
    """Rows that follow from their number: each repeats a short random phrase, so that there is
    something to learn."""

    PHRASE = 16

    def __init__(self, spec: RunSpec, vocab: int) -> None:
        self._order = Order(spec.data.rows, order_seed(spec))
        self._length = spec.data.seq_len + 1
        self._vocab = vocab

    def block(self, positions: Sequence[int]) -> Block:
        return np.stack([self._row(self._order.row(p)) for p in positions])

    def _row(self, row: int) -> Block:
        phrase = np.random.Generator(np.random.Philox(key=row)).integers(
            self._vocab, size=self.PHRASE, dtype=np.int64
        )
        return np.resize(phrase, self._length)


def order_seed(spec: RunSpec) -> int:
    """Key of the run's order of rows: the data's seed and the run's."""
    return (spec.seed << 32) + spec.data.seed


@dataclass(frozen=True)
class BuiltIn:
    """Everything that a training loop needs."""

    spec: RunSpec
    model: Llama
    optimizer: InnerOptimizer
    source: Source
    rows: Rows | None
    """None for synthetic data."""
    device: torch.device

    def batch(self, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(inputs, targets), int64 [B, T] each, on the model's device."""
        block = torch.from_numpy(self.source.block(positions)).to(self.device)
        return block[:, :-1], block[:, 1:].contiguous()


def read_spec(path: str | Path) -> RunSpec:
    """A spec as canonical JSON. Raises ConfigError."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the run spec {path}: {error.strerror}") from None
    return spec_from_bytes(data, f"the run spec {path}")


def build(spec: RunSpec, data_dir: Path, *, fresh: bool, cpu: bool = False) -> BuiltIn:
    """`fresh`: draw the initial weights (else the anchor will replace what torch put there).
    `cpu`: leave a GPU alone.

    Raises ConfigError when preset or data do not fit, CorruptState for damaged shards.
    """
    rows = None if spec.data.source == "synthetic" else open_rows(data_dir, verify=False)
    vocab = None if rows is None else rows.manifest.vocab
    if rows is not None and rows.manifest.seq_len != spec.data.seq_len:
        raise ConfigError(
            f"data.seq_len={spec.data.seq_len}, but {data_dir} holds rows of "
            f"{rows.manifest.seq_len}; prepare the data again or set data.seq_len"
        )
    config = preset(spec.model.preset, vocab=vocab, seq_len=spec.data.seq_len)
    model = Llama(config)
    if fresh:
        init_weights(model, spec.seed)
    device = torch.device("cuda" if torch.cuda.is_available() and not cpu else "cpu")
    model.to(device)
    source = ShardSource(rows, spec) if rows else SyntheticSource(spec, config.vocab)
    return BuiltIn(spec, model, build_optimizer(model, spec.inner), source, rows, device)


def use_threads(default: int = 1) -> None:
    """Torch's CPU threads: FARFLUNG_THREADS, else `default`. Raises ConfigError."""
    text = os.environ.get(ENV_THREADS) or str(default)
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(f"{ENV_THREADS}={text!r} must be a number of at least 1")
    torch.set_num_threads(int(text))
