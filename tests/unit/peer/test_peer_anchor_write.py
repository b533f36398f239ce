"""Around the outer step: addends of a landing, the readers held off, a snapshot's needs saved."""

from __future__ import annotations

import numpy as np
import pytest

from farflung.config.run import OuterSpec
from farflung.inner.seam import SharedState
from farflung.outer.layout import Layout
from farflung.outer.nesterov import bits_of
from farflung.peer.anchor_write import Addend, AnchorWrite
from farflung.peer.outer_state import Float32, OuterState

LAYOUT = Layout.from_entries(
    [("embed", (7, 3))] + [(f"model.layers.{i}.w", (4, 3)) for i in range(4)] + [("norm", (3,))]
)


class Case:
    """A state of two fragments of several ranges, in memory shared with a trainer."""

    def __init__(self) -> None:
        outer = OuterSpec(fragments=2, window=2)
        state = OuterState(LAYOUT, outer)
        self.shared = SharedState.create(LAYOUT.size, state.fragments, 2, memfd=False)
        state.share(self.shared)
        rng = np.random.default_rng(3)
        state.anchor[:] = rng.standard_normal(LAYOUT.size, np.float32)
        self.state = state
        assert all(len(ranges) > 1 for ranges in state.fragments)
        self.shared.sent(1, 1)[:] = rng.standard_normal(state.elements(1), np.float32)
        self.seen: list[tuple[int, bytes, int]] = []

    def keep(self, fragment: int) -> None:
        """What a snapshot would see."""
        anchor = self.state.anchor.tobytes()
        self.seen.append((fragment, anchor, int(self.shared.versions[fragment])))

    def writing(self, sent: Float32 | None) -> AnchorWrite:
        addend = Addend(out=self.shared.land(1, 1), sent=sent)
        return AnchorWrite(self.state, 1, keep=self.keep, addend=addend)

    def step(self) -> None:
        assert self.shared.versions[1] % 2 == 1
        ahead = self.state.ahead(1, bits_of(0.5), bits_of(0.9))
        ahead.add(0, np.ones(self.state.elements(1), np.float32))
        self.state.write(1, ahead.finish())


@pytest.mark.parametrize("carried", [False, True])
def test_the_addend_is_the_new_anchor_less_what_departed_or_the_old_one(carried: bool) -> None:
    case = Case()
    old, sent = case.state.anchor_of(1).copy(), case.shared.sent(1, 1)
    before = case.state.anchor.tobytes()
    with case.writing(sent if carried else None):
        case.step()
    new = case.state.anchor_of(1)
    assert not np.array_equal(new, old)
    np.testing.assert_array_equal(case.shared.land(1, 1), new - (sent if carried else old))
    assert case.seen == [(1, before, 0)]  # before anything changed, and before readers wait
    assert case.shared.versions.tolist() == [0, 2]


def test_a_step_that_fails_lets_the_readers_go_on() -> None:
    case = Case()
    with pytest.raises(ValueError, match="a fault"), case.writing(None):
        raise ValueError("a fault")
    assert case.shared.versions.tolist() == [0, 2]


def test_a_keeper_has_nothing_to_land() -> None:
    case = Case()
    with AnchorWrite(case.state, 1, keep=case.keep, addend=None):
        case.step()
    assert case.shared.versions.tolist() == [0, 2]
    assert not case.shared.land(1, 1).any()
