"""Run in each of several ranks: what the ranks do together, against one process.

RANK=0 WORLD_SIZE=2 python rank_checks.py CHECK STORE FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from farflung.config.run import InnerSpec, ModelSpec
from farflung.inner.flat import FlatParameters
from farflung.inner.loss import model_loss
from farflung.inner.optimizer import InnerOptimizer, build_optimizer
from farflung.inner.optimizer_state import collect, install, write
from farflung.inner.parallel import LastReduces, rank_mesh, sharded_model, start_ranks, stop_ranks
from farflung.inner.sharded_state import collect_parts, install_parts, write_parts
from farflung.inner.shards import RankPlace, place_from_environment
from farflung.model.llama import Llama, init_weights
from farflung.model.presets import config_of_spec

CONFIG = config_of_spec(ModelSpec(preset="demo"), vocab=250, seq_len=16)
"""250 rows of the embedding: neither two nor four ranks cut it evenly into equal heights."""
ROWS, MICRO, STEPS = 8, 1, 3


class Pair:
    """The same model twice: whole in this process, and sharded over the ranks."""

    def __init__(self, place: RankPlace, optimizer: str) -> None:
        inner = InnerSpec(batch_rows=ROWS, optimizer=optimizer, clip_norm=0.5)  # type: ignore[arg-type]
        self.place, self.inner = place, inner
        self.whole = Llama(CONFIG)
        init_weights(self.whole, 3)
        self.sharded = sharded_model(CONFIG, torch.device("cpu"), place.world)
        self.sharded.model.checkpointed = 1  # a block that is computed again changes nothing
        self.flat_whole = FlatParameters(self.whole)
        self.flat = FlatParameters(self.sharded, place=place)
        assert self.flat.entries == self.flat_whole.entries
        self.anchor = np.empty(self.flat.size, np.float32)
        self.flat_whole.read([(0, self.flat.size)], self.anchor)
        self.flat.land([(0, self.flat.size)], "overwrite", self.anchor)
        self.of_whole = build_optimizer(self.whole, inner)
        self.of_shards = build_optimizer(self.sharded, inner)
        self.reduces = LastReduces(self.sharded)
        self.rng = torch.Generator().manual_seed(7)

    def step(self) -> tuple[float, float]:
        """(loss of the whole, mean of the ranks' losses)."""
        block = torch.randint(250, (ROWS, 17), generator=self.rng)
        mine = torch.tensor(self.place.part(list(range(ROWS))))
        whole = train(self.whole, self.of_whole, block, ROWS)
        self.reduces.begin(len(mine) // MICRO)
        part = torch.tensor(train(self.sharded, self.of_shards, block[mine], MICRO))
        dist.all_reduce(part)
        return whole, float(part) / self.place.world

    def difference(self) -> float:
        """Largest difference of a parameter."""
        ours, theirs = self.gathered(), np.empty_like(self.anchor)
        self.flat_whole.read([(0, self.flat.size)], theirs)
        return float(np.abs(ours - theirs).max())

    def gathered(self) -> np.ndarray:
        """What all ranks together write of the vector."""
        found = np.full(self.flat.size, np.nan, np.float32)
        self.flat.read([(0, self.flat.size)], found)
        mine = torch.from_numpy(np.nan_to_num(found))
        dist.all_reduce(mine)
        return mine.numpy()


def train(model: torch.nn.Module, optimizer: InnerOptimizer, block: torch.Tensor, micro: int):  # type: ignore[no-untyped-def]
    optimizer.zero_grad()
    total = 0.0
    for rows in block.split(micro):
        loss = model_loss(model, rows[:, :-1], rows[:, 1:].contiguous())
        (loss * len(rows) / len(block)).backward()
        total += float(loss.detach()) * len(rows) / len(block)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()
    return total


def check_step(place: RankPlace, _: Path, optimizer: str) -> None:
    """A step of shards is the step of the whole, up to the order of sums."""
    pair = Pair(place, optimizer)
    assert (pair.gathered() == pair.anchor).all()
    for _step in range(STEPS):
        whole, ranks = pair.step()
        assert abs(whole - ranks) < 2e-5 * whole, (whole, ranks)
    assert pair.difference() < (5e-5 if optimizer == "adamw" else 2e-4), pair.difference()


def check_landings(place: RankPlace, _: Path) -> None:
    """Every landing gives the bits of the whole vector, also after an evaluation."""
    pair = Pair(place, "adamw")
    n = pair.flat.size
    ranges = [(5, n // 3), (n // 2, n - 7)]
    size = sum(b - a for a, b in ranges)
    rng = np.random.default_rng(1)
    for operation in ("carry", "blend", "rebase", "overwrite"):
        with torch.no_grad():  # leaves the root's parameters gathered
            rows = torch.randint(250, (1, 17), generator=pair.rng)
            model_loss(pair.sharded, rows[:, :-1], rows[:, 1:].contiguous())
        values = rng.standard_normal(size).astype(np.float32)
        pair.flat.land(ranges, operation, values, 0.25)  # type: ignore[arg-type]
        pair.flat_whole.land(ranges, operation, values, 0.25)  # type: ignore[arg-type]
        assert pair.difference() == 0.0, operation
        loss = model_loss(pair.sharded, rows[:, :-1], rows[:, 1:].contiguous())
        there = model_loss(pair.whole, rows[:, :-1], rows[:, 1:].contiguous())
        assert abs(float(loss.detach()) - float(there.detach())) < 1e-4, operation
        loss.backward()


def check_save(place: RankPlace, folder: Path, optimizer: str) -> None:
    """The file of several ranks is the file of one process."""
    pair = Pair(place, optimizer)
    for _step in range(2):
        pair.step()
    state = collect_parts(pair.flat, pair.of_shards, 5)
    write_parts(state, folder / "ranks.state", leads=place.leads)
    dist.barrier()
    if place.leads:
        install(pair.flat_whole, pair.of_whole, folder / "ranks.state")
        write(collect(pair.flat_whole, pair.of_whole, 5), folder / "again.state")
        assert (folder / "again.state").read_bytes() == (folder / "ranks.state").read_bytes()


def check_load(place: RankPlace, folder: Path, optimizer: str) -> None:
    """A state that another number of ranks has saved goes on as it would there."""
    pair = Pair(place, optimizer)
    install(pair.flat_whole, pair.of_whole, folder / "ranks.state")
    install_parts(pair.flat, pair.of_shards, folder / "ranks.state")
    pair.step()
    assert pair.difference() < 1e-4, pair.difference()


def check_refusals(place: RankPlace, _: Path) -> None:
    """A module that is sharded otherwise is refused in a sentence."""
    from torch.distributed.tensor import Shard, distribute_tensor

    from farflung.errors import MismatchError

    model = torch.nn.Linear(4, 4, bias=False)
    mesh = rank_mesh(torch.device("cpu"), place.world)
    model.weight = torch.nn.Parameter(distribute_tensor(model.weight.detach(), mesh, [Shard(1)]))
    with pytest.raises(MismatchError, match="without tensor"):
        FlatParameters(model, place=place)


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    place = place_from_environment()
    start_ranks(place)
    check, _, argument = name.partition("-")
    globals()[f"check_{check}"](place, folder, *([argument] if argument else []))
    stop_ranks()


if __name__ == "__main__":
    main()
