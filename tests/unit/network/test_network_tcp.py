"""Claims about network/tcp.py, on loopback with real TLS, on both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import ssl
import struct
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest
import uvloop

from farflung.errors import FarflungError, FrameError, LinkDown, ProtocolError
from farflung.events import ConnectionsNotAccepted, Event, TaskFailed
from farflung.ids import Endpoint, NodeId, RunId, split_endpoint
from farflung.network import messages as m
from farflung.network.frames import encode_bulk, encode_control
from farflung.network.limits import Counters, Limits
from farflung.network.link import BulkFrame, Connection
from farflung.network.sockets import USER_TIMEOUT_MS
from farflung.network.tcp import TcpTransport, dial_stranger, redeem
from farflung.network.tcp_connection import TcpConnection
from farflung.network.tls import RunAuthority, client_context, redeem_context
from farflung.swarm.identity import Identity
from farflung.tasks import Tasks, nothing_else

RUN = RunId("0123456789abcdef")
AUTHORITY = RunAuthority.create(RUN)
HEAD = m.SliceResult(term=1, round=1, attempt=1, slice=0, first=0, stop=1)
MIB = 2**20
SHORT = Limits(first_message_s=0.2, stranger_s=0.6, stall_s=0.2, handshake_s=0.3, shutdown_s=0.3)
ANY = Endpoint("127.0.0.1:0")


def tasks() -> Tasks:
    return Tasks(print, nothing_else)


def transport(
    who: Identity,
    role: str = "peer",
    *,
    authority: RunAuthority = AUTHORITY,
    limits: Limits | None = None,
    counters: Counters | None = None,
) -> TcpTransport:
    return TcpTransport.for_node(
        key_pem=who.private_pem,
        certificate_pem=authority.issue(who.public_key, who.node_id, role),
        ca_pem=authority.ca_pem,
        limits=limits or Limits(shutdown_s=0.5),
        counters=counters,
    )


@dataclass
class World:
    """B listens as `role`; A may dial."""

    a: TcpTransport
    b: TcpTransport
    endpoint: Endpoint
    arrived: asyncio.Queue[Connection]
    counters: Counters
    node_a: NodeId
    node_b: NodeId

    async def pair(self) -> tuple[Connection, Connection]:
        near = await self.a.dial(self.endpoint, expect=self.node_b, deadline_s=5)
        return near, await self.arrived.get()


Body = Callable[[World], Awaitable[None]]


def claim(body: Body, *, limits: Limits | None = None, role: str = "peer") -> None:
    """Run the body on the standard loop and on uvloop."""
    for factory in (asyncio.new_event_loop, uvloop.new_event_loop):
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(asyncio.wait_for(_with_world(body, limits, role), 8))


async def _with_world(body: Body, limits: Limits | None, role: str) -> None:
    one, two = Identity.from_seed(b"a" * 32), Identity.from_seed(b"b" * 32)
    counters = Counters()
    b = transport(two, role, limits=limits, counters=counters)
    arrived: asyncio.Queue[Connection] = asyncio.Queue()
    endpoint = await b.listen(ANY, arrived.put, tasks())
    a = transport(one)
    try:
        await body(World(a, b, endpoint, arrived, counters, one.node_id, two.node_id))
    finally:
        await a.close()
        await b.close()


async def until(done: Callable[[], bool]) -> None:
    while not done():  # noqa: ASYNC110  # the counters have no event
        await asyncio.sleep(0.01)


def raw_client(world: World, context: ssl.SSLContext) -> ssl.SSLSocket:
    """A blocking TLS client that may send anything; connect it in a thread."""
    plain = socket.create_connection(split_endpoint(world.endpoint), timeout=5)
    return context.wrap_socket(plain)


def member_context(who: Identity, authority: RunAuthority = AUTHORITY) -> ssl.SSLContext:
    pem = authority.issue(who.public_key, who.node_id, "peer")
    return client_context(pem, who.private_pem, AUTHORITY.ca_pem)


MEMBER = Identity.from_seed(b"m" * 32)


async def hostile(
    world: World, raw: bytes, bulk: Callable[[m.BulkHeader], int] | None = None
) -> FarflungError:
    """What the listener's receive says to a member who sends these bytes."""
    client = await asyncio.to_thread(raw_client, world, member_context(MEMBER))
    try:
        link = await world.arrived.get()
        link.bulk_size = bulk
        await asyncio.to_thread(client.sendall, raw)
        with pytest.raises(FarflungError) as caught:
            await link.receive()
        with pytest.raises(LinkDown):
            await link.send(m.Catalogue())
        return caught.value
    finally:
        client.close()


