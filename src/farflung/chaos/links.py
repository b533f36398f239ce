"""Bad networks on one machine without privileges: TCP relays in front of every listener.

Every node advertises its relay, so that all traffic of the swarm passes here. A relay knows who
dialled (`owners.dialler`), and every connection is two directed streams, (from, to) and back.
A directed pair passes, is blocked, capped or delayed; a pair of nodes is reset.

Blocked means what it means on a network: nothing gets through, not even the end of a connection,
nothing is lost, and a new connection hangs. What was sent meanwhile arrives after the block.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from farflung.chaos.effects import UNKNOWN, Counts, Effect, Effects, Pair, Place, Rule
from farflung.events import Emit
from farflung.tasks import Tasks, nothing_else

PIECE = 256 << 10
QUEUED = 8
"""Pieces under way in one direction of a connection."""
SMOOTH_S = 0.05
"""A capped stream sends what it may send in this time at once."""

Who = Callable[[int, int], str]
"""(source port, listening port) -> name of the node that dialled, "" when unknown."""


@dataclass(eq=False)
class _Wire:
    """One relayed connection."""

    source: str
    target: str
    writers: tuple[asyncio.StreamWriter, asyncio.StreamWriter]


class Net:
    """All relays. Owned by one event loop."""

    def __init__(self, who: Who, emit: Emit, address: str = "127.0.0.1") -> None:
        """`emit` hears of a relayed connection that ended by a fault of this program."""
        self._who = who
        self._address = address
        self._servers: list[asyncio.Server] = []
        self._ports = LinkPorts(address)
        self._places: dict[str, Place] = {}
        self._effects = Effects()
        self._changed = asyncio.Event()
        self._wires: set[_Wire] = set()
        self._tasks = Tasks(emit, nothing_else)
        self._free_at_s: dict[Pair, float] = {}
        self.counts = Counts()

    # ---- relays ----------------------------------------------------------------------------

    async def place(self, node: str, listeners: int = 1) -> Place:
        """Ports of the node, and relays in front of them, which it is to advertise."""
        if node not in self._places:
            port, public = self._ports.take(listeners), self._ports.take(listeners)
            for step in range(listeners):
                await self.relay(node, public + step, port + step)
            self._places[node] = Place(
                bind=f"{self._address}:{port}", advertise=f"{self._address}:{public}"
            )
        return self._places[node]

    def cannot(self, effect: Effect) -> str:
        del effect
        return ""

    async def relay(self, node: str, listening: int, port: int) -> None:
        """Listen at the port `listening` and pass everything to `node` at `port`.

        Raises OSError when the port is taken.
        """

        async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await self._connection(node, listening, port, reader, writer)
            finally:
                _close(writer)

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._tasks.start(pass_on(reader, writer), f"relay to {node}")

        server = await asyncio.start_server(accept, self._address, listening, limit=PIECE)
        self._servers.append(server)

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        await self._tasks.close()

    # ---- faults ----------------------------------------------------------------------------

    def apply(self, effect: Effect) -> int:
        token = self._effects.add(effect)
        self._change()
        return token

    def lift(self, token: int) -> None:
        if self._effects.remove(token):
            self._change()

    def heal(self) -> None:
        self._effects.clear()
        self._change()

    def reset(self, a: str, b: str) -> int:
        hit = [w for w in self._wires if {w.source, w.target} == {a, b}]
        for wire in hit:
            for writer in wire.writers:
                _abort(writer)
        self.counts.resets += len(hit)
        return len(hit)

    def rule(self, pair: Pair) -> Rule:
        return self._effects.rule(pair)

    def _change(self) -> None:
        self._free_at_s.clear()
        self._changed.set()
        self._changed = asyncio.Event()

    async def _open(self, *pairs: Pair) -> None:
        """Wait until none of the pairs is blocked."""
        while any(self.rule(p).blocked for p in pairs):
            await self._changed.wait()

    # ---- one connection --------------------------------------------------------------------

    async def _connection(
        self,
        node: str,
        listening: int,
        port: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        peer = writer.get_extra_info("peername")
        if peer is None:
            return  # it hung up before it was accepted
        source = self._who(int(peer[1]), listening) or UNKNOWN
        self.counts.connections += 1
        self.counts.unmapped += source == UNKNOWN
        there, back = (source, node), (node, source)
        await self._open(there, back)
        await asyncio.sleep(self.rule(there).delay_s + self.rule(back).delay_s)
        try:
            up_reader, up_writer = await asyncio.open_connection(self._address, port, limit=PIECE)
        except OSError:
            _abort(writer)  # nobody listens: refused
            return
        wire = _Wire(source, node, (writer, up_writer))
        self._wires.add(wire)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._stream(there, reader, up_writer))
                group.create_task(self._stream(back, up_reader, writer))
        except* (OSError, RuntimeError):  # RuntimeError: uvloop's word for an aborted transport
            for each in wire.writers:
                _abort(each)
        finally:
            self._wires.discard(wire)
            _close(up_writer)

    async def _stream(
        self, pair: Pair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """One direction until its end or a reset (OSError), which arrive as late as data do."""
        queue: asyncio.Queue[tuple[float, bytes | OSError]] = asyncio.Queue(QUEUED)
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(self._read(pair, reader, queue))
            try:
                await self._deliver(pair, queue, writer)
            finally:
                reading.cancel()

    async def _deliver(
        self,
        pair: Pair,
        queue: asyncio.Queue[tuple[float, bytes | OSError]],
        writer: asyncio.StreamWriter,
    ) -> None:
        while True:
            due_s, item = await queue.get()
            await self._until(due_s)
            await self._open(pair)
            if isinstance(item, OSError):
                raise item
            if not item:
                with contextlib.suppress(OSError, RuntimeError):  # the other end went first
                    if writer.can_write_eof():
                        writer.write_eof()
                return
            await self._write(pair, item, writer)

    async def _read(
        self,
        pair: Pair,
        reader: asyncio.StreamReader,
        queue: asyncio.Queue[tuple[float, bytes | OSError]],
    ) -> None:
        item: bytes | OSError = b"-"
        while item and not isinstance(item, OSError):
            try:
                item = await reader.read(PIECE)
            except OSError as error:
                item = error
            await queue.put((time.monotonic() + self.rule(pair).delay_s, item))

    async def _until(self, due_s: float) -> None:
        left_s = due_s - time.monotonic()
        if left_s > 0:
            await asyncio.sleep(left_s)

    async def _write(self, pair: Pair, data: bytes, writer: asyncio.StreamWriter) -> None:
        rest = memoryview(data)
        while rest:
            rate = self.rule(pair).bytes_per_s
            size = len(rest) if not rate else max(256, int(rate * SMOOTH_S))
            piece, rest = rest[:size], rest[size:]
            if rate:
                await self._take(pair, len(piece) / rate)
                await self._open(pair)
            writer.write(bytes(piece))
            await writer.drain()
            self.counts.bytes += len(piece)

    async def _take(self, pair: Pair, cost_s: float) -> None:
        """All connections of a pair share its cap."""
        now_s = time.monotonic()
        start_s = max(now_s, self._free_at_s.get(pair, now_s))
        self._free_at_s[pair] = start_s + cost_s
        await self._until(start_s + cost_s)


def _abort(writer: asyncio.StreamWriter) -> None:
    """Close with RST: nothing that waits is sent."""
    found = writer.get_extra_info("socket")
    with contextlib.suppress(OSError, ValueError):
        if found is not None and found.fileno() >= 0:
            with socket.socket(fileno=socket.dup(found.fileno())) as twin:
                twin.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _close(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, RuntimeError):
        writer.close()


def own_address(process: int) -> str:
    """A loopback address that no other run on this machine uses: Linux has all of 127.0.0.0/8."""
    return f"127.{100 + process // 65536 % 100}.{process // 256 % 256}.{process % 254 + 1}"


LOWEST, HIGHEST = 20_000, 32_000
"""Below the range from which the system takes ports of outgoing connections."""


@dataclass
class LinkPorts:
    """Free ports of an address, each given once."""

    address: str = "127.0.0.1"
    next: int = field(default=LOWEST)

    def take(self, count: int = 1) -> int:
        """The first of `count` neighbouring ports that nobody listens on. Raises OSError."""
        while self.next + count < HIGHEST:
            first, self.next = self.next, self.next + count
            if all(_free(self.address, first + i) for i in range(count)):
                return first
        raise OSError(f"no {count} free ports between {LOWEST} and {HIGHEST}")


def _free(address: str, port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True
