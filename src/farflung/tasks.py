"""Every task has an owner: who starts one learns how it failed and ends it.

    self._tasks = Tasks(emit, on_failure)
    self._tasks.start(self._serve(link), "serve blobs")

An exception that the starter did not expect is a `TaskFailed` event, and `on_failure` ends what
the tasks belong to (a link, a stay, a process) at once: nothing dies silently. Work whose result
somebody awaits names the exceptions that the awaiter handles in `expects`.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from farflung.events import Emit, TaskFailed

T = TypeVar("T")

OnFailure = Callable[[Exception], None]


class Tasks:
    """The background tasks of one owner, on one event loop."""

    def __init__(self, emit: Emit, on_failure: OnFailure) -> None:
        """`on_failure` is called once per unexpected exception, after its event."""
        self._emit = emit
        self._on_failure = on_failure
        self._running: dict[asyncio.Task[Any], None] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._running)

    def start(
        self, work: Coroutine[Any, Any, T], name: str, *, expects: tuple[type[Exception], ...] = ()
    ) -> asyncio.Task[T]:
        """Run `work` beside the caller. After `close` it is cancelled before it begins."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running[task] = None
        task.add_done_callback(lambda done: self._ended(done, expects))
        if self._closed:
            task.cancel()
        return task

    def cancel(self) -> None:
        """Cancel all, without waiting."""
        for task in list(self._running):
            task.cancel()

    async def close(self) -> None:
        """Cancel all and return when none runs any more. Idempotent."""
        self._closed = True
        self.cancel()
        await self.ended()

    async def ended(self) -> None:
        """Return when all tasks have ended, by themselves or cancelled."""
        me = asyncio.current_task()
        while others := [t for t in self._running if t is not me]:
            await asyncio.wait(others)

    def _ended(self, task: asyncio.Task[Any], expects: tuple[type[Exception], ...]) -> None:
        self._running.pop(task, None)
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, Exception) and not isinstance(error, expects):
            self._emit(failure(task.get_name(), error))
            self._on_failure(error)


async def first_ended(*works: Coroutine[Any, Any, Any]) -> int:
    """Run side by side until one ends; the others are cancelled, and awaited.

    Returns the index of the one that ended first (the lowest, when several did at once). Raises
    what ended it. When cancelled, all are.
    """
    tasks = [asyncio.get_running_loop().create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        if task in done:
            task.result()
    return min(index for index, task in enumerate(tasks) if task in done)


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Await work of a thread, which nothing can stop: when cancelled, wait for its end first."""
    task = asyncio.get_running_loop().create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # nobody waits for the outcome any more
        raise


def failure(name: str, error: BaseException) -> TaskFailed:
    """The event of an exception that nobody expected."""
    cause = root_cause(error)
    frames = traceback.extract_tb(cause.__traceback__)
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return TaskFailed(task=name, error=f"{type(cause).__name__}: {cause}", where=where)


def root_cause(error: BaseException) -> BaseException:
    """Of a group of failures the first, without its wrapping."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
