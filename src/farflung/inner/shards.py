"""Which part of everything a rank holds: rows of a batch, rows of a parameter, ranges. No torch.

A rank is one process of a peer that trains on several devices. FSDP2 cuts a parameter along its
first dimension into `world` pieces of equal height, the last ones lower or empty (`torch.chunk`),
so what a rank holds of a parameter is one contiguous range of its flat elements.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from farflung.errors import ConfigError, UserError

MOST_RANKS = 64
"""Of one peer: a message carries at most 253 descriptors, and one machine has fewer GPUs."""


@dataclass(frozen=True)
class RankPlace:
    """This process among the ranks of its peer."""

    rank: int = 0
    world: int = 1
    local: int = 0
    """Index of its device on this machine."""

    @property
    def leads(self) -> bool:
        """Rank 0 talks with the agent."""
        return self.rank == 0

    def part(self, batch: Sequence[int]) -> list[int]:
        """This rank's rows of an inner batch: equal, contiguous parts in the order of ranks."""
        rows = len(batch) // self.world
        return list(batch[self.rank * rows : (self.rank + 1) * rows])


ALONE = RankPlace()


def place_from_environment(env: Mapping[str, str] = os.environ) -> RankPlace:
    """RANK, WORLD_SIZE and LOCAL_RANK, as torchrun and the agent set them; alone without.

    Raises UserError for values that are no place, and for ranks on several machines.
    """
    rank, world = env.get("RANK", "0"), env.get("WORLD_SIZE", "1")
    local, here = env.get("LOCAL_RANK", rank), env.get("LOCAL_WORLD_SIZE", world)
    if not all(text.isdigit() for text in (rank, world, local, here)) or int(rank) >= int(world):
        raise UserError(f"RANK={rank!r} must be a number below WORLD_SIZE={world!r}")
    if here != world:
        raise UserError(
            f"{world} ranks of which {here} are on this machine: the ranks of a peer share memory "
            f"with their agent; start one peer on each machine"
        )
    return RankPlace(int(rank), int(world), int(local))


def check_rows(batch_rows: int, world: int) -> None:
    """ConfigError when a batch cannot be cut into equal parts."""
    if batch_rows % world:
        fitting = [str(n) for n in range(1, batch_rows + 1) if batch_rows % n == 0]
        raise ConfigError(
            f"inner.batch_rows={batch_rows} must be a multiple of this peer's {world} ranks; take "
            f"part with {', '.join(fitting[:-1]) + ' or ' if fitting[1:] else ''}{fitting[-1]}"
        )


def shard_rows(height: int, rank: int, world: int) -> tuple[int, int]:
    """[first, stop) of the rows that a rank holds of a parameter with `height` rows."""
    step = -(-height // world)
    first = min(height, rank * step)
    return first, min(height, first + step)


def shard_range(shape: Sequence[int], rank: int, world: int) -> tuple[int, int]:
    """[first, stop) of the parameter's flat elements that a rank holds."""
    width = 1
    for size in shape[1:]:
        width *= size
    first, stop = shard_rows(shape[0], rank, world)
    return first * width, stop * width


@dataclass(frozen=True)
class HeldPiece:
    """A range that this process holds of a fragment."""

    parameter: int
    """Its place in the layout."""
    first: int
    """Inside the local elements of that parameter."""
    stop: int
    at: int
    """Where it begins in the fragment's own vector."""


def held_pieces(
    ranges: Sequence[tuple[int, int]],
    offsets: Sequence[int],
    held: Sequence[tuple[int, int]],
) -> Iterator[HeldPiece]:
    """The parts of a fragment's `ranges` that lie in what this process holds, in order.

    `offsets`: where each parameter begins in the flat vector, and its end. `held`: per parameter
    the range of its flat elements that is here.
    """
    at = 0
    for first, last in ranges:
        index = bisect_right(offsets, first) - 1
        while first < last:
            base, end = offsets[index], min(last, offsets[index + 1])
            if first < end:
                here, gone = held[index]
                begin, stop = max(first, base + here), min(end, base + gone)
                if begin < stop:
                    shift = base + here
                    yield HeldPiece(index, begin - shift, stop - shift, at + begin - first)
                at += end - first
                first = end
            index += 1
