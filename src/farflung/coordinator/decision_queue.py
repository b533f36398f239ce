"""What waits for a decision: one queue, in order of arrival, with one tick at most."""

from __future__ import annotations

import asyncio

from farflung.network.messages import Beat
from farflung.swarm.state import Input, Received, Tick


class DecisionQueue:
    """Owned by the coordinator's loop; one consumer."""

    def __init__(self, blocked: asyncio.Event) -> None:
        """`blocked`: set while the disk refuses records, and time stands still."""
        self._blocked = blocked
        self._queue: asyncio.Queue[Input] = asyncio.Queue()
        self._tick_waits = False

    def put(self, event: Input) -> None:
        beat = isinstance(event, Received) and isinstance(event.message, Beat)
        if beat and self._blocked.is_set():
            return  # the first beat after it is early enough
        self._queue.put_nowait(event)

    def tick(self) -> None:
        """A disk that refuses for hours piles up no ticks."""
        if not self._tick_waits:
            self._tick_waits = True
            self._queue.put_nowait(Tick())

    async def get(self) -> Input:
        """The next event; say `done` when it is decided."""
        event = await self._queue.get()
        if isinstance(event, Tick):
            self._tick_waits = False
        return event

    def done(self) -> None:
        self._queue.task_done()

    async def drained(self) -> None:
        """Wait until all that was put is decided."""
        await self._queue.join()

    def __len__(self) -> int:
        return self._queue.qsize()
