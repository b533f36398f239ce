"""Claims about kept steps: the same bits as a recomputation, and never used out of place."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import numpy as np
import pytest

from farflung.averaging.plan import cut_slices
from farflung.config.run import OuterSpec
from farflung.errors import CorruptState
from farflung.hashing import digest
from farflung.ids import Hash
from farflung.outer.codecs import get_codec
from farflung.outer.layout import Layout
from farflung.outer.nesterov import bits_of, outer_step
from farflung.outer.state_hash import fragment_hash
from farflung.peer.candidates import Candidates, KeptStep
from farflung.peer.outer_state import OuterState
from farflung.swarm.records import Commit, SliceHash

LR, MU = bits_of(0.7), bits_of(0.9)
LAYOUT = Layout.from_entries([("layers.0.w", (3000,)), ("layers.1.w", (40, 50)), ("head", (777,))])
BASE = Hash(bytes([7]) * 32)


def state(fragments: int, codec: str) -> OuterState:
    outer = OuterSpec(fragments=fragments, codec=codec, chunk_elements=256)
    made, rng = OuterState(LAYOUT, outer), np.random.default_rng(1)
    for flat in (made.anchor, made.momentum):
        flat[:] = rng.standard_normal(LAYOUT.size)
    for i in range(fragments):
        made.hashes[i] = fragment_hash(made.anchor_of(i), made.momentum_of(i))
    return made


def committed(of: OuterState, fragment: int, spoil: float = 0.0) -> tuple[Commit, list[bytes]]:
    """A commit without its hashes, and its result bytes."""
    grid, rng = of.grid(fragment), np.random.default_rng(2)
    gradient = rng.standard_normal(grid.elements).astype(np.float32)
    gradient[-1] += spoil
    encoded = [
        get_codec(of.outer.codec).encode(gradient[at : at + grid.chunk_elements])
        for at in range(0, grid.elements, grid.chunk_elements)
    ]
    slices = cut_slices(grid.chunks, {"a": 0.3, "b": 0.7})
    results = [b"".join(encoded[s.first : s.stop]) for s in slices]
    fields: dict[str, Any] = {
        "term": 1,
        "round": 4,
        "attempt": 2,
        "fragment": fragment,
        "base_round": -1,
        "base_hash": of.hashes[fragment],
        "codec": of.outer.codec,
        "contributors": (),
        "rejected": (),
        "divisor": 1,
        "bytes_root": digest(b"all"),
        "holders": (),
        "votes": (),
        "outer_lr": LR,
        "outer_momentum": MU,
        "fragment_hash": b"",
        "state_root": b"",
        "slices": tuple(
            SliceHash(first=s.first, stop=s.stop, owner=s.owner, hash=digest(r))
            for s, r in zip(slices, results, strict=True)
        ),
    }
    return Commit(**fields), results


@pytest.mark.parametrize("codec", ["fp32", "bf16", "int8", "int8-sigma"])
@pytest.mark.parametrize("fragments", [1, 2, 3])
def test_a_step_fed_in_any_order_and_copied_in_has_the_bits_of_the_step_in_place(
    fragments: int, codec: str
) -> None:
    for fragment in range(fragments):
        mine, before = state(fragments, codec), state(fragments, codec)
        commit, results = committed(mine, fragment)
        ahead = mine.ahead(fragment, LR, MU)
        for index in reversed(range(len(results))):
            mine.feed(ahead, fragment, commit.slices[index], results[index])
        kept, again = ahead.finish(), mine.stepped(commit, results)
        assert mine.anchor.tobytes() == before.anchor.tobytes()
        assert mine.momentum.tobytes() == before.momentum.tobytes()
        assert kept.hash == again.hash
        mine.write(fragment, kept)
        new = kept.anchor
        assert new.tobytes() == mine.anchor_of(fragment).tobytes() == again.anchor.tobytes()
        assert mine.momentum_of(fragment).tobytes() == again.momentum.tobytes()
        assert fragment_hash(new, mine.momentum_of(fragment)) == again.hash
        for other in set(range(fragments)) - {fragment}:
            assert mine.anchor_of(other).tobytes() == before.anchor_of(other).tobytes()


def test_the_step_beside_the_state_is_the_outer_step_on_the_decoded_average() -> None:
    mine = state(1, "fp32")
    commit, results = committed(mine, 0)
    gradient = np.frombuffer(b"".join(results), np.float32)
    anchor, momentum = mine.anchor.copy(), mine.momentum.copy()
    outer_step(anchor, momentum, gradient, LR, MU, out_anchor=anchor, out_momentum=momentum)
    assert mine.stepped(commit, results).hash == fragment_hash(anchor, momentum)


def test_a_short_slice_or_an_infinite_value_gives_no_step() -> None:
    mine = state(1, "fp32")
    commit, results = committed(mine, 0)
    with pytest.raises(CorruptState, match="bytes"):
        mine.stepped(commit, [results[0], results[1][:-4]])
    with pytest.raises(CorruptState, match="non-finite"):
        mine.stepped(*committed(mine, 0, spoil=np.inf))


def kept_for(commit: Commit, mine: OuterState, results: list[bytes]) -> KeptStep:
    return KeptStep(
        key=(commit.term, commit.round, commit.attempt),
        fragment=commit.fragment,
        base=BASE,
        bytes_root=Hash(commit.bytes_root),
        stepped=mine.stepped(commit, results),
    )


def voted() -> tuple[Commit, KeptStep]:
    mine = state(1, "int8")
    commit, results = committed(mine, 0)
    kept = kept_for(commit, mine, results)
    return msgspec.structs.replace(commit, fragment_hash=kept.stepped.hash), kept


def test_a_kept_step_is_used_once() -> None:
    commit, kept = voted()
    candidates = Candidates()
    candidates.keep(kept)
    assert candidates.take(commit, BASE) is kept.stepped
    assert candidates.take(commit, BASE) is None


@pytest.mark.parametrize(
    "other",
    [
        {"term": 2},
        {"round": 5},
        {"attempt": 1},
        {"fragment": 1},
        {"bytes_root": digest(b"other bytes")},
        {"fragment_hash": digest(b"another outcome")},
    ],
)
def test_a_step_of_another_attempt_or_outcome_is_not_used(other: dict[str, Any]) -> None:
    commit, kept = voted()
    candidates = Candidates()
    candidates.keep(kept)
    assert candidates.take(msgspec.structs.replace(commit, **other), BASE) is None


def test_a_step_from_a_state_that_moved_since_is_not_used() -> None:
    commit, kept = voted()
    candidates = Candidates()
    candidates.keep(kept)
    assert candidates.take(commit, digest(b"the fragment now")) is None
    assert len(candidates) == 0


def test_steps_of_attempts_that_are_over_are_dropped_and_others_stay() -> None:
    commit, kept = voted()
    candidates = Candidates()
    for round_ in (3, 4, 5):
        candidates.keep(dataclasses.replace(kept, key=(1, round_, 2)))
    candidates.drop(lambda key: key[1] <= 3)
    assert len(candidates) == 2
    assert candidates.take(commit, BASE) is kept.stepped
