"""Time and work as injected seams.

All durations come from the event loop's monotonic clock, so that a loop with virtual time
(sim/loop.py) runs the very same code. Heavy functions go through `Workers`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Protocol, TypeVar

T = TypeVar("T")


class Clock(Protocol):
    """Monotonic seconds. Never compared with another machine's."""

    def now(self) -> float: ...


class LoopClock:
    """The running event loop's clock; virtual in simulation, monotonic elsewhere."""

    def now(self) -> float:
        return asyncio.get_running_loop().time()


class Workers(Protocol):
    """Runs a blocking function without blocking the event loop."""

    async def run(self, work: Callable[[], T]) -> T: ...


class ThreadWorkers:
    """A small thread pool: NumPy, hashing and codecs release the interpreter lock."""

    def __init__(self, threads: int = 1) -> None:
        self._pool: Executor = ThreadPoolExecutor(threads, thread_name_prefix="farflung")

    async def run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


class InlineWorkers:
    """Runs at once, in order: for simulation and tests."""

    async def run(self, work: Callable[[], T]) -> T:
        await asyncio.sleep(0)
        return work()
