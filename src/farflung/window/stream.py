"""Live news for many viewers at once: each message is encoded, packed and framed once.

A viewer opens the stream first and fetches `api/v1/frame` then, and again whenever the stream
opens anew: so nothing is missed, and nothing is kept for those who went away.

Nobody buffers without end. What a viewer has not taken in lies in its socket's buffer; one that
lets more than `MOST_BEHIND` gather is cut off, comes back by itself and begins with a fresh frame.

gzip without a compressor per viewer: every message is a deflate block of its own, ended by a full
flush (RFC 1951 3.2.4, zlib's Z_FULL_FLUSH), that refers to nothing before it. So the same bytes
continue the gzip stream of every viewer, whenever it began.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import zlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aiohttp import web

from farflung.window.reader import Message, RunReader

GZIP_HEAD = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
"""Of a gzip member without name and time (RFC 1952); its end never comes."""
MOST_BEHIND = 1 << 20
"""Bytes that a viewer may not have taken yet, beyond the newest message."""
SEND_BUFFER = 128 << 10
"""Of the system, for each viewer: 10,000 of them may not fill the memory."""
BEAT_S = 15.0
"""A comment when there is no news: proxies and dead connections."""
PACE_S: Mapping[str, float] = {
    "head": 0.25,
    "rounds": 0.0,
    "evaluations": 0.0,
    "peers": 1.0,
    "timelines": 0.5,
    "links": 2.0,
    "lines": 0.0,
}
"""Least seconds between two messages of a kind; 0: with every piece of news."""
RECENT_S = 10.0
"""How far back a new viewer's stream begins."""
LONGEST_S = 5.0
"""Between two rounds of handing out, whatever they cost."""
SHARE = 0.1
"""Of its time that this process may spend on handing news out: more viewers, slower pace."""


@dataclass(frozen=True)
class Payload:
    """Some messages, as they go out."""

    plain: bytes
    gzipped: bytes

    @property
    def empty(self) -> bool:
        return not self.plain


@dataclass(frozen=True, eq=False)
class OpenStream:
    """One open stream."""

    transport: asyncio.Transport
    gzipped: bool
    chunked: bool

    def send(self, payload: Payload) -> bool:
        """False: it has not taken enough of what was sent before, and is cut off."""
        if self.transport.is_closing():
            return True  # on its way out by itself
        data = payload.gzipped if self.gzipped else payload.plain
        if self.transport.get_write_buffer_size() > MOST_BEHIND:
            self.transport.abort()
            return False
        self.transport.write(_chunk(data) if self.chunked else data)
        return True


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def packed(text: bytes) -> Payload:
    """Text of a stream, as bytes that any viewer's connection may go on with."""
    packer = zlib.compressobj(5, zlib.DEFLATED, -zlib.MAX_WBITS)
    return Payload(text, packer.compress(text) + packer.flush(zlib.Z_FULL_FLUSH))


