"""One end of an in-memory connection and the pipe behind it. See memory.py."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from farflung.errors import LinkDown, ProtocolError
from farflung.ids import NodeId
from farflung.network.frames import (
    BULK,
    HEADER_BYTES,
    decode_bulk,
    decode_control,
    encode_bulk,
    encode_control,
    next_seq,
    parse_header,
)
from farflung.network.limits import Counters, Limits
from farflung.network.link import BulkFrame, BulkSize, LinkCounts, Received, check_bulk
from farflung.network.messages import BulkHeader, Control

WINDOW_BYTES = 16 * 1024 * 1024
"""Bytes sent and not yet received at which senders wait."""


@dataclass(slots=True)
class Path:
    """One direction between two nodes."""

    delay_s: float = 0.0
    bytes_per_s: float | None = None
    blocked: bool = False
    blockages: int = 0
    """How often it was blocked: a timer of an earlier blockage is void."""
    tamper: Callable[[bytes], Sequence[bytes]] | None = None
    """What becomes of a frame: nothing (dropped), itself, twice itself, changed bytes."""
    extra_s: Callable[[], float] | None = None
    """More delay, drawn for each frame: how TCP shows loss. Frames stay in order."""


class Wires(Protocol):
    """What a connection asks of the network that it runs over."""

    limits: Limits
    counters: Counters

    def path(self, source: NodeId, target: NodeId) -> Path: ...

    def held(self, source: NodeId, target: NodeId) -> bool:
        """Nothing may be delivered from source to target now."""

    def sending(self, source: NodeId) -> None:
        """A node is about to send a frame."""

    def forget(self, connection: MemoryConnection) -> None: ...


@dataclass(frozen=True, slots=True)
class _Packet:
    due: float
    frame: bytes
    """Header and meta; empty: end of the connection."""
    payload: bytes
    reason: str = ""

    @property
    def size(self) -> int:
        return len(self.frame) + len(self.payload)


class Pipe:
    """One direction of one connection: in order, delayed, held while its path is blocked."""

    def __init__(self, network: Wires, source: NodeId, target: NodeId) -> None:
        self._network = network
        self.source, self.target = source, target
        self.sink: MemoryConnection
        self._flying: deque[_Packet] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._last_due = 0.0
        self._free_at = 0.0
        self._part = 0
        self.backlog = 0
        self._room: list[asyncio.Future[None]] = []

    def put(self, frame: bytes, payload: bytes, reason: str = "") -> None:
        path = self._network.path(self.source, self.target)
        frames = [frame] if path.tamper is None or not frame else path.tamper(frame)
        for each in frames:
            self._fly(path, each, payload, reason)

    def _fly(self, path: Path, frame: bytes, payload: bytes, reason: str) -> None:
        loop = asyncio.get_running_loop()
        start = max(loop.time(), self._free_at)
        size = len(frame) + len(payload)
        self._free_at = start + (size / path.bytes_per_s if path.bytes_per_s else 0.0)
        extra_s = path.extra_s() if path.extra_s is not None else 0.0
        self._last_due = max(self._last_due, self._free_at + path.delay_s + extra_s)
        packet = _Packet(self._last_due, frame, payload, reason)
        self.backlog += packet.size
        self._flying.append(packet)
        self.schedule()

    def schedule(self) -> None:
        """Arm the timer for the first packet, unless the path holds it."""
        if self._timer is None and self._flying and not self._held():
            loop = asyncio.get_running_loop()
            due = max(loop.time(), self._flying[0].due)
            self._timer = loop.call_at(due, self._pump, due)

    def _pump(self, now: float) -> None:
        self._timer = None
        while self._flying and self._flying[0].due <= now and not self._held():
            self._part = 0
            self.sink.deliver(self._flying.popleft())
        self.schedule()

    def arrived_part(self) -> int:
        """Bytes of the first packet that are through, when the path has a rate."""
        rate = self._network.path(self.source, self.target).bytes_per_s
        if rate and self._flying and not self._held():
            head = self._flying[0]
            left_s = max(0.0, head.due - asyncio.get_running_loop().time())
            self._part = max(0, head.size - math.ceil(left_s * rate))
        return self._part if self._flying else 0

    def _held(self) -> bool:
        return self._network.held(self.source, self.target)

    async def room(self) -> None:
        """Wait until the window has room or the pipe is dead."""
        while self.backlog > WINDOW_BYTES:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._room.append(waiter)
            await waiter

    def consumed(self, size: int) -> None:
        self.backlog = max(0, self.backlog - size)
        self._wake()

    def discard(self) -> None:
        """Drop what is in flight."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._flying.clear()
        self.backlog = 0
        self._wake()

    def _wake(self) -> None:
        waiters, self._room = self._room, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


