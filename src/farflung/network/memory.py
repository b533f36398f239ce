"""The in-memory twin of tcp.py: same frames, same checks, faults on demand, any event loop.

Time comes from the running loop only (call_at), so that a loop with virtual time drives it; order
is deterministic. A partition behaves as TCP does: frames wait, and a connection whose path stays
blocked for `break_after_s` breaks on both sides. `freeze` stops delivery without any break, as
SIGSTOP does; `kill` ends every connection of a node at once, as SIGKILL does.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from dataclasses import dataclass

from farflung.errors import LinkDown, ProtocolError
from farflung.ids import Endpoint, NodeId, split_endpoint
from farflung.network.limits import Counters, Limits
from farflung.network.link import (
    COORDINATOR,
    PEER,
    STRANGER,
    Accept,
    finish,
)
from farflung.network.memory_connection import MemoryConnection, Path, Pipe
from farflung.tasks import Tasks, nothing_else

CLOSE_S = 1.0
"""How long `close` lets the `accept` tasks end by themselves."""


class MemoryTransport:
    """One node's transport; a killed node gets a new one from `MemoryNetwork.transport`."""

    def __init__(self, network: MemoryNetwork, node: NodeId, role: str) -> None:
        self.node, self.role = node, role
        self._network = network
        self._listening: list[str] = []
        self._serving: dict[asyncio.Task[None], None] = {}
        self._context = contextvars.copy_context()
        """The listening node's own: what it accepts runs in it, not in the dialling node's."""
        self.dead = False

    async def listen(self, bind: Endpoint, accept: Accept, tasks: Tasks) -> Endpoint:
        """`ANY:PORT`; dialled as `NODE:PORT`, or as given when the port is not 0."""
        self._check_alive()
        self._context = contextvars.copy_context()
        names = self._network.bind(bind, _Listener(self, accept, tasks))
        self._listening += names
        return Endpoint(names[0])

    async def dial(
        self, endpoint: Endpoint, *, expect: NodeId | None, deadline_s: float
    ) -> MemoryConnection:
        self._check_alive()
        try:
            async with asyncio.timeout(deadline_s):
                return await self._connect(endpoint, expect)
        except TimeoutError:
            raise LinkDown(f"cannot reach {endpoint}: no answer in {deadline_s:g} s") from None

    async def _connect(self, endpoint: Endpoint, expect: NodeId | None) -> MemoryConnection:
        listener = self._network.listener(endpoint)
        there = self._network.path(self.node, listener.transport.node)
        back = self._network.path(listener.transport.node, self.node)
        # One round trip for TCP, one for TLS 1.3.
        await asyncio.sleep(2 * (there.delay_s + back.delay_s))
        await self._network.clear(self.node, listener.transport.node)
        self._check_alive()
        other = self._network.listener(endpoint)
        if expect is not None and other.transport.node != expect:
            raise ProtocolError(
                f"reached {other.transport.node[:8]} where {expect[:8]} was expected"
            )
        if expect is None and other.transport.role != COORDINATOR:
            raise ProtocolError(f"reached {other.transport.node[:8]}, not the coordinator")
        mine, theirs = self._network.connect(self, other.transport)
        other.transport.serve(theirs, other)
        return mine

    def serve(self, connection: MemoryConnection, listener: _Listener) -> None:
        """Accept a connection, as tcp.py does."""
        task = listener.tasks.start(
            _serve(listener.accept, connection, self._network.counters),
            f"serve {(connection.remote or 'a stranger')[:8]}",
            on_failure=nothing_else,  # it has closed the connection
            context=self._context.copy(),
        )
        self._serving[task] = None
        task.add_done_callback(lambda done: self._serving.pop(done, None))

    async def close(self) -> None:
        self.stop_listening()
        for connection in self._network.connections_of(self):
            connection.close("leaving")
        await finish(list(self._serving), CLOSE_S)

    def stop_listening(self) -> None:
        for name in self._listening:
            self._network.unbind(name, self)
        self._listening = []

    def _check_alive(self) -> None:
        if self.dead:
            raise LinkDown(f"{self.node[:8]} was killed")


async def _serve(accept: Accept, connection: MemoryConnection, counters: Counters) -> None:
    try:
        await accept(connection)
    except LinkDown:
        connection.close()
    except ProtocolError as error:
        counters.reject("protocol", str(error))
        connection.close(str(error))
    except BaseException:
        connection.close("internal error")
        raise


@dataclass(frozen=True, slots=True)
class _Listener:
    transport: MemoryTransport
    accept: Accept
    tasks: Tasks


