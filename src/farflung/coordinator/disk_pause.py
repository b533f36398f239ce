"""The journal cannot be written: nothing is decided, everything else is served, time stands still.

A node that waits for a decision is not late, and beats that arrive meanwhile are read before any
deadline is judged: so no node dies of the coordinator's disk.
"""

from __future__ import annotations

import asyncio

from farflung.coordinator.awake_clock import AwakeClock
from farflung.errors import StorageError
from farflung.events import Emit, JournalBlocked, JournalWritable

FIRST_RETRY_S = 0.25
MAX_RETRY_S = 5.0
REMIND_S = 60.0


class DiskPause:
    """Owned by the coordinator's decide loop."""

    def __init__(self, clock: AwakeClock, emit: Emit) -> None:
        self._clock = clock
        self._emit = emit
        self._retry_s = FIRST_RETRY_S
        self._waited_s = self._told_s = 0.0
        self.blocked = asyncio.Event()
        """Set while the disk refuses."""

    async def wait(self, error: StorageError) -> None:
        """The disk refused: say so, once and then every minute, and wait before the next try."""
        if not self.blocked.is_set():
            self.blocked.set()
            self._clock.freeze()
            self._tell(error)
        elif self._waited_s - self._told_s >= REMIND_S:
            self._tell(error)
        await asyncio.sleep(self._retry_s)
        self._waited_s += self._retry_s
        self._retry_s = min(MAX_RETRY_S, 2 * self._retry_s)

    def _tell(self, error: StorageError) -> None:
        self._told_s = self._waited_s
        self._emit(JournalBlocked(reason=str(error), for_s=self._waited_s))

    def over(self) -> None:
        """A record was written."""
        if self.blocked.is_set():
            self.blocked.clear()
            self._clock.thaw()
            self._emit(JournalWritable(after_s=self._waited_s))
            self._retry_s, self._waited_s, self._told_s = FIRST_RETRY_S, 0.0, 0.0
