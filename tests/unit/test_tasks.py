"""Tasks have owners: nothing fails silently, nothing outlives its owner."""

from __future__ import annotations

import asyncio

import pytest

from farflung.events import Event, TaskFailed
from farflung.tasks import Tasks, first_ended, to_the_end


class Owner:
    def __init__(self) -> None:
        self.events: list[Event] = []
        self.failures: list[Exception] = []
        self.tasks = Tasks(self.events.append, self.failures.append)


async def fail(error: Exception) -> None:
    raise error


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_an_unexpected_exception_is_an_event_and_reaches_the_owner() -> None:
    async def main() -> None:
        owner = Owner()
        error = FileNotFoundError("shard 3 is gone")
        owner.tasks.start(fail(error), "serve blobs")
        await turns()
        assert owner.failures == [error]
        (event,) = owner.events
        assert isinstance(event, TaskFailed)
        assert event.task == "serve blobs"
        assert event.error == "FileNotFoundError: shard 3 is gone"
        assert event.where.startswith("test_tasks.py:")

    asyncio.run(main())


def test_an_expected_exception_belongs_to_who_awaits_it() -> None:
    async def main() -> None:
        owner = Owner()
        task = owner.tasks.start(fail(OSError("no route")), "dial", expects=(OSError,))
        await turns()
        assert not owner.events and not owner.failures
        with pytest.raises(OSError, match="no route"):
            await task

    asyncio.run(main())


def test_the_cause_is_found_inside_of_groups() -> None:
    async def main() -> None:
        owner = Owner()

        async def grouped() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail(KeyError("x")))

        owner.tasks.start(grouped(), "attempt")
        await turns(10)
        (event,) = owner.events
        assert isinstance(event, TaskFailed) and event.error == "KeyError: 'x'"

    asyncio.run(main())


def test_closing_waits_for_what_it_cancels() -> None:
    async def main() -> None:
        owner, ended = Owner(), []

        async def slow() -> None:
            try:
                await asyncio.sleep(3600)
            finally:
                await turns(3)
                ended.append(True)

        owner.tasks.start(slow(), "slow")
        await turns()
        await owner.tasks.close()
        assert ended == [True] and not len(owner.tasks)
        late = owner.tasks.start(slow(), "late")
        await turns()
        assert late.cancelled() and ended == [True]
        assert not owner.events

    asyncio.run(main())


def test_the_first_to_end_ends_the_others() -> None:
    async def main() -> None:
        ended: list[str] = []

        async def endless() -> None:
            try:
                await asyncio.sleep(3600)
            finally:
                ended.append("endless")

        assert await first_ended(endless(), turns()) == 1
        assert ended == ["endless"]
        with pytest.raises(ValueError, match="bad"):
            await first_ended(endless(), fail(ValueError("bad")))
        assert ended == ["endless", "endless"]

    asyncio.run(main())


def test_work_that_cannot_be_stopped_has_ended_before_its_canceller_goes_on() -> None:
    ended: list[str] = []

    async def work() -> int:
        await asyncio.sleep(0.05)
        ended.append("work")
        return 7

    async def main() -> None:
        assert await to_the_end(work()) == 7
        caller = asyncio.create_task(to_the_end(work()))
        await asyncio.sleep(0.01)
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
        ended.append("caller")
        assert caller.cancelled()

    asyncio.run(main())
    assert ended == ["work", "work", "caller"]


def test_what_cannot_be_stopped_is_waited_for_however_often_one_is_told_to_end() -> None:
    async def main() -> None:
        done, may_end = [], asyncio.Event()

        async def work() -> str:
            await may_end.wait()
            done.append(True)
            return "x"

        assert await asyncio.gather(to_the_end(turns()), turns()) == [None, None]
        waiting = asyncio.create_task(to_the_end(work()))
        await turns()
        for _ in range(3):
            waiting.cancel()
            await turns()
            assert not waiting.done()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert done == [True]
        with pytest.raises(ValueError, match="bad"):
            await to_the_end(fail(ValueError("bad")))

    asyncio.run(main())
