"""Connections over TCP and TLS 1.3, for the standard event loop and uvloop alike.

Data lands in the buffer of the frame it belongs to (BufferedProtocol); streams would cost five
times the processor time under TLS. Whole frames are handed to the TLS layer at once, so that a
cancelled sender never leaves half a frame behind, and senders wait for the socket afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from collections.abc import Callable
from typing import Self

from farflung.errors import LinkDown, ProtocolError
from farflung.events import ConnectionsNotAccepted
from farflung.ids import Endpoint, NodeId
from farflung.network import sockets
from farflung.network.limits import Counters, Limits
from farflung.network.link import Accept, BulkFrame, finish
from farflung.network.messages import Control, Redeem
from farflung.network.tcp_connection import InboundConnection, TcpConnection
from farflung.network.tls import (
    Credentials,
    PeerName,
    check_expected,
    check_member,
    redeem_context,
    remote_name,
    verify_coordinator,
)
from farflung.tasks import Tasks, nothing_else

EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""What this process or its machine has run out of; nothing that a client did."""
REMIND_S = 600.0


class TcpTransport:
    """Dials and listens with one node's credentials. See link.Transport."""

    def __init__(
        self,
        credentials: Credentials,
        *,
        limits: Limits | None = None,
        counters: Counters | None = None,
    ) -> None:
        self.credentials = credentials
        self.limits = limits or Limits()
        self.counters = counters or Counters()
        self._listeners: list[tuple[asyncio.Task[None], socket.socket]] = []
        self._serving: dict[asyncio.Task[None], None] = {}
        self._connections: set[TcpConnection] = set()
        self._strangers: dict[str, int] = {}

    @classmethod
    def for_node(
        cls,
        *,
        key_pem: bytes,
        certificate_pem: str,
        ca_pem: str,
        limits: Limits | None = None,
        counters: Counters | None = None,
    ) -> Self:
        """From PEM texts: the node's PKCS8 key, its certificate, the run's CA certificate."""
        credentials = Credentials(certificate_pem, key_pem, ca_pem)
        return cls(credentials, limits=limits, counters=counters)

    # ---- dialling --------------------------------------------------------------------------

    async def dial(
        self, endpoint: Endpoint, *, expect: NodeId | None, deadline_s: float
    ) -> TcpConnection:
        return await self._dial(endpoint, lambda name: check_expected(name, expect), deadline_s)

    async def dial_member(self, endpoint: Endpoint, *, deadline_s: float) -> TcpConnection:
        """As `dial`, for whichever node of the run answers there."""
        return await self._dial(endpoint, check_member, deadline_s)

    async def _dial(
        self, endpoint: Endpoint, check: Callable[[PeerName | None], PeerName], deadline_s: float
    ) -> TcpConnection:
        connection = await _connect(
            endpoint, self.credentials.client, self.limits, self.counters, deadline_s
        )
        try:
            name = remote_name(connection.tls().getpeercert(), self.credentials.name.run)
            connection.introduce(check(name))
        except ProtocolError:
            connection.abort()
            raise
        self._adopt(connection)
        return connection

    def _adopt(self, connection: TcpConnection) -> None:
        self._connections.add(connection)
        connection.lost.add_done_callback(lambda _: self._connections.discard(connection))

    # ---- listening -------------------------------------------------------------------------

    async def listen(self, bind: Endpoint, accept: Accept, tasks: Tasks) -> Endpoint:
        listener, endpoint = await sockets.listening_socket(bind)
        task = tasks.start(self._accept_all(listener, accept, tasks), f"listen at {endpoint}")
        self._listeners.append((task, listener))
        return endpoint

    async def _accept_all(self, listener: socket.socket, accept: Accept, tasks: Tasks) -> None:
        loop = asyncio.get_running_loop()
        told_s = -REMIND_S
        while True:
            try:
                client, address = await loop.sock_accept(listener)
            except OSError as error:  # out of descriptors, or the client is gone already
                self.counters.reject("crowd", f"cannot accept: {sockets.reason(error)}")
                if error.errno in EXHAUSTED and loop.time() - told_s >= REMIND_S:
                    told_s = loop.time()
                    tasks.tell(ConnectionsNotAccepted(reason=sockets.reason(error)))
                await asyncio.sleep(0.1)
                continue
            try:
                self._begin(client, str(address[0]), accept, tasks)
            except Exception:
                client.close()
                raise

    def _begin(self, client: socket.socket, host: str, accept: Accept, tasks: Tasks) -> None:
        """Serve an inbound connection, unless there are too many that nobody vouches for."""
        if self._crowded(host):
            self.counters.reject("crowd", f"too many unauthenticated connections, {host} last")
            client.close()
            return
        # Counted here: the next accept may come before the task has begun.
        self._strangers[host] = self._strangers.get(host, 0) + 1
        work = self._serve(client, host, accept)
        # What fails in there has closed its connection; nothing else depends on it.
        task = tasks.start(work, f"serve {host}", on_failure=nothing_else)
        self._serving[task] = None
        task.add_done_callback(lambda done: self._serving.pop(done, None))

    def _crowded(self, host: str) -> bool:
        total = sum(self._strangers.values())
        here = self._strangers.get(host, 0)
        limits = self.limits
        return total >= limits.strangers or here >= limits.strangers_per_address

    async def _serve(self, client: socket.socket, host: str, accept: Accept) -> None:
        """One inbound connection: handshake, then the owner's `accept`."""
        connection = None
        try:
            connection = await self._handshake(client, host)
        finally:
            if connection is not None and connection.remote is None:
                connection.lost.add_done_callback(lambda _: self._forget_stranger(host))
            else:
                self._forget_stranger(host)
        if connection is not None:
            await self._run_accept(connection, accept)

    def _forget_stranger(self, host: str) -> None:
        self._strangers[host] -= 1
        if not self._strangers[host]:
            del self._strangers[host]

    async def _handshake(self, client: socket.socket, host: str) -> TcpConnection | None:
        connection = InboundConnection(self.limits, self.counters, self.credentials.name.run)
        try:
            sockets.tune(client)
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection,  # uvloop returns its own protocol, not this one
                client,
                ssl=self.credentials.server,
                ssl_handshake_timeout=self.limits.handshake_s,
                ssl_shutdown_timeout=self.limits.shutdown_s,
            )
        except (OSError, TimeoutError, ProtocolError) as error:
            self.counters.reject("handshake", f"{host}: {sockets.reason(error)}")
            client.close()
            return None
        except Exception:
            client.close()
            raise
        self._adopt(connection)
        if connection.refusal is not None:
            self.counters.reject("handshake", f"{host}: {connection.refusal}")
            connection.abort()
            return None
        return connection

    async def _run_accept(self, connection: TcpConnection, accept: Accept) -> None:
        try:
            await accept(connection)
        except LinkDown:
            connection.close()
        except ProtocolError as error:
            self.counters.reject("protocol", str(error))
            connection.close(str(error))
        except BaseException:
            connection.close("internal error")
            raise

    # ---- the end ---------------------------------------------------------------------------

    async def close(self) -> None:
        listeners, self._listeners = self._listeners, []
        for task, _ in listeners:
            task.cancel()
        await asyncio.gather(*(task for task, _ in listeners), return_exceptions=True)
        for _, listener in listeners:
            listener.close()
        connections = list(self._connections)
        for connection in connections:
            connection.close("leaving")
        await finish(list(self._serving), self.limits.shutdown_s)
        await _settle(connections, self.limits.shutdown_s)


