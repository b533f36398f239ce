"""The control link after a disk error, and when its owner wants to say hello again."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

from peer_samples import Handler, world

from farflung.errors import StorageError
from farflung.events import DiskAwaited, Event
from farflung.ids import Endpoint, NodeId
from farflung.network.link import COORDINATOR, PEER, Connection
from farflung.network.memory import MemoryNetwork
from farflung.network.messages import Control, Donors, Welcome
from farflung.peer.control_link import ControlLink
from farflung.sim.loop import run_virtual
from farflung.tasks import Tasks, nothing_else

WELCOME = Welcome(protocol=1, term=3, journal_length=0)
AT = Endpoint("coordinator:7000")


class Side:
    """A coordinator that sends three messages after each hello, and a node that dials it."""

    def __init__(self, on_message: Callable[[Control], None]) -> None:
        self.network = MemoryNetwork()
        self.hellos = 0
        self.events: list[Event] = []
        transport = self.network.transport(NodeId("node"), PEER)
        self.handler = Handler(on_message)
        self.control = ControlLink(world(transport, self.events.append), [AT])

    async def start(self) -> asyncio.Task[None]:
        transport = self.network.transport(NodeId("coordinator"), COORDINATOR)
        await transport.listen(AT, self._accept, Tasks(print, nothing_else))
        return asyncio.create_task(self.control.run(self.handler))

    async def _accept(self, link: Connection) -> None:
        await link.receive()
        self.hellos += 1
        await link.send(WELCOME)
        for _ in range(3):
            await link.send(Donors(members=()))


async def until(done: Callable[[], bool]) -> None:
    """TimeoutError after a minute of virtual time."""
    async with asyncio.timeout(60):
        for _ in itertools.repeat(None):
            if done():
                return
            await asyncio.sleep(0.01)


async def end(task: asyncio.Task[None]) -> None:
    assert not task.done(), task
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_a_record_that_the_disk_refuses_is_asked_for_again() -> None:
    async def main() -> tuple[Side, int]:
        calls = 0

        def refuse_once(_: Control) -> None:
            nonlocal calls
            calls += 1
            if calls == 2:
                raise StorageError("no space left")

        side = Side(refuse_once)
        task = await side.start()
        await until(lambda: calls >= 5)
        await end(task)
        return side, calls

    side, calls = run_virtual(main())
    assert (side.hellos, calls) == (2, 5)
    (told,) = [e for e in side.events if isinstance(e, DiskAwaited)]
    assert told.sentence == "the journal's copy waits for the disk: no space left"


def test_a_disk_that_stays_full_is_told_once_a_minute_and_asked_ever_less_often() -> None:
    async def main() -> Side:
        def refuse(_: Control) -> None:
            raise StorageError("no space left")

        side = Side(refuse)
        task = await side.start()
        await asyncio.sleep(600.0)
        await end(task)
        return side

    side = run_virtual(main())
    assert {type(e) for e in side.events} == {DiskAwaited}, "the coordinator was never away"
    assert 8 <= len(side.events) <= 10
    assert side.hellos < 400


def test_a_node_may_say_hello_again() -> None:
    async def main() -> int:
        side = Side(lambda _: None)
        task = await side.start()
        await until(lambda: side.hellos >= 1)
        side.control.reconnect()
        await until(lambda: side.hellos >= 2)
        await end(task)
        return side.hellos

    assert run_virtual(main()) == 2
