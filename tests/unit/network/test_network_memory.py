"""Claims about network/memory.py: the twin behaves as TCP does, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from farflung.errors import FrameError, LinkDown, ProtocolError
from farflung.events import Event, TaskFailed
from farflung.ids import Endpoint, NodeId
from farflung.network import messages as m
from farflung.network.link import BulkFrame, Connection
from farflung.network.memory import MemoryConnection, MemoryNetwork
from farflung.sim.loop import run_virtual
from farflung.tasks import Tasks, nothing_else

A, B, C = NodeId("a" * 40), NodeId("b" * 40), NodeId("c" * 40)
PORT = Endpoint("b:7000")
HEAD = m.SliceResult(term=1, round=1, attempt=1, slice=0, first=0, stop=1)


def now() -> float:
    return asyncio.get_running_loop().time()


def tasks() -> Tasks:
    return Tasks(print, nothing_else)


class Pair:
    """A dialled B: `near` is A's end, `far` is B's."""

    def __init__(self, network: MemoryNetwork, near: Connection, far: Connection) -> None:
        self.network, self.near, self.far = network, near, far


async def pair(
    network: MemoryNetwork | None = None, *, role: str = "peer", delay_s: float = 0.0
) -> Pair:
    network = network or MemoryNetwork()
    network.set_delay(A, B, delay_s)
    arrived: asyncio.Queue[Connection] = asyncio.Queue()
    await network.transport(B, "peer").listen(PORT, arrived.put, tasks())
    near = await network.transport(A, role).dial(PORT, expect=B, deadline_s=5)
    return Pair(network, near, await arrived.get())


def leave(i: int) -> m.Leave:
    return m.Leave(reason=str(i))


async def receives(link: Connection, within_s: float) -> bool:
    try:
        await asyncio.wait_for(link.receive(), within_s)
    except TimeoutError:
        return False
    return True


def claim(body: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await body()

    run_virtual(main())


def test_both_ends_know_each_other_and_messages_keep_their_order() -> None:
    async def body() -> None:
        p = await pair()
        assert (p.near.remote, p.near.remote_role) == (B, "peer")
        assert (p.far.remote, p.far.remote_role) == (A, "peer")
        for i in range(50):
            await p.near.send(leave(i))
        assert [await p.far.receive() for _ in range(50)] == [leave(i) for i in range(50)]

    claim(body)


def test_a_message_takes_exactly_its_delay_and_bandwidth() -> None:
    async def body() -> None:
        p = await pair(delay_s=0.25)
        p.far.bulk_size = lambda _: 1_000_000
        start = now()
        await p.near.send(leave(0))
        await p.far.receive()
        assert now() - start == pytest.approx(0.25)
        p.network.path(A, B).bytes_per_s = 1e6
        await p.near.send_bulk(HEAD, bytes(1_000_000))
        got = await p.far.receive()
        assert isinstance(got, BulkFrame)
        assert got.payload.nbytes == 1_000_000
        assert now() - start == pytest.approx(0.25 + 1.25, abs=1e-3)

    claim(body)


def test_a_handshake_takes_two_round_trips() -> None:
    async def body() -> None:
        await pair(delay_s=0.1)
        assert now() == pytest.approx(0.4)

    claim(body)


def test_the_counters_of_both_ends_agree() -> None:
    async def body() -> None:
        p = await pair()
        p.far.bulk_size = lambda _: 1000
        await p.near.send(leave(1))
        await p.near.send_bulk(HEAD, bytes(1000))
        await p.far.receive()
        await p.far.receive()
        assert p.near.sent_bytes == p.far.received_bytes > 1000 + 48

    claim(body)


def test_bulk_needs_the_owners_consent_to_its_exact_size() -> None:
    async def body() -> None:
        for size, sentence in ((None, "no bulk frames"), (7, "the plan says 7")):
            p = await pair()
            if size is not None:
                p.far.bulk_size = lambda _, size=size: size
            await p.near.send_bulk(HEAD, bytes(8))
            with pytest.raises(ProtocolError, match=sentence):
                await p.far.receive()
            with pytest.raises(LinkDown):
                await p.near.receive()
            assert p.network.counters.rejected["frame"] == 1

    claim(body)


def test_the_owner_may_set_bulk_size_after_the_frame_has_arrived() -> None:
    async def body() -> None:
        p = await pair()
        await p.near.send(leave(0))
        await p.near.send_bulk(HEAD, b"12345678")
        await asyncio.sleep(1)
        await p.far.receive()
        p.far.bulk_size = lambda _: 8
        assert isinstance(await p.far.receive(), BulkFrame)

    claim(body)


def test_a_closed_connection_delivers_what_was_sent_and_then_is_down() -> None:
    async def body() -> None:
        p = await pair(delay_s=0.1)
        await p.near.send(leave(1))
        p.near.close("enough")
        assert await p.far.receive() == leave(1)
        with pytest.raises(LinkDown, match="enough"):
            await p.far.receive()
        for end in (p.near, p.far):
            with pytest.raises(LinkDown):
                await end.send(leave(2))
        with pytest.raises(LinkDown, match="closed here"):
            await p.near.receive()

    claim(body)


def test_a_killed_node_is_gone_at_once_and_can_come_back() -> None:
    async def body() -> None:
        p = await pair()
        await p.far.send(leave(1))
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        p.network.kill(B)
        assert await p.near.receive() == leave(1)
        with pytest.raises(LinkDown):
            await p.near.receive()
        again = p.network.transport(A)
        with pytest.raises(LinkDown, match="refused"):
            await again.dial(PORT, expect=B, deadline_s=1)
        arrived: asyncio.Queue[Connection] = asyncio.Queue()
        await p.network.transport(B).listen(PORT, arrived.put, tasks())
        assert (await again.dial(PORT, expect=B, deadline_s=1)).remote == B

    claim(body)


def test_a_frozen_node_delivers_nothing_breaks_nothing_and_thaws() -> None:
    async def body() -> None:
        p = await pair()
        p.network.freeze(B)
        await p.near.send(leave(1))
        assert not await receives(p.far, 60)
        p.network.thaw(B)
        assert await p.far.receive() == leave(1)

    claim(body)


def test_a_short_partition_only_delays_and_a_long_one_breaks_both_ends() -> None:
    async def body() -> None:
        p = await pair()
        p.network.partition(A, B)
        await p.near.send(leave(1))
        assert not await receives(p.far, 4)
        p.network.heal(A, B)
        assert await p.far.receive() == leave(1)
        await asyncio.sleep(2)
        await p.near.send(leave(2))
        assert await p.far.receive() == leave(2)
        start = now()
        p.network.partition(A, B)
        for end in (p.near, p.far):
            with pytest.raises(LinkDown, match="no acknowledgement"):
                await end.receive()
        assert now() - start == pytest.approx(5)
        dialler = p.network.transport(A)
        with pytest.raises(LinkDown, match="no answer in 2 s"):
            await dialler.dial(PORT, expect=B, deadline_s=2)

    claim(body)


def test_one_way_loss_lets_the_other_way_pass_until_the_connection_breaks() -> None:
    async def body() -> None:
        p = await pair()
        p.network.partition(A, B, one_way=True)
        await p.far.send(leave(1))
        assert await p.near.receive() == leave(1)
        with pytest.raises(LinkDown):
            await p.far.receive()

    claim(body)


def test_a_cut_connection_may_be_dialled_again_at_once() -> None:
    async def body() -> None:
        p = await pair()
        p.network.cut(A, B)
        for end in (p.near, p.far):
            with pytest.raises(LinkDown, match="reset"):
                await end.receive()
        await p.network.transport(A).dial(PORT, expect=B, deadline_s=1)

    claim(body)


def test_bulk_senders_wait_when_the_receiver_does_not_receive() -> None:
    async def body() -> None:
        p = await pair()
        p.far.bulk_size = lambda _: 4_000_000

        async def flood() -> None:
            for _ in range(10):
                await p.near.send_bulk(HEAD, bytes(4_000_000))

        task = asyncio.create_task(flood())
        await asyncio.sleep(10)
        assert not task.done()
        for _ in range(10):
            await p.far.receive()
        await task

    claim(body)


def test_a_stranger_is_remote_none_and_may_only_say_little() -> None:
    async def body() -> None:
        p = await pair(role="")
        assert p.far.remote is None
        assert p.far.remote_role == ""
        await p.near.send(m.JournalFrames(first=0, frames=(bytes(5000),)))
        with pytest.raises(FrameError, match="4096"):
            await p.far.receive()

    claim(body)


def test_the_wrong_node_or_role_is_refused_by_the_dialler() -> None:
    async def body() -> None:
        p = await pair()
        dialler = p.network.transport(A)
        with pytest.raises(ProtocolError, match="was expected"):
            await dialler.dial(PORT, expect=C, deadline_s=1)
        with pytest.raises(ProtocolError, match="not the coordinator"):
            await dialler.dial(PORT, expect=None, deadline_s=1)

    claim(body)


def test_two_nodes_cannot_listen_at_one_name_and_port_0_is_resolved() -> None:
    async def body() -> None:
        p = await pair()

        async def ignore(_: Connection) -> None: ...

        with pytest.raises(LinkDown, match="in use"):
            await p.network.transport(C).listen(PORT, ignore, tasks())
        real = await p.network.transport(C).listen(Endpoint("0.0.0.0:0"), ignore, tasks())
        assert real.startswith(C)
        assert not real.endswith(":0")

    claim(body)


def test_a_rule_broken_in_accept_closes_the_connection() -> None:
    async def body() -> None:
        network = MemoryNetwork()

        async def strict(link: Connection) -> None:
            await link.receive()
            raise ProtocolError("a stranger may only redeem")

        await network.transport(B).listen(PORT, strict, tasks())
        link = await network.transport(A).dial(PORT, expect=B, deadline_s=1)
        await link.send(leave(0))
        with pytest.raises(LinkDown, match="may only redeem"):
            await link.receive()
        assert network.counters.rejected["protocol"] == 1

    claim(body)


def test_a_fault_in_accept_closes_its_connection_and_is_an_event() -> None:
    async def body() -> None:
        network, events, ended = MemoryNetwork(), list[Event](), list[Exception]()

        async def faulty(link: Connection) -> None:
            await link.receive()
            raise KeyError("nodes")

        await network.transport(B).listen(PORT, faulty, Tasks(events.append, ended.append))
        for _ in range(2):  # the listener goes on
            link = await network.transport(A).dial(PORT, expect=B, deadline_s=1)
            await link.send(leave(0))
            with pytest.raises(LinkDown, match="internal error"):
                await link.receive()
        assert [type(e) for e in events] == [TaskFailed] * 2
        assert not ended

    claim(body)


def test_closing_a_transport_ends_its_connections_and_its_listeners() -> None:
    async def body() -> None:
        network = MemoryNetwork()

        async def read_on(link: Connection) -> None:
            while True:
                await link.receive()

        transport = network.transport(B)
        await transport.listen(PORT, read_on, tasks())
        link = await network.transport(A).dial(PORT, expect=B, deadline_s=1)
        await asyncio.sleep(0.1)
        await transport.close()
        with pytest.raises(LinkDown, match="leaving"):
            await link.receive()
        with pytest.raises(LinkDown, match="refused"):
            await network.transport(A).dial(PORT, expect=B, deadline_s=1)
        assert isinstance(link, MemoryConnection)

    claim(body)
