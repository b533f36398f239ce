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
from farflung.data.mixture import Change
from farflung.data.row_reader import Alive, RowReader, nobody_fetches
from farflung.data.samples import Places, SampleOrder
from farflung.data.shards import Rows, open_sources
from farflung.errors import ConfigError, CorruptState
from farflung.inner.channel import ENV_SOCKET, ENV_THREADS
from farflung.inner.optimizer import InnerOptimizer, build_optimizer
from farflung.inner.options import StepOptions
from farflung.inner.shards import ALONE, RankPlace, check_rows
from farflung.inner.step import Stepper
from farflung.model.llama import Llama, init_weights
from farflung.model.presets import config_of_spec

Block = npt.NDArray[np.int64]
"""int64 [B, T + 1]: inputs are [:, :-1], targets [:, 1:]."""


class Source(Protocol):
    """Rows by position in the run's order."""

    def block(self, positions: Sequence[int]) -> Block: ...

    def expect(self, positions: Sequence[int], changes: Sequence[Change]) -> None:
        """What comes next, in order: it may be read ahead. `changes` of the mixture so far."""


class ShardSource:
    """Rows of the run's sources in its keyed order, read ahead."""

    def __init__(self, rows: Rows, spec: RunSpec, data_dir: Path, alive: Alive) -> None:
        self._order = SampleOrder(spec, [len(table) for table in rows.sources])
        window = spec.data.window_blocks
        self._reader = RowReader(data_dir, rows.chunks, window_blocks=window, alive=alive)

    def block(self, positions: Sequence[int]) -> Block:
        return self._reader.gather([self._order.locate(p) for p in positions])

    def expect(self, positions: Sequence[int], changes: Sequence[Change]) -> None:
        self._order.follow(changes)
        self._reader.expect(Places(self._order, positions))


class SyntheticSource:
    """Rows that follow from source and number: each repeats a short random phrase, so that there
    is something to learn."""

    PHRASE = 16

    def __init__(self, spec: RunSpec, vocab: int) -> None:
        self._order = SampleOrder(spec, [part.rows for part in spec.data.parts])
        self._length = spec.data.seq_len + 1
        self._vocab = vocab

    def block(self, positions: Sequence[int]) -> Block:
        return np.stack([self._row(*self._order.locate(p)) for p in positions])

    def expect(self, positions: Sequence[int], changes: Sequence[Change]) -> None:
        """Rows are made when they are needed."""
        del positions
        self._order.follow(changes)

    def _row(self, source: int, row: int) -> Block:
        key = np.array([row, source], np.uint64)
        phrase = np.random.Generator(np.random.Philox(key=key)).integers(
            self._vocab, size=self.PHRASE, dtype=np.int64
        )
        return np.resize(phrase, self._length)


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
    place: RankPlace = ALONE
    """Of several ranks: the model holds this one's shards, and all step together."""

    def stepper(self, options: StepOptions) -> Stepper:
        """Raises UserError when float8 is wanted and cannot be had."""
        if self.place.world > 1:
            from farflung.inner.rank_step import RankStepper  # torch.distributed, for ranks only

            return RankStepper(self.model, self.optimizer, self.spec.inner, options, self.device)
        return Stepper(self.model, self.optimizer, self.spec.inner, options, self.device)

    def batch(self, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(inputs, targets), int64 [B, T] each, on the model's device."""
        block = torch.from_numpy(self.source.block(positions)).to(self.device)
        return block[:, :-1], block[:, 1:].contiguous()


def agent_lives() -> Alive:
    """For a program that an agent started: raises once that is gone. Without an agent, at once."""
    if ENV_SOCKET not in os.environ:
        return nobody_fetches
    parent = os.getppid()

    def check() -> None:
        if os.getppid() != parent:
            raise CorruptState("the agent that would fetch it is gone")

    return check


def read_spec(path: str | Path) -> RunSpec:
    """A spec as canonical JSON. Raises ConfigError."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the run spec {path}: {error.strerror}") from None
    return spec_from_bytes(data, f"the run spec {path}")


def build(
    spec: RunSpec, data_dir: Path, *, fresh: bool, cpu: bool = False, place: RankPlace = ALONE
) -> BuiltIn:
    """`fresh`: draw the initial weights (else the anchor will replace what torch put there).
    `cpu`: leave a GPU alone. `place`: of several ranks each gets its shards of the model; they
    have met (inner/parallel.py) and are never fresh.

    Raises ConfigError when preset or data do not fit, CorruptState for damaged shards.
    """
    rows = None if spec.data.synthetic else open_sources(data_dir, spec.data, verify=False)
    vocab = None if rows is None else rows.manifest.vocab
    config = config_of_spec(spec.model, vocab=vocab, seq_len=spec.data.seq_len)
    device = torch.device("cuda" if torch.cuda.is_available() and not cpu else "cpu")
    if place.world > 1:
        from farflung.inner.parallel import sharded_model  # torch.distributed, for ranks only

        check_rows(spec.inner.batch_rows, place.world)
        device = torch.device(f"cuda:{place.local}") if device.type == "cuda" else device
        narrow = spec.inner.autocast != "off"
        model = sharded_model(config, device, place.world, narrow=narrow)
    else:
        model = Llama(config)
        if fresh:
            init_weights(model, spec.seed)
        model.to(device)
    source: Source = SyntheticSource(spec, config.vocab)
    if rows:
        source = ShardSource(rows, spec, data_dir, agent_lives())
    return BuiltIn(spec, model, build_optimizer(model, spec.inner), source, rows, device, place)


def use_threads(default: int = 1) -> None:
    """Torch's CPU threads: FARFLUNG_THREADS, else `default`. Raises ConfigError."""
    text = os.environ.get(ENV_THREADS) or str(default)
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(f"{ENV_THREADS}={text!r} must be a number of at least 1")
    torch.set_num_threads(int(text))
