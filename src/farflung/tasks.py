"""Every task has an owner: who starts one learns how it failed and ends it.

    self._tasks = Tasks(emit, on_failure)
    self._tasks.start(self._serve(link), "serve blobs")

An exception that the starter did not expect is a `TaskFailed` event, and `on_failure` ends what
the tasks belong to (a link, a stay, a process) at once: nothing dies silently. One owner may serve
many links: then `start` says what ends instead. Work whose result somebody awaits names the
exceptions that the awaiter handles in `expects`.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, TypeVar

from farflung.events import Emit, Event, failure, root_cause

__all__ = ["OnFailure", "Tasks", "failure", "first_ended", "nothing_else", "root_cause"]

T = TypeVar("T")

OnFailure = Callable[[Exception], None]


def nothing_else(_: Exception) -> None:
    """An `on_failure` for work that nothing else depends on: its event is all."""


class Tasks:
    """The background tasks of one owner, on one event loop."""

    def __init__(self, emit: Emit, on_failure: OnFailure | None = None) -> None:
        """`on_failure` is called once per unexpected exception, after its event. Without it,
        whoever waits for `failed` ends what the tasks belong to."""
        self._emit = emit
        self._on_failure = on_failure
        self._first_failure: Exception | None = None
        self._failed = asyncio.Event()
        self._running: dict[asyncio.Task[Any], None] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._running)

    def start(
        self,
        work: Coroutine[Any, Any, T],
        name: str,
        *,
        expects: tuple[type[Exception], ...] = (),
        on_failure: OnFailure | None = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[T]:
        """Run `work` beside the caller. After `close` it is cancelled before it begins.

        `on_failure`: instead of the owner's, for work that concerns a part of it only.
        """
        task = asyncio.get_running_loop().create_task(work, name=name, context=context)
        self._running[task] = None
        ends = on_failure or self._fail
        task.add_done_callback(lambda done: self._ended(done, expects, ends))
        if self._closed:
            task.cancel()
        return task

    def tell(self, event: Event) -> None:
        """What the work of these tasks has met, and goes on with."""
        self._emit(event)

    async def failed(self) -> NoReturn:
        """Wait until a task has failed unexpectedly, and raise its exception."""
        await self._failed.wait()
        assert self._first_failure is not None
        raise self._first_failure

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

    def _ended(
        self, task: asyncio.Task[Any], expects: tuple[type[Exception], ...], ends: OnFailure
    ) -> None:
        self._running.pop(task, None)
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, Exception) and not isinstance(error, expects):
            self._emit(failure(task.get_name(), error))
            ends(error)

    def _fail(self, error: Exception) -> None:
        self._first_failure = self._first_failure or error
        self._failed.set()
        if self._on_failure is not None:
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
    told: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:  # perhaps more than once
            told = error
    if told is not None:
        if not task.cancelled():
            task.exception()  # nobody waits for the outcome any more
        raise told
    return task.result()
