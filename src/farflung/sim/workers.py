"""Worker threads without threads: jobs take virtual time, and complete in an order of the seed.

As a pool of `threads` threads: jobs start in order when a thread is free, run to their end even
when the caller was cancelled meanwhile, and finish in any order.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

USUAL_S = 0.002
"""Most jobs take up to this long."""
SOMETIMES_S = 0.05
"""One in ten takes up to this long."""


class SeededWorkers:
    """Workers for one life of one simulated process."""

    def __init__(self, rng: random.Random, threads: int = 2) -> None:
        self._rng = rng
        self._free_at = [0.0] * threads
        self._waiting: dict[asyncio.Future[Any], None] = {}
        self._stopped = False
        self.slow_s = 0.0
        """Longest extra time of a job: a slow disk, an overloaded machine."""

    async def run(self, work: Callable[[], T]) -> T:
        """CancelledError once the process is dead."""
        loop = asyncio.get_running_loop()
        if self._stopped:
            raise asyncio.CancelledError
        thread = min(range(len(self._free_at)), key=self._free_at.__getitem__)
        start = max(loop.time(), self._free_at[thread])
        end = start + self._duration_s()
        self._free_at[thread] = end
        outcome: asyncio.Future[T] = loop.create_future()
        self._waiting[outcome] = None
        outcome.add_done_callback(lambda done: self._waiting.pop(done, None))
        timer = loop.call_at(end, self._finish, work, outcome)
        try:
            return await outcome
        except asyncio.CancelledError:
            if loop.time() < start:
                timer.cancel()  # it never started
            raise

    async def idle(self) -> None:
        """Return when no job runs any more: a process ends only then, also one that ends well."""
        loop = asyncio.get_running_loop()
        while (left_s := max(self._free_at) - loop.time()) >= 0:  # noqa: ASYNC110 - time passes
            await asyncio.sleep(left_s + 1e-6)

    def stop(self) -> None:
        """The process died: nothing that is still running has any effect."""
        self._stopped = True
        for outcome in list(self._waiting):
            outcome.cancel()

    def _finish(self, work: Callable[[], T], outcome: asyncio.Future[T]) -> None:
        if self._stopped:
            return
        try:
            result = work()
        except Exception as error:
            if not outcome.done():
                outcome.set_exception(error)
            return
        if not outcome.done():
            outcome.set_result(result)

    def _duration_s(self) -> float:
        usual = USUAL_S if self._rng.random() < 0.9 else SOMETIMES_S
        return self._rng.uniform(0, usual) + self._rng.uniform(0, self.slow_s)
