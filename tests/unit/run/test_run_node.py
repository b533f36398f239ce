"""How tasks end."""

from __future__ import annotations

import asyncio

from farflung.run.node import end_if_cancelled


def test_an_agent_that_is_cancelled_while_it_fails_ends() -> None:
    """The shape of Agent._live: a failure is handled and all begins again."""

    async def fail() -> None:
        raise ValueError

    async def live() -> None:
        for _ in range(3):
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(fail())
                    await asyncio.sleep(10)
            except* ValueError:
                pass
            end_if_cancelled()

    async def main() -> bool:
        task = asyncio.create_task(live())
        await asyncio.sleep(0)  # inside the group
        await asyncio.sleep(0)  # its child has failed, the group has cancelled the parent
        task.cancel()
        await asyncio.wait({task}, timeout=5)
        return task.cancelled()

    assert asyncio.run(main())