class MemoryNetwork:
    """All links of one simulated world. Belongs to one event loop."""

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        counters: Counters | None = None,
        break_after_s: float = 5.0,
    ) -> None:
        self.limits = limits or Limits()
        self.counters = counters or Counters()
        self._break_after_s = break_after_s
        self._paths: dict[tuple[NodeId, NodeId], Path] = {}
        self._listeners: dict[str, _Listener] = {}
        self._connections: dict[MemoryConnection, MemoryTransport] = {}
        self._transports: dict[NodeId, list[MemoryTransport]] = {}
        self._frozen: set[NodeId] = set()
        self._waiting: list[asyncio.Future[None]] = []
        self._next_port = 40_000
        self.on_send: Callable[[NodeId], None] | None = None
        """Called before each frame that a node sends: a place to kill it."""

    def transport(self, node: NodeId, role: str = PEER) -> MemoryTransport:
        """`coordinator`, `peer`, or empty: a stranger, whom others see as remote None."""
        transport = MemoryTransport(self, node, role)
        self._transports.setdefault(node, []).append(transport)
        return transport

    # ---- faults ----------------------------------------------------------------------------

    def path(self, source: NodeId, target: NodeId) -> Path:
        """The directed path; set its `delay_s` (one way) and `bytes_per_s` freely."""
        return self._paths.setdefault((source, target), Path())

    def set_delay(self, a: NodeId, b: NodeId, delay_s: float) -> None:
        """One-way delay in both directions."""
        self.path(a, b).delay_s = delay_s
        self.path(b, a).delay_s = delay_s

    def partition(self, a: NodeId, b: NodeId, *, one_way: bool = False) -> None:
        """Nothing passes from a to b (nor back); connections break after `break_after_s`.

        One way is enough to break a connection: acknowledgements are lost.
        """
        for path in [self.path(a, b)] if one_way else [self.path(a, b), self.path(b, a)]:
            if not path.blocked:
                path.blocked = True
                path.blockages += 1
                loop = asyncio.get_running_loop()
                between = self._between(a, b)
                loop.call_later(self._break_after_s, self._break, between, path, path.blockages)

    def heal(self, a: NodeId, b: NodeId) -> None:
        self.path(a, b).blocked = False
        self.path(b, a).blocked = False
        self._flow()

    def cut(self, a: NodeId, b: NodeId) -> None:
        """Reset every connection between two nodes; they may dial again at once."""
        for connection in self._between(a, b):
            connection.end(LinkDown("connection reset"))

    def kill(self, node: NodeId) -> None:
        """The process is gone: listeners closed, every connection ended on both sides."""
        for transport in self._transports.pop(node, []):
            transport.dead = True
            transport.stop_listening()
        self._frozen.discard(node)
        for connection in list(self._connections):
            here, there = connection.ends
            if here == node:
                connection.killed = True
                connection.end(LinkDown(f"{node[:8]} was killed"))
            elif there == node and not self.path(node, here).blocked:
                connection.end(LinkDown(f"{node[:8]} closed the connection"))
        self._flow()

    def freeze(self, node: NodeId) -> None:
        """Nothing is delivered to or from the node, and nothing breaks, until `thaw`."""
        self._frozen.add(node)

    def thaw(self, node: NodeId) -> None:
        self._frozen.discard(node)
        self._flow()

    # ---- used by transports and connections ------------------------------------------------

    def held(self, source: NodeId, target: NodeId) -> bool:
        frozen = source in self._frozen or target in self._frozen
        return frozen or self.path(source, target).blocked

    def sending(self, source: NodeId) -> None:
        if self.on_send is not None:
            self.on_send(source)

    async def clear(self, a: NodeId, b: NodeId) -> None:
        """Wait until nothing holds the path between two nodes."""
        while self.held(a, b) or self.held(b, a):
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            await waiter

    def bind(self, bind: Endpoint, listener: _Listener) -> list[str]:
        """Names under which the listener is found. LinkDown when one is taken."""
        transport, (_, port) = listener.transport, split_endpoint(bind)
        names = [f"{transport.node}:{port}", str(bind)]
        if port == 0:
            self._next_port += 1
            names = [f"{transport.node}:{self._next_port}"]
        for name in names:
            if name in self._listeners and self._listeners[name].transport is not transport:
                raise LinkDown(f"cannot listen on {name}: address already in use")
            self._listeners[name] = listener
        return names

    def unbind(self, name: str, transport: MemoryTransport) -> None:
        listener = self._listeners.get(name)
        if listener is not None and listener.transport is transport:
            del self._listeners[name]

    def listener(self, endpoint: Endpoint) -> _Listener:
        """LinkDown when nobody listens there."""
        listener = self._listeners.get(endpoint)
        if listener is None:
            raise LinkDown(f"cannot reach {endpoint}: connection refused")
        return listener

    def connect(
        self, dialler: MemoryTransport, listener: MemoryTransport
    ) -> tuple[MemoryConnection, MemoryConnection]:
        there = Pipe(self, dialler.node, listener.node)
        back = Pipe(self, listener.node, dialler.node)
        known = None if dialler.role == STRANGER else dialler.node
        mine = MemoryConnection(self, listener.node, listener.role, there, back)
        theirs = MemoryConnection(self, known, dialler.role, back, there)
        self._connections[mine] = dialler
        self._connections[theirs] = listener
        return mine, theirs

    def forget(self, connection: MemoryConnection) -> None:
        self._connections.pop(connection, None)

    def connections_of(self, transport: MemoryTransport) -> list[MemoryConnection]:
        return [c for c, owner in self._connections.items() if owner is transport]

    def _between(self, a: NodeId, b: NodeId) -> list[MemoryConnection]:
        return [c for c in self._connections if set(c.ends) == {a, b}]

    def _break(self, connections: list[MemoryConnection], path: Path, blockage: int) -> None:
        if path.blocked and path.blockages == blockage:
            for connection in connections:
                connection.end(LinkDown("no acknowledgement: the path is blocked"))

    def _flow(self) -> None:
        for connection in list(self._connections):
            connection.schedule()
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)
