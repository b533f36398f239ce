"""One end of a TLS connection: frames in and out, back-pressure, slow senders. See tcp.py."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from typing import cast

from farflung.errors import FarflungError, LinkDown, ProtocolError
from farflung.ids import NodeId
from farflung.network import sockets
from farflung.network.frames import FrameReader, encode_bulk, encode_control, next_seq
from farflung.network.limits import Counters, Limits
from farflung.network.link import BulkSize, LinkCounts, Received
from farflung.network.messages import BulkHeader, Control
from farflung.network.tls import PeerName, remote_name

_DISCARD_BYTES = 64 * 1024


class TcpConnection(asyncio.BufferedProtocol):
    """One end of a TLS connection. See link.Connection; belongs to one event loop.

    The payload given to `send_bulk` may be reused as soon as the call returns.
    """

    def __init__(self, limits: Limits, counters: Counters) -> None:
        self.remote: NodeId | None = None
        self.remote_role = ""
        self.sent_bytes = 0
        self.received_bytes = 0
        self.bulk_size: BulkSize | None = None
        self.lost = asyncio.get_running_loop().create_future()
        """Done when the socket is gone."""
        self._limits = limits
        self._counters = counters
        self._reader = FrameReader(limits)
        self._arrived: deque[tuple[Received, int]] = deque()
        self._arrived_bytes = 0
        self._frame_start = 0
        self._ended: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._acknowledged = 0
        self._send_seq = 0
        self._congested = False
        self._drains: list[asyncio.Future[None]] = []
        self._bulk_turn = asyncio.Lock()
        self._paused = False
        self._watchdog: asyncio.TimerHandle | None = None
        self._first: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport

    # ---- sending ---------------------------------------------------------------------------

    @property
    def waiting_bytes(self) -> int:
        if self._ended is not None:
            return 0
        return self._transport.get_write_buffer_size() + sockets.unacknowledged(self._socket())

    @property
    def acknowledged_bytes(self) -> int:
        """From the system, TLS included: buffers between here and the socket hide bytes."""
        sock = self._socket()
        if sock is None:
            return self._acknowledged
        told = sockets.acknowledged(sock)
        known = self.sent_bytes - self.waiting_bytes if told is None else told
        self._acknowledged = max(self._acknowledged, known)
        return self._acknowledged

    def counts(self) -> LinkCounts | None:
        sock = self._socket()
        return None if sock is None else sockets.counts(sock)

    def _socket(self) -> socket.socket | None:
        """None once it is closed: uvloop lets go of it before it calls `connection_lost`."""
        if self._ended is not None:
            return None
        found: socket.socket | None = self._transport.get_extra_info("socket")
        return found

    @property
    def shutdown_s(self) -> float:
        """How long a polite end may take."""
        return self._limits.shutdown_s

    async def send(self, message: Control) -> None:
        self._check_open()
        self._write(encode_control(message, self._send_seq), memoryview(b""))
        await self._drain()

    async def send_bulk(self, header: BulkHeader, payload: bytes | memoryview) -> None:
        view = memoryview(payload).cast("B")
        async with self._bulk_turn:
            await self._drain()
            self._write(encode_bulk(header, self._send_seq, view.nbytes), view)
            await self._drain()

    def _write(self, frame: bytes, payload: memoryview) -> None:
        self._send_seq = next_seq(self._send_seq)
        self.sent_bytes += len(frame) + payload.nbytes
        self._transport.write(frame)
        if payload.nbytes:
            self._transport.write(payload)

    async def _drain(self) -> None:
        while self._congested and self._ended is None:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._drains.append(waiter)
            await waiter
        self._check_open()

    def _check_open(self) -> None:
        if self._ended is not None:
            raise LinkDown(str(self._ended))

    def pause_writing(self) -> None:
        self._congested = True

    def resume_writing(self) -> None:
        self._congested = False
        self._wake_senders()

    def _wake_senders(self) -> None:
        waiters, self._drains = self._drains, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # ---- receiving -------------------------------------------------------------------------

    async def receive(self) -> Received:
        while not self._arrived:
            if isinstance(self._ended, FarflungError):
                raise type(self._ended)(str(self._ended))
            if self._ended is not None:
                raise self._ended
            self._allow_bulk()
            if not self._arrived and self._ended is None:
                self._resume()
                await self._wait()
        received, size = self._arrived.popleft()
        self._arrived_bytes -= size
        if len(self._arrived) <= self._limits.queue_frames // 2 and not self._reader.blocked:
            self._resume()
        return received

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def get_buffer(self, _sizehint: int) -> memoryview:
        if self._ended is not None:
            return memoryview(bytearray(_DISCARD_BYTES))
        return self._reader.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        if self._ended is not None:
            return
        self.received_bytes += nbytes
        try:
            self._take(self._reader.advance(nbytes))
        except ProtocolError as error:
            self._reject("frame", error)
            return
        except Exception as error:
            self._break(error)
            return
        if self._waiter is not None and not self._arrived:
            self._allow_bulk()
        if self._reader.blocked or self._full():
            self._pause()
        elif self._watchdog is None and not self._reader.between_frames:
            self._watch()

    def _take(self, received: Received | None) -> None:
        """Queue a complete frame, if there is one, for the receiver."""
        if received is None:
            return
        self._rest()
        if self._first is not None:
            self._first.cancel()
            self._first = None
        size = self.received_bytes - self._frame_start
        self._frame_start = self.received_bytes
        self._arrived.append((received, size))
        self._arrived_bytes += size
        self._wake_receiver()

    def _allow_bulk(self) -> None:
        """Let the owner judge the header of a bulk frame whose turn has come."""
        if not self._reader.blocked or self._ended is not None:
            return
        try:
            self._take(self._reader.allow(self.bulk_size))
        except ProtocolError as error:
            self._reject("frame", error)
            return
        except Exception as error:
            self._break(error)
            return
        if self._watchdog is None and not self._reader.between_frames:
            self._watch()

    def _full(self) -> bool:
        frames, size = len(self._arrived), self._arrived_bytes
        return frames >= self._limits.queue_frames or size >= self._limits.queue_bytes

    def _pause(self) -> None:
        self._rest()
        if not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._paused and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    def _wake_receiver(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # ---- slow senders ----------------------------------------------------------------------

    def _watch(self) -> None:
        """A frame that has begun must end: check after the time that its size deserves."""
        floor_s = self._reader.frame_bytes / self._limits.floor_bytes_per_s
        delay_s = self._limits.stall_s + floor_s
        loop = asyncio.get_running_loop()
        self._watchdog = loop.call_later(delay_s, self._judge, self._reader.frame_bytes)

    def _rest(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None

    def _judge(self, frame_bytes: int) -> None:
        self._watchdog = None
        if self._reader.between_frames or self._reader.blocked:
            return
        if self._reader.frame_bytes > frame_bytes:  # it declared its size since: more time
            self._watch()
            return
        self._reject("slow", ProtocolError("a frame was sent too slowly or not to its end"))

    def expect_first(self, first_s: float, all_s: float) -> None:
        """For strangers: a first message and an end of the whole connection, in seconds."""
        loop = asyncio.get_running_loop()
        late = ProtocolError(f"no complete message in {first_s:g} s")
        self._first = loop.call_later(first_s, self._reject, "slow", late)
        end = loop.call_later(all_s, self.close, "a stranger's time is up")
        self.lost.add_done_callback(lambda _: end.cancel())

    # ---- beginning and end -----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by type
        self._transport.set_write_buffer_limits(self._limits.write_high, self._limits.write_low)

    def tls(self) -> ssl.SSLObject:
        found: ssl.SSLObject = self._transport.get_extra_info("ssl_object")
        return found

    def introduce(self, name: PeerName | None) -> None:
        """Who the certificate says the other side is."""
        if name is not None:
            self.remote, self.remote_role = name.node, name.role

    def close(self, reason: str = "") -> None:
        if self._ended is None:
            self._end(LinkDown(f"closed here: {reason}" if reason else "closed here"))
            self._arrived.clear()
        self._transport.close()

    def abort(self) -> None:
        self._end(LinkDown("closed here"))
        self._transport.abort()

    def _reject(self, kind: str, error: ProtocolError) -> None:
        """The other side broke a rule: count it, end at once, tell the receiver why."""
        self._counters.reject(kind, f"{(self.remote or 'a stranger')[:10]}: {error}")
        self._end(error)
        self._transport.abort()

    def _break(self, fault: Exception) -> None:
        """A fault of this program, perhaps in the owner's `bulk_size`: in a callback of the loop it
        would vanish, so that the receiver raises it and its owner tells."""
        self._end(fault)
        self._transport.abort()

    def eof_received(self) -> None:
        """The transport closes itself; connection_lost follows."""

    def connection_lost(self, exc: Exception | None) -> None:
        why = sockets.reason(exc) if exc is not None else "closed by the other side"
        self._end(LinkDown(why))
        if not self.lost.done():
            self.lost.set_result(None)

    def _end(self, why: Exception) -> None:
        if self._ended is None:
            self._ended = why
        self._rest()
        if self._first is not None:
            self._first.cancel()
        self._wake_senders()
        self._wake_receiver()


class InboundConnection(TcpConnection):
    """An accepted connection: it knows its remote before the first byte is parsed."""

    def __init__(self, limits: Limits, counters: Counters, run: str) -> None:
        super().__init__(limits, counters)
        self._run = run
        self.refusal: ProtocolError | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        try:
            self.introduce(remote_name(self.tls().getpeercert(), self._run))
        except ProtocolError as error:
            self.refusal = error
        if self.remote is None:
            self._reader = FrameReader(self._limits.for_strangers())
            self._limits = self._limits.for_strangers()
            self.expect_first(self._limits.first_message_s, self._limits.stranger_s)