def test_both_ends_are_authenticated_and_talk() -> None:
    async def body(world: World) -> None:
        near, far = await world.pair()
        assert (near.remote, near.remote_role) == (world.node_b, "peer")
        assert (far.remote, far.remote_role) == (world.node_a, "peer")
        for i in range(200):
            await near.send(m.Leave(reason=str(i)))
        got = [await far.receive() for _ in range(200)]
        assert got == [m.Leave(reason=str(i)) for i in range(200)]
        await far.send(m.Catalogue())
        assert await near.receive() == m.Catalogue()
        assert near.sent_bytes == far.received_bytes

    claim(body)


def test_16_mib_travel_both_ways_at_once_in_4_mib_frames() -> None:
    block = bytes(range(256)) * (4 * MIB // 256)

    async def body(world: World) -> None:
        near, far = await world.pair()

        async def send(link: Connection) -> None:
            for _ in range(4):
                await link.send_bulk(HEAD, memoryview(block))

        async def take(link: Connection) -> None:
            link.bulk_size = lambda _: 4 * MIB
            for _ in range(4):
                frame = await link.receive()
                assert isinstance(frame, BulkFrame)
                assert frame.payload == block

        await asyncio.gather(send(near), send(far), take(near), take(far))
        assert near.sent_bytes == far.received_bytes > 16 * MIB

    claim(body)


def test_bulk_that_arrives_before_the_owner_is_ready_waits_for_it() -> None:
    async def body(world: World) -> None:
        near, far = await world.pair()
        await near.send(m.Catalogue())
        await near.send_bulk(HEAD, bytes(100_000))
        await asyncio.sleep(0.1)
        assert await far.receive() == m.Catalogue()
        far.bulk_size = lambda _: 100_000
        frame = await far.receive()
        assert isinstance(frame, BulkFrame)
        await near.send_bulk(HEAD, bytes(100_000))
        assert isinstance(await far.receive(), BulkFrame)

    claim(body)


def test_a_receiver_that_does_not_receive_holds_its_sender_back() -> None:
    async def body(world: World) -> None:
        near, far = await world.pair()
        far.bulk_size = lambda _: 8 * MIB

        async def flood() -> None:
            for _ in range(8):
                await near.send_bulk(HEAD, bytes(8 * MIB))

        task = asyncio.create_task(flood())
        await asyncio.sleep(0.3)
        assert not task.done()
        assert far.received_bytes < MIB
        for _ in range(8):
            await far.receive()
        await task

    claim(body)


def test_a_cancelled_sender_leaves_no_half_frame_behind() -> None:
    async def body(world: World) -> None:
        near, far = await world.pair()
        far.bulk_size = lambda _: 8 * MIB
        for _ in range(4):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.02):
                    await near.send_bulk(HEAD, bytes(8 * MIB))
        sending = asyncio.create_task(near.send(m.Leave(reason="after")))
        while isinstance(got := await far.receive(), BulkFrame):
            pass
        assert got == m.Leave(reason="after")
        await sending

    claim(body)


def test_close_delivers_the_last_words_and_then_both_ends_are_down() -> None:
    async def body(world: World) -> None:
        near, far = await world.pair()
        await near.send(m.Refuse(sentence="full"))
        near.close("full")
        assert await far.receive() == m.Refuse(sentence="full")
        with pytest.raises(LinkDown):
            await far.receive()
        with pytest.raises(LinkDown, match="full"):
            await near.receive()
        with pytest.raises(LinkDown):
            await near.send(m.Catalogue())
        with pytest.raises(LinkDown):
            await far.send_bulk(HEAD, b"x")

    claim(body)


