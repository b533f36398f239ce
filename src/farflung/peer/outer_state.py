"""Anchor and momentum of one node, and the outer step on wire bytes.

Owner: the agent's apply loop. The candidate is never materialised: a vote streams step and hash,
the commit recomputes the step in place from the kept bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from farflung.averaging.reduce import ChunkGrid
from farflung.checkpoint.snapshot import leaf_count
from farflung.config.run import OuterSpec
from farflung.errors import CorruptState
from farflung.hashing import merkle_root
from farflung.ids import Hash
from farflung.network.messages import Slice
from farflung.outer.codecs import get_codec
from farflung.outer.fragments import Fragment, Fragments, cut, gather, make_fragments, scatter, size
from farflung.outer.layout import Layout
from farflung.outer.nesterov import outer_step
from farflung.outer.state_hash import LEAF_ELEMENTS, candidate_hash, fragment_leaves
from farflung.swarm.records import SliceHash

Float32 = npt.NDArray[np.float32]


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

    def elements(self, fragment: int) -> int:
        return size(self.fragments[fragment])

    def grid(self, fragment: int) -> ChunkGrid:
        return ChunkGrid(self.elements(fragment), self.outer.chunk_elements, self.codec)

    @property
    def root(self) -> Hash:
        return merkle_root(self.hashes)

    def anchor_of(self, fragment: int) -> Float32:
        return gather(self.anchor, self.fragments[fragment])

    def momentum_of(self, fragment: int) -> Float32:
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

    def decode(
        self, fragment: int, slices: Sequence[Slice | SliceHash], results: Sequence[bytes]
    ) -> Float32:
        """The averaged pseudo-gradient of a fragment from its slices' wire bytes.

        Raises CorruptState when sizes do not fit or a value is not finite.
        """
        grid = self.grid(fragment)
        out = np.empty(grid.elements, np.float32)
        for place, data in zip(slices, results, strict=True):
            if len(data) != grid.bytes_between(place.first, place.stop):
                raise CorruptState(f"slice [{place.first}, {place.stop}) has {len(data)} bytes")
            chunks = grid.split(memoryview(data), place.first, place.stop)
            for chunk, encoded in enumerate(chunks, place.first):
                at = chunk * grid.chunk_elements
                self.codec.decode(encoded, out[at : at + grid.elements_of(chunk)])
        if not np.isfinite(out).all():
            raise CorruptState("the averaged fragment holds non-finite values")
        return out

    def candidate(self, fragment: int, gradient: Float32, lr: int, momentum: int) -> Hash:
        """Hash that the fragment would have after the outer step. Changes nothing."""
        return candidate_hash(
            self.anchor_of(fragment), self.momentum_of(fragment), gradient, lr, momentum
        )

    def step(self, fragment: int, gradient: Float32, lr: int, momentum: int) -> Hash:
        """Apply the outer step to one fragment; returns its new hash. Scalars are fp32 bits."""
        anchor, moment = self.anchor_of(fragment), self.momentum_of(fragment)
        outer_step(anchor, moment, gradient, lr, momentum, out_anchor=anchor, out_momentum=moment)
        scatter(anchor, self.anchor, self.fragments[fragment])
        scatter(moment, self.momentum, self.fragments[fragment])
        self.note(fragment, fragment_leaves(anchor, moment))
        return self.hashes[fragment]