class Hub:
    """All viewers, and what they were told."""

    def __init__(self, reader: RunReader, most: int) -> None:
        self._reader, self._most = reader, most
        self._viewers: set[OpenStream] = set()
        self._news = asyncio.Event()
        self._since: dict[str, int] = {}
        self._due: dict[str, float] = {}
        self._serial = 0
        self._steps: deque[tuple[float, int]] = deque()
        """When the view stood where, newest last, some seconds back."""
        self._said: tuple[int, Payload] | None = None
        self._life = reader.life
        self.dropped = 0
        """Viewers that were cut off because they did not take what was sent."""

    def __len__(self) -> int:
        return len(self._viewers)

    @property
    def full(self) -> bool:
        return len(self._viewers) >= self._most

    def wake(self) -> None:
        """Something may have happened in the run."""
        now, step = asyncio.get_running_loop().time(), self._reader.step
        if self._steps and self._steps[-1][1] == step:
            return
        self._steps.append((now, step))
        while len(self._steps) > 1 and self._steps[1][0] < now - RECENT_S:
            self._steps.popleft()
        self._news.set()

    async def serve(
        self, request: web.BaseRequest, headers: Mapping[str, str]
    ) -> web.StreamResponse:
        """Keep a viewer until it goes or is cut off; ends by cancellation only."""
        gzipped = "gzip" in request.headers.get("Accept-Encoding", "")
        response = web.StreamResponse(headers={**headers, "Content-Type": "text/event-stream"})
        if gzipped:
            response.headers["Content-Encoding"] = "gzip"
        chunked = request.version >= (1, 1)
        if chunked:
            response.enable_chunked_encoding()
        await response.prepare(request)
        transport = request.transport
        if transport is None:
            return response
        _bound(transport)
        viewer = OpenStream(transport, gzipped, chunked)
        if gzipped:
            transport.write(_chunk(GZIP_HEAD) if chunked else GZIP_HEAD)
        if not self._viewers:
            self._since = dict.fromkeys(PACE_S, self._reader.step)
        self._viewers.add(viewer)
        viewer.send(await self._welcome())
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self._viewers.discard(viewer)
        return response

    async def _welcome(self) -> Payload:
        """What happened since a little while ago: who has fetched a frame before opening this
        stream has missed nothing. Who has seen it sees it again, which changes nothing."""
        step = self._reader.step
        if self._said is None or self._said[0] != step:
            since = dict.fromkeys(PACE_S, self._steps[0][1] if self._steps else step)
            _, payload = await self._reader.changes(since, self._packed)
            self._said = (step, payload)
        hello = packed(b"retry: 2000\n\n")
        recent = self._said[1]
        return Payload(hello.plain + recent.plain, hello.gzipped + recent.gzipped)

    # ---- handing out -----------------------------------------------------------------------

    async def run(self) -> None:
        """For ever: what is new to everybody, a beat when nothing is."""
        loop = asyncio.get_running_loop()
        while True:
            beat = False
            try:
                async with asyncio.timeout(self._patience_s(loop.time())):
                    await self._news.wait()
            except TimeoutError:
                beat = True
            self._news.clear()
            began = loop.time()
            if self._reader.life != self._life:
                self._life = self._reader.life
                self._steps.clear()
                self._said = None
                self.cut_all()
            elif self._viewers:
                await self._tell(beat)
            await asyncio.sleep(min(LONGEST_S, (loop.time() - began) * (1 / SHARE - 1)))

    def _patience_s(self, now: float) -> float:
        """Until something must be said although there are no further news: what was held back to
        keep a kind's pace, or a beat."""
        held = [
            self._due.get(k, 0.0) - now for k, s in self._since.items() if s < self._reader.step
        ]
        return max(0.0, min([BEAT_S, *held])) if self._viewers else BEAT_S

    async def _tell(self, beat: bool) -> None:
        now = asyncio.get_running_loop().time()
        due = {kind: step for kind, step in self._since.items() if self._due.get(kind, 0.0) <= now}
        step, payload = await self._reader.changes(due, self._packed)
        for kind in due:
            self._since[kind] = step
            self._due[kind] = now + PACE_S[kind]
        if payload.empty and beat:
            payload = packed(b":\n\n")
        if not payload.empty:
            await self._hand_out(payload)

    def _packed(self, messages: Sequence[Message]) -> Payload:
        """In the reader's thread; one call at a time."""
        lines = []
        for event, data in messages:
            self._serial += 1
            lines.append(b"id: %d\nevent: %b\ndata: %b\n\n" % (self._serial, event.encode(), data))
        return packed(b"".join(lines)) if lines else Payload(b"", b"")

    async def _hand_out(self, payload: Payload) -> None:
        """In slices, so that whoever asks something meanwhile is answered."""
        for number, viewer in enumerate(list(self._viewers)):
            self.dropped += not viewer.send(payload)
            if number % 200 == 199:
                await asyncio.sleep(0)

    def cut_all(self) -> None:
        """They come back by themselves, and begin with a fresh frame."""
        for viewer in self._viewers:
            viewer.transport.abort()


def _bound(transport: asyncio.Transport) -> None:
    sock = transport.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
