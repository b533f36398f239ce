"""Anchor and momentum of one node, and the outer step on wire bytes.

Owner: the agent's apply loop. A step is computed beside the state, for a vote or for a commit, and
copied in when the journal has it: a wrong one changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from farflung.averaging.reduce import ChunkGrid
from farflung.checkpoint.snapshot import leaf_count
from farflung.config.run import OuterSpec
from farflung.errors import CorruptState
from farflung.hashing import merkle_root
from farflung.ids import Hash
from farflung.network.messages import Slice
from farflung.outer.candidate import StepAhead, Stepped
from farflung.outer.codecs import get_codec
from farflung.outer.fragments import (
    Fragment,
    Fragments,
    cut,
    gather,
    make_fragments,
    scatter,
    size,
    view_or_gather,
)
from farflung.outer.layout import Layout
from farflung.outer.state_hash import LEAF_ELEMENTS, fragment_leaves
from farflung.swarm.records import Commit, SliceHash

Float32 = npt.NDArray[np.float32]


class SharedAnchor(Protocol):
    """An anchor in memory that a trainer reads (inner/seam.py); writes are bracketed (seqlock)."""

    @property
    def anchor(self) -> Float32: ...

    def begin_write(self, fragment: int) -> None: ...

    def end_write(self, fragment: int) -> None: ...


class OuterState:
    """The state after round `next_round - 1`; `anchor` may be memory shared with a trainer."""

    def __init__(self, layout: Layout, outer: OuterSpec, anchor: Float32 | None = None) -> None:
        self.layout = layout
        self.outer = outer
        self.fragments: Fragments = make_fragments(layout, outer.fragments)
        self.codec = get_codec(outer.codec)
        self.anchor = np.zeros(layout.size, np.float32) if anchor is None else anchor
        self.momentum = np.zeros(layout.size, np.float32)
        self.hashes: list[Hash] = [Hash(bytes(32))] * outer.fragments
        self.leaves: list[tuple[Hash, ...]] = [()] * outer.fragments
        """Hashes of each fragment's chunks; `hashes` are their roots."""
        self.rounds: list[int] = [-1] * outer.fragments
        """Round that wrote each fragment; -1 is genesis."""
        self.next_round = 0
        self.shared: SharedAnchor | None = None

    def share(self, shared: SharedAnchor) -> None:
        """From now on the anchor is that memory; what it held counts for nothing."""
        self.shared, self.anchor = shared, shared.anchor

    def elements(self, fragment: int) -> int:
        return size(self.fragments[fragment])

    def grid(self, fragment: int) -> ChunkGrid:
        return ChunkGrid(self.elements(fragment), self.outer.chunk_elements, self.codec)

    @property
    def root(self) -> Hash:
        return merkle_root(self.hashes)

    def anchor_view(self, fragment: int) -> Float32:
        """For reading while nobody writes: see `view_or_gather`."""
        return view_or_gather(self.anchor, self.fragments[fragment])

    def anchor_of(self, fragment: int) -> Float32:
        """A copy."""
        return gather(self.anchor, self.fragments[fragment])

    def momentum_of(self, fragment: int) -> Float32:
        """A copy."""
        return gather(self.momentum, self.fragments[fragment])

    def put(self, fragment: int, round_: int, anchor: Float32, momentum: Float32) -> None:
        """Install one fragment of a snapshot."""
        scatter(anchor, self.anchor, self.fragments[fragment])
        scatter(momentum, self.momentum, self.fragments[fragment])
        self.note(fragment, fragment_leaves(anchor, momentum))
        self.rounds[fragment] = round_

    def note(self, fragment: int, leaves: Sequence[Hash]) -> None:
        """The fragment holds chunks with these hashes."""
        self.leaves[fragment] = tuple(leaves)
        self.hashes[fragment] = merkle_root(leaves)

    def chunk(self, fragment: int, index: int) -> tuple[Float32, Fragment]:
        """(vector, its ranges) of a fragment's index-th chunk: the anchor's, then the momentum's.

        The chunks are the leaves of the fragment's hash.
        """
        count = leaf_count(self.elements(fragment))
        first = index % count * LEAF_ELEMENTS
        ranges = cut(self.fragments[fragment], first, first + LEAF_ELEMENTS)
        return self.anchor if index < count else self.momentum, ranges

    def ahead(self, fragment: int, lr: int, momentum: int) -> StepAhead:
        """An outer step on the fragment as it is now, to be fed with slices. Scalars: fp32 bits."""
        return StepAhead(self.anchor, self.momentum, self.fragments[fragment], lr, momentum)

    def feed(self, ahead: StepAhead, fragment: int, place: Slice | SliceHash, data: bytes) -> None:
        """Decode one slice's wire bytes chunk by chunk and step with it. Changes nothing here.

        Raises CorruptState when the size does not fit or a value is not finite.
        """
        grid = self.grid(fragment)
        if len(data) != grid.bytes_between(place.first, place.stop):
            raise CorruptState(f"slice [{place.first}, {place.stop}) has {len(data)} bytes")
        scratch = np.empty(grid.elements_of(place.first), np.float32)
        for chunk, encoded in enumerate(
            grid.split(memoryview(data), place.first, place.stop), place.first
        ):
            gradient = scratch[: grid.elements_of(chunk)]
            self.codec.decode(encoded, gradient)
            if not np.isfinite(gradient).all():
                raise CorruptState("the averaged fragment holds non-finite values")
            ahead.add(chunk * grid.chunk_elements, gradient)

    def stepped(self, commit: Commit, results: Sequence[bytes]) -> Stepped:
        """The commit's fragment after its outer step, from the slices' wire bytes.

        Raises CorruptState as `feed`.
        """
        ahead = self.ahead(commit.fragment, commit.outer_lr, commit.outer_momentum)
        for place, data in zip(commit.slices, results, strict=True):
            self.feed(ahead, commit.fragment, place, data)
        return ahead.finish()

    def root_with(self, fragment: int, new: Hash) -> Hash:
        """The state root if this fragment had this hash."""
        return merkle_root([new if i == fragment else h for i, h in enumerate(self.hashes)])

    def write(self, fragment: int, new: Stepped) -> None:
        """Copy the step's outcome into the state, at memory speed. The caller notes its leaves."""
        scatter(new.anchor, self.anchor, self.fragments[fragment])
        scatter(new.momentum, self.momentum, self.fragments[fragment])