async def dial_stranger(
    endpoint: Endpoint,
    *,
    ca_public_key: bytes,
    deadline_s: float,
    limits: Limits | None = None,
) -> TcpConnection:
    """Connect without a certificate, to redeem an invite.

    Returns only after the server has proved to be the coordinator that the invite's CA key names:
    nothing of ours was sent. LinkDown and ProtocolError as `dial`. The caller closes it.
    """
    connection = await _connect(
        endpoint, redeem_context(), limits or Limits(), Counters(), deadline_s
    )
    try:
        certificate = connection.tls().getpeercert(binary_form=True)
        connection.introduce(verify_coordinator(certificate, ca_public_key))
    except ProtocolError:
        connection.abort()
        raise
    return connection


async def redeem(
    endpoint: Endpoint, ca_public_key: bytes, message: Redeem, *, deadline_s: float
) -> Control:
    """Send one message as a stranger to the proven coordinator; its answer.

    LinkDown when there is none by the deadline; ProtocolError when the server is somebody else.
    """
    connection = await dial_stranger(endpoint, ca_public_key=ca_public_key, deadline_s=deadline_s)
    try:
        async with asyncio.timeout(deadline_s):
            await connection.send(message)
            answer = await connection.receive()
    except TimeoutError:
        raise LinkDown(f"{endpoint} did not answer in {deadline_s:g} s") from None
    finally:
        connection.close()
    if isinstance(answer, BulkFrame):
        raise ProtocolError("bulk instead of an answer")
    return answer


async def _connect(
    endpoint: Endpoint,
    context: ssl.SSLContext,
    limits: Limits,
    counters: Counters,
    deadline_s: float,
) -> TcpConnection:
    """TCP and TLS with the first address that answers, all within the deadline."""
    try:
        async with asyncio.timeout(deadline_s):
            return await _first_to_answer(endpoint, context, limits, counters, deadline_s)
    except TimeoutError:
        raise LinkDown(f"cannot reach {endpoint}: no answer in {deadline_s:g} s") from None
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
        raise LinkDown(f"cannot reach {endpoint}: it hung up during the handshake") from None
    except ssl.SSLError as error:
        raise ProtocolError(f"no trust in {endpoint}: {sockets.reason(error)}") from None
    except OSError as error:
        raise LinkDown(f"cannot reach {endpoint}: {sockets.reason(error)}") from None


async def _first_to_answer(
    endpoint: Endpoint,
    context: ssl.SSLContext,
    limits: Limits,
    counters: Counters,
    deadline_s: float,
) -> TcpConnection:
    """Each address of a name gets its share of the deadline."""
    addresses = await sockets.addresses_of(endpoint)
    failure: OSError = ConnectionError("no address")
    for family, host, port in addresses:
        connection = TcpConnection(limits, counters)
        try:
            async with asyncio.timeout(deadline_s / len(addresses)):
                await _secure(connection, context, family, host, port)
                return connection
        except ssl.SSLError:
            raise  # it did answer
        except OSError as error:  # TimeoutError is one
            failure = error
    raise failure


async def _secure(
    connection: TcpConnection, context: ssl.SSLContext, family: int, host: str, port: int
) -> None:
    """TCP, then TLS.

    Not with a socket of ours: uvloop 0.23 closes such a descriptor twice when the other side resets
    the connection at once, and by then its number may be that of another thread's file.
    """
    transport, _ = await asyncio.get_running_loop().create_connection(
        lambda: connection,
        host,
        port,
        family=family,
        ssl=context,
        server_hostname="",
        ssl_shutdown_timeout=connection.shutdown_s,
    )
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sockets.tune(sock)


async def _settle(connections: list[TcpConnection], grace_s: float) -> None:
    """Let closing connections flush; abort those that do not."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(grace_s):
            await asyncio.gather(*(c.lost for c in connections))
    for connection in connections:
        if not connection.lost.done():
            connection.abort()
    await asyncio.sleep(0)
