"""Which rows of a lease the training loop holds: taken and not yet trained, in order. No torch.

A loader takes batches ahead of the optimizer's steps, so a row counts when the step that used it
has ended, never when it was taken. A lease is credited by its beginning (swarm/ledger.py), hence
the order: steps use batches in the order in which they were taken.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from farflung.errors import UserError

SHOWN = 4
"""Row numbers that an error names."""


def row_numbers(rows: Any) -> list[int]:
    """Numbers in a tensor or array of integers, in integers, or in a sequence of such, in order.

    Raises UserError for anything else.
    """
    if hasattr(rows, "tolist"):
        rows = rows.tolist()
    if isinstance(rows, int):
        return [rows]
    if isinstance(rows, str) or not isinstance(rows, Iterable):
        raise UserError(f"rows={rows!r} must be row numbers: integers, or tensors of them")
    return [number for part in rows for number in row_numbers(part)]


class TakenRows:
    """Inner batches between the moment when the loop takes them and the step that uses them."""

    def __init__(self) -> None:
        self.named = False
        """Whether steps must say which rows they used: they come from a loop that runs ahead."""
        self._batches: deque[list[int]] = deque()
        self._void = 0
        """The first so many are of a stay that has ended: nobody may be credited with them."""

    @property
    def waiting(self) -> list[list[int]]:
        """Taken and not trained, oldest first; those of an ended stay are left out."""
        return list(self._batches)[self._void :]

    @property
    def has_void(self) -> bool:
        return self._void > 0

    def take(self, batch: list[int]) -> None:
        self._batches.append(batch)

    def use(self, rows: Sequence[int] | None) -> bool:
        """A step has used the oldest batch. False: it is of an ended stay and does not count.

        `rows`: what the step has used; None: what comes next. Raises UserError when that is
        another batch, or when it must be said.
        """
        if rows is None and self.named:
            raise UserError(
                "peer.step() after peer.stream() needs rows=, the row numbers of the "
                "(micro-)batches that this step has used"
            )
        expected = self._batches[0]
        if rows is not None and list(rows) != expected:
            raise UserError(_difference(rows, expected))
        self._batches.popleft()
        if self._void:
            self._void -= 1
            return False
        return True

    def void(self) -> None:
        """The stay is over: whatever is taken belongs to others now."""
        self._void = len(self._batches)

    def give_back(self) -> None:
        """The loop has dropped what it had taken."""
        self._batches.clear()
        self._void = 0


def _difference(rows: Sequence[int], expected: Sequence[int]) -> str:
    if len(rows) != len(expected):
        return (
            f"a step used {len(rows)} rows, one step of this run trains {len(expected)} "
            f"(inner.batch_rows): make micro-batch times accumulation {len(expected)}"
        )
    return (
        f"a step used the rows {_shown(rows)}, but {_shown(expected)} came before them: keep the "
        f"loader's order (no shuffling), since a lease is credited by its beginning"
    )


def _shown(rows: Sequence[int]) -> str:
    more = ", ..." if len(rows) > SHOWN else ""
    return "[" + ", ".join(str(row) for row in rows[:SHOWN]) + more + "]"