def test_a_waiting_receiver_is_woken_when_the_other_side_goes() -> None:
    async def body(world: World) -> None:
        near, far = await world.pair()
        waiting = asyncio.create_task(far.receive())
        await asyncio.sleep(0.02)
        near.close()
        with pytest.raises(LinkDown, match="other side"):
            await waiting

    claim(body)


@pytest.mark.parametrize(
    ("raw", "kind", "sentence"),
    [
        (b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n", FrameError, "bad magic"),
        (struct.pack("<4sBBHIQI", b"FFL1", 1, 2, 0, 9, 2**60, 0), FrameError, "exceeds the cap"),
        (struct.pack("<4sBBHIQI", b"FFL1", 1, 1, 0, 2**31, 0, 0), FrameError, "exceeds the cap"),
        (struct.pack("<4sBBHIQI", b"FFL1", 1, 9, 0, 9, 0, 0), FrameError, "unknown frame kind"),
        (encode_control(m.Catalogue(), 5), FrameError, "frame 5 follows where 0 is due"),
        (encode_bulk(HEAD, 0, 5), ProtocolError, "no bulk frames are expected"),
    ],
)
def test_bad_bytes_close_the_connection_with_a_sentence(
    raw: bytes, kind: type[Exception], sentence: str
) -> None:
    async def body(world: World) -> None:
        error = await hostile(world, raw)
        assert isinstance(error, kind)
        assert sentence in str(error)
        assert world.counters.rejected["frame"] == 1

    claim(body)


def test_a_bulk_frame_of_another_size_than_planned_is_refused() -> None:
    async def body(world: World) -> None:
        error = await hostile(world, encode_bulk(HEAD, 0, 5), lambda _: 6)
        assert "the plan says 6" in str(error)

    claim(body)


def test_a_frame_that_stops_in_the_middle_ends_the_connection() -> None:
    async def body(world: World) -> None:
        frame = encode_control(m.Leave(reason="never comes"), 0)
        error = await hostile(world, frame[:-1])
        assert "too slowly" in str(error)
        whole = encode_bulk(HEAD, 0, 100) + bytes(99)
        error = await hostile(world, whole, lambda _: 100)
        assert "too slowly" in str(error)
        assert world.counters.rejected["slow"] == 2

    claim(body, limits=SHORT)


def test_a_silent_member_is_no_slow_sender() -> None:
    async def body(world: World) -> None:
        near, far = await world.pair()
        await near.send(m.Catalogue())
        assert await far.receive() == m.Catalogue()
        await asyncio.sleep(0.6)
        await near.send(m.Catalogue())
        assert await far.receive() == m.Catalogue()

    claim(body, limits=SHORT)


def test_a_stranger_who_says_nothing_is_closed_after_the_first_message_limit() -> None:
    async def body(world: World) -> None:
        client = await asyncio.to_thread(raw_client, world, redeem_context())
        link = await world.arrived.get()
        assert link.remote is None
        with pytest.raises(ProtocolError, match="no complete message"):
            await link.receive()
        client.close()
        assert world.counters.rejected["slow"] == 1

    claim(body, limits=SHORT)


def test_a_stranger_who_goes_on_talking_is_closed_too() -> None:
    async def body(world: World) -> None:
        client = await asyncio.to_thread(raw_client, world, redeem_context())
        link = await world.arrived.get()
        await asyncio.to_thread(client.sendall, encode_control(m.Catalogue(), 0))
        assert await link.receive() == m.Catalogue()
        with pytest.raises(LinkDown, match="time is up"):
            await link.receive()
        client.close()

    claim(body, limits=SHORT)


def test_strangers_are_limited_to_4_kib_and_in_number() -> None:
    async def body(world: World) -> None:
        client = await asyncio.to_thread(raw_client, world, redeem_context())
        link = await world.arrived.get()
        await asyncio.to_thread(
            client.sendall, encode_control(m.JournalFrames(first=0, frames=(bytes(5000),)), 0)
        )
        with pytest.raises(FrameError, match="4096"):
            await link.receive()
        client.close()
        address = split_endpoint(world.endpoint)
        silent = [socket.create_connection(address) for _ in range(4)]
        await until(lambda: world.counters.rejected["crowd"] >= 1)
        await until(lambda: world.counters.rejected["handshake"] >= 3)  # they never begin TLS
        for one in silent:
            one.close()
        near, _ = await world.pair()
        assert near.remote == world.node_b

    claim(body, limits=Limits(handshake_s=0.3, strangers_per_address=3, shutdown_s=0.3))


def test_a_member_does_not_count_as_a_stranger_after_its_handshake() -> None:
    async def body(world: World) -> None:
        for _ in range(6):
            await world.pair()
        assert world.counters.rejected["crowd"] == 0

    claim(body, limits=Limits(strangers_per_address=2, shutdown_s=0.3))


def test_a_certificate_of_another_authority_is_refused_by_both_sides() -> None:
    impostor = RunAuthority.create(RUN)

    async def body(world: World) -> None:
        stranger = transport(MEMBER, authority=impostor)
        with pytest.raises(ProtocolError, match="certificate refused"):
            await stranger.dial(world.endpoint, expect=world.node_b, deadline_s=5)
        blind = redeem_context()  # takes any server, and shows a certificate of the wrong CA
        own = client_context(
            impostor.issue(MEMBER.public_key, MEMBER.node_id, "peer"),
            MEMBER.private_pem,
            AUTHORITY.ca_pem,
        )
        assert blind.verify_mode == ssl.CERT_NONE
        with contextlib.suppress(OSError):
            client = await asyncio.to_thread(raw_client, world, own)
            client.close()
        await until(lambda: world.counters.rejected["handshake"] >= 2)
        assert world.arrived.empty()
        await stranger.close()

    claim(body)


def test_the_wrong_node_the_wrong_role_and_an_expired_certificate_are_refused() -> None:
    async def body(world: World) -> None:
        with pytest.raises(ProtocolError, match="was expected"):
            await world.a.dial(world.endpoint, expect=NodeId("0" * 40), deadline_s=5)
        with pytest.raises(ProtocolError, match="not the coordinator"):
            await world.a.dial(world.endpoint, expect=None, deadline_s=5)
        late = AUTHORITY.issue(MEMBER.public_key, MEMBER.node_id, "peer", hours=-1)
        old = TcpTransport.for_node(
            key_pem=MEMBER.private_pem, certificate_pem=late, ca_pem=AUTHORITY.ca_pem
        )
        endpoint = await old.listen(ANY, world.arrived.put, tasks())
        with pytest.raises(ProtocolError, match=r"expired; check the clocks"):
            await world.a.dial(endpoint, expect=MEMBER.node_id, deadline_s=5)
        await old.close()

    claim(body)


def test_a_renewed_certificate_serves_the_next_handshake_on_both_sides() -> None:
    async def body(world: World) -> None:
        late = AUTHORITY.issue(MEMBER.public_key, MEMBER.node_id, "peer", hours=-1)
        one = TcpTransport.for_node(
            key_pem=MEMBER.private_pem, certificate_pem=late, ca_pem=AUTHORITY.ca_pem
        )
        endpoint = await one.listen(ANY, world.arrived.put, tasks())
        one.credentials.renew(AUTHORITY.issue(MEMBER.public_key, MEMBER.node_id, "peer"))
        await world.a.dial(endpoint, expect=MEMBER.node_id, deadline_s=5)
        await one.dial(world.endpoint, expect=world.node_b, deadline_s=5)
        other = Identity.generate()
        with pytest.raises(ProtocolError, match="another node"):
            one.credentials.renew(AUTHORITY.issue(other.public_key, other.node_id, "peer"))
        await one.close()

    claim(body)


def test_a_stranger_redeems_with_the_proven_coordinator_only() -> None:
    message = m.Redeem(invite="ff1x", public_key=bytes(32), name="ann")

    async def answer(world: World) -> None:
        link = await world.arrived.get()
        assert link.remote is None
        assert await link.receive() == message
        await link.send(m.Refuse(sentence="used up"))
        link.close()

    async def body(world: World) -> None:
        serving = asyncio.create_task(answer(world))
        got = await redeem(world.endpoint, AUTHORITY.public_key, message, deadline_s=5)
        assert got == m.Refuse(sentence="used up")
        await serving
        with pytest.raises(ProtocolError, match="not signed by the run"):
            await redeem(world.endpoint, bytes(MEMBER.public_key), message, deadline_s=5)
        # The dialler hangs up at once: the handshake may or may not have ended at the server.
        await until(lambda: not world.arrived.empty() or world.counters.rejected["handshake"] > 0)
        if not world.arrived.empty():
            link = world.arrived.get_nowait()
            with pytest.raises(LinkDown):
                await link.receive()
            assert link.received_bytes == 0  # nothing was said to the impostor

    claim(body, role="coordinator")


def test_a_peer_cannot_pose_as_the_coordinator_to_a_stranger() -> None:
    async def body(world: World) -> None:
        with pytest.raises(ProtocolError, match="not the coordinator"):
            await dial_stranger(world.endpoint, ca_public_key=AUTHORITY.public_key, deadline_s=5)

    claim(body, role="peer")


def test_what_cannot_be_reached_is_link_down_with_a_sentence() -> None:
    async def body(world: World) -> None:
        free = socket.create_server(("127.0.0.1", 0))
        port = free.getsockname()[1]
        with pytest.raises(LinkDown, match=r"no answer in 0\.2 s"):
            await world.a.dial(Endpoint(f"127.0.0.1:{port}"), expect=None, deadline_s=0.2)
        free.close()
        with pytest.raises(LinkDown, match=f"cannot reach 127.0.0.1:{port}: connection refused"):
            await world.a.dial(Endpoint(f"127.0.0.1:{port}"), expect=None, deadline_s=5)
        with pytest.raises(LinkDown, match="does not resolve"):
            await world.a.dial(Endpoint("nowhere.invalid:1"), expect=None, deadline_s=5)
        with pytest.raises(LinkDown, match="HOST:PORT"):
            await world.a.dial(Endpoint("nowhere"), expect=None, deadline_s=5)
        for host in ("a" * 70, "a..b", "a\0b"):  # a member may advertise anything
            with pytest.raises(LinkDown):
                await world.a.dial(Endpoint(f"{host}:1"), expect=None, deadline_s=5)
        with pytest.raises(LinkDown, match=r"cannot listen on .*in use"):
            await world.a.listen(world.endpoint, world.arrived.put, tasks())

    claim(body)


def test_a_name_is_resolved_and_tls_1_2_is_refused() -> None:
    async def body(world: World) -> None:
        _, port = split_endpoint(world.endpoint)
        link = await world.a.dial(Endpoint(f"localhost:{port}"), expect=world.node_b, deadline_s=5)
        assert link.remote == world.node_b
        await world.arrived.get()
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname = False
        old.verify_mode = ssl.CERT_NONE
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(OSError, match=r"(?i)protocol version|alert|closed|eof|reset"):
            await asyncio.to_thread(raw_client, world, old)

    claim(body)


def test_a_rule_broken_in_accept_closes_the_connection_and_is_counted() -> None:
    async def body(world: World) -> None:
        async def strict(link: Connection) -> None:
            await link.receive()
            raise ProtocolError("a stranger may only redeem an invite")

        endpoint = await world.b.listen(ANY, strict, tasks())
        link = await world.a.dial(endpoint, expect=world.node_b, deadline_s=5)
        await link.send(m.Catalogue())
        with pytest.raises(LinkDown):
            await link.receive()
        assert world.counters.rejected["protocol"] == 1

    claim(body)


def test_a_fault_in_accept_closes_its_connection_and_is_an_event() -> None:
    async def body(world: World) -> None:
        events, ended = list[Event](), list[Exception]()

        async def faulty(link: Connection) -> None:
            await link.receive()
            raise KeyError("nodes")

        endpoint = await world.b.listen(ANY, faulty, Tasks(events.append, ended.append))
        for _ in range(2):  # the listener goes on
            link = await world.a.dial(endpoint, expect=world.node_b, deadline_s=5)
            await link.send(m.Catalogue())
            with pytest.raises(LinkDown):
                await link.receive()
        assert [type(e) for e in events] == [TaskFailed] * 2
        assert not ended

    claim(body)


def test_a_fault_of_the_owner_of_a_link_reaches_its_receiver() -> None:
    """Not a callback of the loop, where nobody would see it."""

    async def body(world: World) -> None:
        for waits in (True, False):
            near, far = await world.pair()
            far.bulk_size = lambda _: {}["round"]
            receiving = asyncio.ensure_future(far.receive()) if waits else None
            await asyncio.sleep(0)
            with contextlib.suppress(LinkDown):
                await near.send_bulk(HEAD, bytes(MIB))
            with pytest.raises(KeyError, match="round"):
                await (receiving or far.receive())
            with pytest.raises(LinkDown):
                await near.receive()

    claim(body)


def test_a_fault_in_listening_reaches_its_owner() -> None:
    async def body(world: World) -> None:
        ended: list[Exception] = []
        one = transport(MEMBER)
        one._crowded = lambda _: {}["host"]  # type: ignore[assignment,method-assign]
        endpoint = await one.listen(ANY, world.arrived.put, Tasks(print, ended.append))
        with contextlib.suppress(FarflungError):
            await world.a.dial(endpoint, expect=MEMBER.node_id, deadline_s=0.2)
        await until(lambda: bool(ended))
        await one.close()
        assert isinstance(ended[0], KeyError)

    claim(body)


def test_closing_a_transport_ends_its_listeners_connections_and_tasks() -> None:
    async def body(world: World) -> None:
        async def read_on(link: Connection) -> None:
            while True:
                await link.receive()

        one = transport(MEMBER)
        endpoint = await one.listen(ANY, read_on, tasks())
        link = await world.a.dial(endpoint, expect=MEMBER.node_id, deadline_s=5)
        await link.send(m.Catalogue())
        await one.close()
        with pytest.raises(LinkDown):
            await link.receive()
        with pytest.raises(LinkDown):
            await world.a.dial(endpoint, expect=MEMBER.node_id, deadline_s=5)

    claim(body)


def test_acknowledged_bytes_are_what_the_other_machine_took() -> None:
    """Buffers of TLS and of the loop do not count as sent."""

    async def body(world: World) -> None:
        near, far = await world.pair()
        far.bulk_size = lambda _: MIB
        for _ in range(2):
            await near.send_bulk(HEAD, bytes(MIB))
        for _ in range(2):
            await far.receive()
        await until(lambda: near.waiting_bytes == 0)
        assert 2 * MIB <= near.acknowledged_bytes <= 1.05 * near.sent_bytes
        before = near.acknowledged_bytes
        near.close()
        assert near.acknowledged_bytes == before
        assert near.waiting_bytes == 0

    claim(body)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux counts for us")
def test_the_system_counts_what_a_connection_carries() -> None:
    async def body(world: World) -> None:
        near, far = await world.pair()
        far.bulk_size = lambda _: MIB
        first = near.counts()
        assert first is not None
        for _ in range(4):
            await near.send_bulk(HEAD, bytes(MIB))
            await far.receive()
        await until(lambda: near.waiting_bytes == 0)
        last = near.counts()
        assert last is not None
        moved = last.minus(first)
        assert 4 * MIB <= moved.acknowledged <= 4.2 * MIB
        assert 4 * MIB / 65_536 <= moved.segments <= 4 * MIB / 500
        assert 0 <= moved.retransmitted <= moved.segments and moved.busy_s >= 0
        assert 0 < moved.rtt_s < 5 and moved.delivery_bytes_per_s > 0
        near.close()
        assert near.counts() is None

    claim(body)


def test_bytes_are_counted_until_the_very_end_of_a_connection() -> None:
    """uvloop has no socket any more some time before it says that the connection is lost."""

    async def body(world: World) -> None:
        for aborted in (True, False):
            near, far = await world.pair()
            await near.send(m.Catalogue())
            await far.receive()
            if aborted:
                far.abort()
            else:
                far.close()
            counted = 0
            while not near.lost.done():
                counted = max(counted, near.acknowledged_bytes)
                assert near.waiting_bytes >= 0
                assert near.acknowledged_bytes == counted <= near.sent_bytes * 1.5 + 4096
                await asyncio.sleep(0)
            assert near.acknowledged_bytes == counted > 0

    claim(body)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system has no such limit")
def test_the_system_notices_a_dead_line_at_both_ends() -> None:
    async def body(world: World) -> None:
        for link in await world.pair():
            assert isinstance(link, TcpConnection)
            sock = link._socket()
            assert sock is not None
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            limit = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            assert limit == USER_TIMEOUT_MS

    claim(body)


def test_a_connection_that_is_reset_at_once_closes_its_descriptor_once() -> None:
    """uvloop does it twice with a socket of ours; by then a thread's file may have the number."""
    told: list[str] = []

    async def body(world: World) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            resetting = asyncio.create_task(asyncio.to_thread(reset_all, server))
            endpoint = Endpoint(f"127.0.0.1:{server.getsockname()[1]}")
            try:
                for _ in range(200):
                    with pytest.raises(LinkDown) as caught:
                        await world.a.dial(endpoint, expect=world.node_b, deadline_s=5)
                    told.append(str(caught.value))
            finally:
                server.shutdown(socket.SHUT_RDWR)
                await resetting

    claim(body)
    assert len(told) == 400
    assert not [sentence for sentence in told if "bad file descriptor" in sentence]


def reset_all(server: socket.socket) -> None:
    """Accept and reset until the server is shut down."""
    with contextlib.suppress(OSError):
        while True:
            client, _ = server.accept()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()


def test_bytes_for_a_reader_that_takes_none_wait() -> None:
    async def body(world: World) -> None:
        near, _ = await world.pair()
        frames = [near.send_bulk(HEAD, bytes(8 * MIB)) for _ in range(4)]
        sending = [asyncio.create_task(frame) for frame in frames]
        await until(lambda: near.waiting_bytes > 0)
        await asyncio.sleep(0.2)
        assert near.acknowledged_bytes < 32 * MIB
        assert near.waiting_bytes > 0
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)

    claim(body)


