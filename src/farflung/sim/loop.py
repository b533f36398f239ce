"""An event loop with virtual time: the real code runs, nobody waits.

When nothing is ready, the selector "waits" by moving the clock to the next timer. Callbacks run in
the order in which they were scheduled, so one program gives one history.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

IDLE_LIMIT = 1000
"""Waits without any timer or socket in a row that count as a deadlock."""


class Deadlock(RuntimeError):
    """Every task waits and no timer is left."""


class _VirtualSelector(selectors.SelectSelector):
    """Sockets are only polled; a timeout becomes a jump of the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self._idle = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            self._idle = 0
            return ready
        if timeout is None:
            self._idle += 1
            if self._idle > IDLE_LIMIT:
                raise Deadlock("every task waits and no timer is left")
            return ready
        self._idle = 0
        self.now_s += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time()` is virtual; it starts at 0."""

    def __init__(self) -> None:
        self._virtual = _VirtualSelector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now_s


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
