"""A small fragment, its contributors, and their attempt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from farflung.averaging.plan import cut_slices
from farflung.averaging.reduce import ChunkGrid, EncodedChunks
from farflung.hashing import digest, merkle_root
from farflung.network.messages import Attempt, Candidate, Included, Member, Verdict
from farflung.outer.codecs import get_codec

ELEMENTS, CHUNK = 1100, 256
ONE = 0x3F800000
Float32 = npt.NDArray[np.float32]


def grid(codec: str = "int8") -> ChunkGrid:
    return ChunkGrid(ELEMENTS, CHUNK, get_codec(codec))


def values(seed: int) -> Float32:
    return np.random.default_rng(seed).normal(size=ELEMENTS).astype(np.float32)


def encoded(x: Float32, codec: str = "int8") -> list[bytes]:
    g = grid(codec)
    return [
        get_codec(codec).encode(x[c * CHUNK : c * CHUNK + g.elements_of(c)])
        for c in range(g.chunks)
    ]


def hashed(chunks: Sequence[bytes]) -> EncodedChunks:
    return EncodedChunks(chunks, tuple(digest(c) for c in chunks))


def decoded(chunks: Sequence[bytes], codec: str = "int8") -> Float32:
    g = grid(codec)
    out = np.empty(ELEMENTS, np.float32)
    for c, data in enumerate(chunks):
        get_codec(codec).decode(data, out[c * CHUNK : c * CHUNK + g.elements_of(c)])
    return out


def included(weights: dict[str, int], clip: int = ONE) -> list[Included]:
    return [Included(node=n, weight=w, clip=clip) for n, w in weights.items()]


def attempt(
    chunks: dict[str, list[bytes]], owners: Sequence[str], members: Sequence[str], s: float = 10.0
) -> Attempt:
    return Attempt(
        term=1,
        round=3,
        attempt=1,
        fragment=0,
        candidates=tuple(
            Candidate(node=n, generation=1, commitment=merkle_root([digest(c) for c in cs]))
            for n, cs in chunks.items()
        ),
        slices=cut_slices(grid().chunks, {o: 1 / len(owners) for o in owners}),
        members=tuple(Member(node=m, endpoints=()) for m in members),
        deadline_s=s,
    )


def verdict(weights: dict[str, int]) -> Verdict:
    return Verdict(
        term=1,
        round=3,
        attempt=1,
        included=tuple(included(weights)),
        divisor=sum(weights.values()),
    )