@pytest.mark.parametrize("on", ["asyncio", "uvloop"])
def test_exhausted_descriptors_are_told_once_and_accepting_goes_on(on: str) -> None:
    """Real ones: as many files are open as the process may have."""

    async def main() -> list[Event]:
        told: list[Event] = []
        heard = asyncio.Event()

        def hear(event: Event) -> None:
            told.append(event)
            heard.set()

        a, b = Identity.generate(), Identity.generate()
        server, client = transport(b), transport(a)
        arrived: asyncio.Queue[Connection] = asyncio.Queue()

        async def accept(link: Connection) -> None:
            arrived.put_nowait(link)
            await link.receive()

        owner = Tasks(hear, nothing_else)
        endpoint = await server.listen(ANY, accept, owner)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        host, port = split_endpoint(endpoint)
        sock = socket.socket()
        sock.setblocking(False)
        spare = os.dup(0)
        resource.setrlimit(resource.RLIMIT_NOFILE, (spare + 1, hard))
        os.close(spare)
        held = [os.dup(0)]
        try:
            sock.connect_ex((host, port))
            async with asyncio.timeout(10):
                await heard.wait()
            await asyncio.sleep(0.3)
        finally:
            for descriptor in held:
                os.close(descriptor)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            sock.close()
        await client.dial(endpoint, expect=b.node_id, deadline_s=5)
        await arrived.get()
        await client.close()
        await server.close()
        await owner.close()
        return told

    factory = uvloop.new_event_loop if on == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        told = runner.run(main())
    assert [type(e) for e in told] == [ConnectionsNotAccepted]