class MemoryConnection:
    """One end. See link.Connection."""

    def __init__(
        self, network: Wires, remote: NodeId | None, role: str, out: Pipe, into: Pipe
    ) -> None:
        self.remote = remote
        self.remote_role = role
        self.sent_bytes = 0
        self._received_bytes = 0
        self.bulk_size: BulkSize | None = None
        self.killed = False
        """Its process is gone: what still arrives is answered with a reset."""
        self._network = network
        self._limits = network.limits if role else network.limits.for_strangers()
        self._out, self._into = out, into
        self._arrived: deque[_Packet] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._ended: LinkDown | ProtocolError | None = None
        self._send_seq = 0
        self._receive_seq = 0
        into.sink = self

    @property
    def waiting_bytes(self) -> int:
        return self._out.backlog - self._out.arrived_part()

    @property
    def acknowledged_bytes(self) -> int:
        return self.sent_bytes - self.waiting_bytes

    @property
    def received_bytes(self) -> int:
        return self._received_bytes + self._into.arrived_part()

    def counts(self) -> LinkCounts | None:
        return None

    async def send(self, message: Control) -> None:
        await self._put(encode_control(message, self._send_seq), b"")

    async def send_bulk(self, header: BulkHeader, payload: bytes | memoryview) -> None:
        size = memoryview(payload).nbytes
        await self._put(encode_bulk(header, self._send_seq, size), bytes(payload))

    async def _put(self, frame: bytes, payload: bytes) -> None:
        if self._ended is not None:
            raise LinkDown(str(self._ended))
        self._network.sending(self._out.source)
        if self._ended is not None:  # killed at this very frame
            raise LinkDown(str(self._ended))
        self._send_seq = next_seq(self._send_seq)
        self.sent_bytes += len(frame) + len(payload)
        self._out.put(frame, payload)
        await self._out.room()
        if self._ended is not None:
            raise LinkDown(str(self._ended))

    async def receive(self) -> Received:
        while not self._arrived:
            if self._ended is not None:
                raise type(self._ended)(str(self._ended))
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        packet = self._arrived.popleft()
        self._into.consumed(packet.size)
        try:
            return self._open(packet)
        except ProtocolError as error:
            self._network.counters.reject("frame", str(error))
            self._arrived.clear()
            self.end(error)
            self._out.sink.end(LinkDown("closed by the other side: bad bytes"))
            raise

    def _open(self, packet: _Packet) -> Received:
        header = parse_header(packet.frame[:HEADER_BYTES], self._receive_seq, self._limits)
        meta = packet.frame[HEADER_BYTES:]
        self._receive_seq = next_seq(self._receive_seq)
        if header.kind != BULK:
            return decode_control(meta)
        bulk = decode_bulk(meta)
        check_bulk(self.bulk_size, bulk, header.payload_len)
        return BulkFrame(bulk, memoryview(packet.payload))

    def close(self, reason: str = "") -> None:
        if self._ended is None:
            because = f": {reason}" if reason else ""
            self._out.put(b"", b"", f"closed by the other side{because}")
            self._arrived.clear()
            self.end(LinkDown(f"closed here{because}"))

    # ---- used by the network ---------------------------------------------------------------

    @property
    def ends(self) -> tuple[NodeId, NodeId]:
        """This side's node and the other's."""
        return self._out.source, self._out.target

    def deliver(self, packet: _Packet) -> None:
        if self._ended is not None:
            self._into.consumed(packet.size)
            if self.killed:
                self._out.sink.end(LinkDown("connection reset"))
        elif not packet.frame:
            self.end(LinkDown(packet.reason))
        else:
            self._received_bytes += packet.size
            self._arrived.append(packet)
            self._wake()

    def schedule(self) -> None:
        self._into.schedule()

    def end(self, why: LinkDown | ProtocolError) -> None:
        """What has arrived stays readable; nothing is sent any more."""
        if self._ended is None:
            self._ended = why
            self._into.discard()
            self._out.consumed(self._out.backlog)
            self._network.forget(self)
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
