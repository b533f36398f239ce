"""Muon over matrices that FSDP2 has sharded: owner-computes.

Newton-Schulz needs whole matrices, momentum does not. Each rank keeps the momentum of its own rows;
each matrix has one owner, which gets its rows in one all-to-all, orthogonalises all of its matrices
in batches of equal shapes, and sends the rows back in a second one. So a matrix crosses the wire
twice and is orthogonalised once, where the plain form over DTensors gathers it for every product
and repeats the work on every rank.

    torch.optim.Muon over shards    15 all-gathers a matrix, the work times `world`
    this                            2 all-to-alls for some hundred matrices

The update is the one of `Muon` (inner/optimizer.py). Shape suffix: R rows, C columns.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from farflung.errors import ConfigError
from farflung.inner.flat import shard_of
from farflung.inner.optimizer import ParamGroup, orthogonalize
from farflung.inner.owners import assign_owners, buckets
from farflung.inner.shards import shard_rows


class ShardedMuon(Optimizer):
    """Muon whose matrices are DTensors with `Shard(0)`. State: `momentum_buffer`, sharded alike.

    Raises ConfigError for another shape. All ranks must step together.
    """

    STATE_KIND = "Muon"
    """Its state is that of the plain one: either loads the other's."""

    def __init__(
        self, params: Iterable[nn.Parameter], *, lr: float, momentum: float, weight_decay: float
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, defaults)
        for parameter in (p for group in self.param_groups for p in group["params"]):
            if parameter.ndim != 2 or not hasattr(parameter, "to_local"):
                raise ConfigError(
                    f"sharded muon needs sharded matrices, not a parameter of shape "
                    f"{tuple(parameter.shape)}; use adamw"
                )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient; takes no closure."""
        assert closure is None, "ShardedMuon.step takes no closure"
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            shapes = [(p.shape[0], p.shape[1]) for p in params]
            for members in buckets(shapes):
                self._update([params[i] for i in members], group)

    def _update(self, params: list[Tensor], group: ParamGroup) -> None:
        exchange = _Exchange.of(params)
        mine = [shard_of(p) for p in params]
        directions = exchange.orthogonalized(self._momentum(params, group["momentum"]))
        torch._foreach_mul_(mine, 1.0 - group["lr"] * group["weight_decay"])
        for parameter, shard, direction in zip(params, mine, directions, strict=True):
            rows, columns = parameter.shape
            shard.add_(direction, alpha=-group["lr"] * math.sqrt(max(1.0, rows / columns)))

    def _momentum(self, params: list[Tensor], momentum: float) -> list[Tensor]:
        """The look-ahead of this rank's rows."""
        grads = [shard_of(p.grad) for p in params if p.grad is not None]
        buffers = [shard_of(self._buffer(p)) for p in params]
        torch._foreach_lerp_(buffers, grads, 1.0 - momentum)
        return list(torch._foreach_lerp(grads, buffers, momentum))

    def _buffer(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer: Tensor = state["momentum_buffer"]
        return buffer


@dataclass(frozen=True)
class _Exchange:
    """Rows to the owners of their matrices and back."""

    shapes: list[tuple[int, int]]
    owners: list[int]
    rank: int
    world: int
    group: Any

    @classmethod
    def of(cls, params: Sequence[Tensor]) -> _Exchange:
        mesh = cast("Any", params[0]).device_mesh
        last = mesh.ndim - 1
        shapes = [(p.shape[0], p.shape[1]) for p in params]
        world = mesh.size(last)
        owners = assign_owners(shapes, world)
        return cls(shapes, owners, mesh.get_local_rank(last), world, mesh.get_group(last))

    def orthogonalized(self, shards: Sequence[Tensor]) -> list[Tensor]:
        """This rank's rows of each matrix, orthogonalised; fp32 on CPUs, else bf16."""
        dtype = torch.float32 if shards[0].device.type == "cpu" else torch.bfloat16
        narrow = [s.to(dtype).reshape(-1) for s in shards]
        outgoing = torch.cat([narrow[i] for rank in range(self.world) for i in self._of(rank)])
        to_owners = [self._elements(self.rank, owner) for owner in range(self.world)]
        from_ranks = [self._elements(rank, self.rank) for rank in range(self.world)]
        arrived = outgoing.new_empty(sum(from_ranks))
        dist.all_to_all_single(arrived, outgoing, from_ranks, to_owners, group=self.group)
        results = orthogonalize_all(self._assembled(arrived))
        back = torch.cat([arrived.new_empty(0), *self._disassembled(results)])
        returned = outgoing
        dist.all_to_all_single(returned, back, to_owners, from_ranks, group=self.group)
        return self._mine(returned, shards)

    def _of(self, owner: int) -> list[int]:
        return [index for index, o in enumerate(self.owners) if o == owner]

    def _rows(self, index: int, rank: int) -> tuple[int, int]:
        return shard_rows(self.shapes[index][0], rank, self.world)

    def _elements(self, rank: int, owner: int) -> int:
        """What this rank holds of that owner's matrices."""
        total = 0
        for index in self._of(owner):
            first, stop = self._rows(index, rank)
            total += (stop - first) * self.shapes[index][1]
        return total

    def _assembled(self, arrived: Tensor) -> list[Tensor]:
        """My matrices; `arrived` holds each rank's rows of all of them, rank after rank."""
        mine = self._of(self.rank)
        pieces: list[list[Tensor]] = [[] for _ in mine]
        at = 0
        for rank in range(self.world):
            for place, index in enumerate(mine):
                first, stop = self._rows(index, rank)
                columns = self.shapes[index][1]
                end = at + (stop - first) * columns
                pieces[place].append(arrived[at:end].view(stop - first, columns))
                at = end
        return [torch.cat(rows) for rows in pieces]

    def _disassembled(self, matrices: Sequence[Tensor]) -> list[Tensor]:
        mine = self._of(self.rank)
        return [
            matrix[slice(*self._rows(index, rank))].reshape(-1)
            for rank in range(self.world)
            for index, matrix in zip(mine, matrices, strict=True)
        ]

    def _mine(self, returned: Tensor, shards: Sequence[Tensor]) -> list[Tensor]:
        found = list(shards)
        at = 0
        for owner in range(self.world):
            for index in self._of(owner):
                end = at + shards[index].numel()
                found[index] = returned[at:end].view(shards[index].shape)
                at = end
        return found


def orthogonalize_all(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Each orthogonalised; a tall matrix as its transpose, equal wide shapes as one batch."""
    batches: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for index, matrix in enumerate(matrices):
        batches[min(matrix.shape), max(matrix.shape)].append(index)
    found = list(matrices)
    for members in batches.values():
        wide = [matrices[i] if _is_wide(matrices[i]) else matrices[i].mT for i in members]
        for index, result in zip(members, orthogonalize(torch.stack(wide)), strict=True):
            found[index] = result if _is_wide(matrices[index]) else result.mT
    return found


def _is_wide(matrix: Tensor) -> bool:
    return matrix.shape[0] <= matrix.shape[1]
