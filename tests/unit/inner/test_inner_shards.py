"""What a rank holds: rows of batches and parameters, ranges of fragments, matrices of Muon."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from farflung.errors import ConfigError, UserError
from farflung.inner.owners import assign_owners, buckets
from farflung.inner.shards import (
    RankPlace,
    check_rows,
    held_pieces,
    place_from_environment,
    shard_range,
    shard_rows,
)

worlds = st.integers(1, 9)


@given(st.integers(0, 40), worlds)
def test_rows_are_cut_as_torch_cuts_them(height: int, world: int) -> None:
    """FSDP2 chunks with torch.chunk; ranks behind the last chunk hold nothing."""
    pieces = [list(range(*shard_rows(height, rank, world))) for rank in range(world)]
    chunks = [c.tolist() for c in torch.arange(height).chunk(world)] if height else []
    assert pieces == [*chunks, *([[]] * (world - len(chunks)))]


def test_a_shard_is_one_range_of_the_flat_elements() -> None:
    assert [shard_range((5, 2, 3), rank, 2) for rank in range(2)] == [(0, 18), (18, 30)]
    assert [shard_range((3,), rank, 4) for rank in range(4)] == [(0, 1), (1, 2), (2, 3), (3, 3)]


shapes = st.lists(st.tuples(st.integers(1, 7), st.integers(1, 4)), min_size=1, max_size=6)


@given(shapes, worlds, st.data())
def test_the_ranks_pieces_of_a_fragment_are_its_elements_once(
    sizes: list[tuple[int, int]], world: int, data: st.DataObject
) -> None:
    offsets = [0, *accumulate(a * b for a, b in sizes)]
    cuts = sorted(data.draw(st.sets(st.integers(0, offsets[-1]), max_size=6)))
    ranges = list(zip(cuts[::2], cuts[1::2], strict=False))
    flat = [n for first, stop in ranges for n in range(first, stop)]
    found: dict[int, int] = {}
    for rank in range(world):
        held = [shard_range(shape, rank, world) for shape in sizes]
        for piece in held_pieces(ranges, offsets, held):
            base = offsets[piece.parameter] + held[piece.parameter][0]
            for step in range(piece.stop - piece.first):
                assert piece.at + step not in found
                found[piece.at + step] = base + piece.first + step
    assert [found[i] for i in range(len(flat))] == flat


@given(worlds, st.integers(1, 5))
def test_the_ranks_rows_of_a_batch_are_the_batch_in_order(world: int, rows: int) -> None:
    batch = list(range(100, 100 + world * rows))
    parts = [RankPlace(rank, world).part(batch) for rank in range(world)]
    assert [row for part in parts for row in part] == batch
    assert {len(part) for part in parts} == {rows}


def test_a_batch_that_cannot_be_cut_is_refused_with_what_fits() -> None:
    check_rows(8, 4)
    with pytest.raises(ConfigError, match=r"batch_rows=6 must be a multiple.* 4 ranks.*1, 2, 3 or"):
        check_rows(6, 4)


def test_the_place_is_read_from_the_launchers_variables() -> None:
    assert place_from_environment({}) == RankPlace(0, 1, 0)
    torchrun = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    assert place_from_environment(torchrun) == RankPlace(1, 2, 1)
    with pytest.raises(UserError, match="start one peer on each machine"):
        place_from_environment(torchrun | {"WORLD_SIZE": "4"})
    with pytest.raises(UserError, match="below WORLD_SIZE"):
        place_from_environment({"RANK": "2", "WORLD_SIZE": "2"})


matrices = st.lists(st.tuples(st.integers(1, 64), st.integers(1, 64)), max_size=30)


@given(matrices, worlds)
def test_no_owner_has_more_than_the_mean_and_one_matrix(
    found: list[tuple[int, int]], world: int
) -> None:
    owners = assign_owners(found, world)
    costs = [r * c * min(r, c) for r, c in found]
    load = [sum(c for c, o in zip(costs, owners, strict=True) if o == k) for k in range(world)]
    assert max(load) <= sum(costs) / world + max(costs, default=0)


def test_equal_matrices_are_dealt_out_evenly() -> None:
    assert assign_owners([(4, 4)] * 5, 2) == [0, 1, 0, 1, 0]


def test_matrices_travel_in_buckets_of_a_bounded_size() -> None:
    assert list(buckets([(4, 4), (4, 4), (9, 9), (1, 2)], limit=32)) == [[0, 1], [2], [3]]
    assert list(buckets([])) == []
