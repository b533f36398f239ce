"""The control link of a node: what ends it, what does not, and what it says meanwhile."""

from __future__ import annotations

import asyncio

import pytest
from peer_samples import HELLO, Handler, world

from farflung.errors import LinkDown, Refused
from farflung.events import Event, ForkDetected, NoCoordinator
from farflung.ids import Endpoint, NodeId
from farflung.network.link import COORDINATOR, PEER, Connection
from farflung.network.memory import MemoryNetwork
from farflung.network.messages import (
    Control,
    Dispute,
    Donors,
    Hello,
    JournalFrames,
    Leave,
    Refuse,
    Welcome,
)
from farflung.peer.control_link import ControlLink
from farflung.sim.loop import run_virtual
from farflung.tasks import Tasks, nothing_else

ONE, TWO = Endpoint("one:1"), Endpoint("two:1")
HEAD = HELLO.journal_head


class Node:
    """A control link whose owner answers every message, as an agent may."""

    def __init__(self, network: MemoryNetwork, *endpoints: Endpoint) -> None:
        self.events: list[Event] = []
        self.got: list[Control] = []
        transport = network.transport(NodeId("node"), PEER)
        self.link = ControlLink(world(transport, self.events.append), endpoints)

    async def run(self) -> None:
        await self.link.run(Handler(self.got.append))

    def of(self, kind: type[Event]) -> list[Event]:
        return [e for e in self.events if isinstance(e, kind)]


async def listen(network: MemoryNetwork, at: Endpoint, serve: object) -> None:
    node = NodeId(at.split(":")[0])
    transport, tasks = network.transport(node, COORDINATOR), Tasks(print, nothing_else)
    await transport.listen(at, serve, tasks)  # type: ignore[arg-type]


async def welcome(link: Connection) -> None:
    assert isinstance(await link.receive(), Hello)
    await link.send(Welcome(protocol=1, term=3, journal_length=7))


class HalfDown:
    """A connection that takes nothing after the greeting but still delivers what had arrived."""

    remote, remote_role, bulk_size = None, COORDINATOR, None
    sent_bytes = received_bytes = 0

    def __init__(self) -> None:
        self._arrived: list[Control] = [
            Welcome(protocol=1, term=3, journal_length=7),
            *[Donors(members=())] * 3,
        ]

    async def send(self, message: Control) -> None:
        if not isinstance(message, Hello):
            raise LinkDown("broken pipe")

    async def receive(self) -> Control:
        await asyncio.sleep(1)
        if not self._arrived:
            raise LinkDown("connection closed")
        return self._arrived.pop(0)

    def close(self, _: str = "") -> None:
        self._arrived.clear()


class HalfDownTransport:
    async def dial(self, *_: object, **__: object) -> HalfDown:
        return HalfDown()


def test_messages_that_arrived_before_the_end_are_read_after_a_send_has_failed() -> None:
    async def main() -> Node:
        node = Node(MemoryNetwork(), ONE)
        node.link._transport = HalfDownTransport()  # type: ignore[assignment]
        task = asyncio.create_task(node.run())
        for _ in range(8):  # beats, of which all but the first fail
            await asyncio.sleep(0.5)
            await node.link.send(Leave(reason="a beat"))
        await asyncio.sleep(0.7)
        assert not task.done()
        task.cancel()
        return node

    assert len(run_virtual(main()).got) == 3


def test_a_dispute_is_answered_with_the_record_and_told_once() -> None:
    shown: list[Control] = []

    async def main() -> Node:
        network = MemoryNetwork()

        async def disputes(link: Connection) -> None:
            assert isinstance(await link.receive(), Hello)
            await link.send(Dispute(journal_length=9, hash=bytes(32)))
            answer = await link.receive()
            assert isinstance(answer, JournalFrames)
            shown.append(answer)
            link.close("halted")

        await listen(network, ONE, disputes)
        node = Node(network, ONE)
        task = asyncio.create_task(node.run())
        await asyncio.sleep(50)
        assert not task.done()  # a node does not end because a coordinator is the wrong one
        task.cancel()
        return node

    node = run_virtual(main())
    assert len(shown) > 5
    assert {a.first for a in shown if isinstance(a, JournalFrames)} == {6}
    assert shown[0] == JournalFrames(first=6, frames=(b"record 6",))
    (told,) = node.of(ForkDetected)
    assert isinstance(told, ForkDetected)
    assert (told.index, told.mine, told.theirs) == (6, HEAD.hex(), bytes(32).hex())
    (trouble,) = node.of(NoCoordinator)
    assert isinstance(trouble, NoCoordinator) and "fork" in trouble.reason


def test_after_a_dispute_the_next_endpoint_is_tried_first() -> None:
    async def main() -> tuple[Node, list[str]]:
        network, met = MemoryNetwork(), []

        async def disputes(link: Connection) -> None:
            await link.receive()
            met.append("one")
            await link.send(Dispute(journal_length=9, hash=bytes(32)))
            await link.receive()
            link.close()

        async def serves(link: Connection) -> None:
            await welcome(link)
            met.append("two")
            await asyncio.sleep(1000)

        await listen(network, ONE, disputes)
        await listen(network, TWO, serves)
        node = Node(network, ONE, TWO)
        task = asyncio.create_task(node.run())
        await asyncio.sleep(20)
        task.cancel()
        return node, met

    _, met = run_virtual(main())
    assert met == ["one", "two"]


def test_a_refusal_after_the_record_was_shown_ends_the_node() -> None:
    async def main() -> None:
        network = MemoryNetwork()

        async def refuses(link: Connection) -> None:
            await link.receive()
            await link.send(Dispute(journal_length=9, hash=bytes(32)))
            await link.receive()
            await link.send(Refuse(sentence="your copy is damaged"))
            link.close()

        await listen(network, ONE, refuses)
        with pytest.raises(Refused, match="your copy is damaged"):
            await Node(network, ONE).run()

    run_virtual(main())


def test_nothing_is_raised_while_nobody_is_there() -> None:
    async def main() -> Node:
        node = Node(MemoryNetwork(), ONE)
        task = asyncio.create_task(node.run())
        await node.link.send(Leave(reason="dropped"))
        await asyncio.sleep(130)
        assert not task.done()
        task.cancel()
        return node

    told = run_virtual(main()).of(NoCoordinator)
    assert [round(e.for_s) // 60 for e in told if isinstance(e, NoCoordinator)] == [0, 1, 2]
