"""What belongs around the outer step on one fragment, in the same job of the pool.

Owner: made by the apply loop; entered and left in the pool, while `Follower.lock` is held.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from farflung.outer.fragments import gather, places
from farflung.outer.merge import difference
from farflung.peer.outer_state import Float32, OuterState


@dataclass(frozen=True)
class Addend:
    """The difference that a landing with `carry` or `rebase` adds; float32[F], F its fragment."""

    out: Float32
    """Where it goes: the landing's slot of the shared block, free until this commit lands."""
    sent: Float32 | None
    """carry: what departed. None is rebase: the anchor as it was before the step."""


class AnchorWrite:
    """A context: inside it the anchor and momentum of one fragment change.

    The addend is there before anything else of the commit is seen, so a round that this commit
    lets begin finds its landing ready; and no vector of a fragment's size is touched by the loop.
    """

    def __init__(
        self,
        state: OuterState,
        fragment: int,
        *,
        keep: Callable[[int], None],
        addend: Addend | None,
    ) -> None:
        """`keep(fragment)` saves what a snapshot that is being written still needs of it."""
        self._state = state
        self._fragment = fragment
        self._keep = keep
        self._shared = state.shared
        self._addend = addend

    def __enter__(self) -> None:
        self._keep(self._fragment)
        if self._addend is not None and self._addend.sent is None:
            gather(self._state.anchor, self._state.fragments[self._fragment], self._addend.out)
        if self._shared is not None:
            self._shared.begin_write(self._fragment)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._shared is not None:
            self._shared.end_write(self._fragment)
        if self._addend is not None and error is None:
            self._form(self._addend)

    def _form(self, addend: Addend) -> None:
        out_F = addend.out
        minus_F = out_F if addend.sent is None else addend.sent
        for there, here in places(self._state.fragments[self._fragment]):
            difference(self._state.anchor[there], minus_F[here], out_F[here])
