"""The window's web server: reads a run's folder, shows it to anybody, changes nothing.

A process of its own (`python -m farflung.window`), so that ten thousand viewers delay no round.
Every body is made once and shared; GET and HEAD are all that there is.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from aiohttp import web

from farflung.ids import split_endpoint
from farflung.window.api import Asked, QuestionRefused, encoded, question
from farflung.window.connections import Census, CountedConnection, CountingServer
from farflung.window.reader import Busy, NotReady, RunReader
from farflung.window.static_files import PAGE, Body
from farflung.window.stream import Hub

TEXT = "text/plain; charset=utf-8"
STREAM = "api/v1/stream"
HEALTH = "healthz"
SEND_S = 60.0
"""A viewer may take this long over one answer."""
BACKLOG = 1024
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})

POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors "
)
ALWAYS: Mapping[str, str] = {
    "Server": "farflung",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}


@dataclass(frozen=True, kw_only=True)
class WindowOptions:
    """How a window shows itself."""

    bind: str = "127.0.0.1:7080"
    ports: int = 1
    """So many ports are tried, from that of `bind` on."""
    public: bool = False
    """Meant for everybody: any host name, and other pages may read the API."""
    names: frozenset[str] = field(default=frozenset())
    """Host names under which it is reached besides its own, behind a proxy on this machine."""
    prefix: str = ""
    """Path in front of all others, where a proxy does not take it away: `/runs/one`."""
    most_connections: int = 12_000
    most_each: int = 64
    """Connections from one address; those from this machine are not counted."""


class WindowServer:
    """Answers requests; `site` listens."""

    def __init__(
        self, reader: RunReader, static: Mapping[str, Body], options: WindowOptions
    ) -> None:
        self._reader, self._static, self._options = reader, static, options
        self._prefix = options.prefix.strip("/")
        self.census = Census(options.most_connections, options.most_each)
        self.hub = Hub(reader, options.most_connections)
        self._own = self.hosts()

    def hosts(self) -> frozenset[str]:
        """Names that a browser on this machine may use for it."""
        host, _ = split_endpoint(self._options.bind)
        return frozenset({*LOCAL_NAMES, host.lower(), *(n.lower() for n in self._options.names)})

    # ---- one request -----------------------------------------------------------------------

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Never raises but for a cancelled or broken connection."""
        if isinstance(request.protocol, CountedConnection):
            request.protocol.asked()
        if request.method not in ("GET", "HEAD"):
            return self._say(
                request, 405, "this window is read-only: GET and HEAD", Allow="GET, HEAD"
            )
        if not self._options.public and _host(request) not in self._own:
            return self._say(
                request, 421,
                "this window is not shown under that host name; start it with --name to allow it",
            )  # fmt: skip
        path = self._path(request.path)
        if path is None:
            return self._say(request, 404, "there is nothing here")
        if not path and not request.path.endswith("/"):
            return self._say(request, 308, "", Location=f"{self._prefix.rpartition('/')[2]}/")
        return await self._answer(request, path or PAGE)

    def _path(self, path: str) -> str | None:
        """Below the window's root; None: outside of it."""
        inner = path.lstrip("/")
        if not self._prefix:
            return inner
        if inner == self._prefix or inner.startswith(f"{self._prefix}/"):
            return inner[len(self._prefix) :].lstrip("/")
        return None

    async def _answer(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        if path in self._static:
            return await self._send(request, self._static[path])
        if path == HEALTH:
            return self._health(request)
        if path == PAGE:
            return self._say(
                request, 404,
                "the page is not part of this copy of farflung (make web builds it); the data is "
                "at api/v1/frame",
            )  # fmt: skip
        try:
            if path == STREAM:
                return await self._stream(request)
            asked = question(path, request.query)
            body = None if asked is None else await self._body(asked)
        except QuestionRefused as error:
            return self._say(request, 400, str(error))
        except NotReady as error:
            return self._not_ready(request, error)
        except Busy as error:
            return self._say(request, 503, str(error), **{"Retry-After": "1"})
        if body is None:
            return self._say(request, 404, "there is nothing here")
        return await self._send(request, body)

    async def _body(self, asked: Asked) -> Body | None:
        return await self._reader.answer(asked)

    async def _stream(self, request: web.BaseRequest) -> web.StreamResponse:
        self._reader.check_ready()
        if request.method == "HEAD":
            return self._say(request, 200, "")
        if self.hub.full:
            raise Busy("as many viewers as there may be; try again later")
        headers = {**self._headers(request), "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return await self.hub.serve(request, headers)

    async def _send(self, request: web.BaseRequest, body: Body) -> web.StreamResponse:
        headers = {**self._headers(request), "Cache-Control": "no-cache", "ETag": body.etag}
        headers["Vary"] = "Accept-Encoding"
        if _has(request.headers.get("If-None-Match", ""), body.etag):
            return web.Response(status=304, headers=headers)
        data = body.data
        if body.gzipped is not None and "gzip" in request.headers.get("Accept-Encoding", ""):
            data, headers["Content-Encoding"] = body.gzipped, "gzip"
        response = web.Response(body=data, headers={**headers, "Content-Type": body.content_type})
        try:
            async with asyncio.timeout(SEND_S):  # whoever does not read it
                await response.prepare(request)
                await response.write_eof()
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
        return response

    def _health(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            self._reader.check_ready()
        except NotReady as error:
            return self._not_ready(request, error)
        if self._reader.problem:
            return self._say(request, 503, self._reader.problem)
        return self._say(request, 200, "ok")

    def _not_ready(self, request: web.BaseRequest, error: NotReady) -> web.StreamResponse:
        told = encoded({"reading": round(error.share, 3), "reason": str(error)})
        headers = {**self._headers(request), "Retry-After": "1", "Cache-Control": "no-store"}
        headers["Content-Type"] = "application/json; charset=utf-8"
        return web.Response(status=503, body=told, headers=headers)

    def _say(
        self, request: web.BaseRequest, status: int, sentence: str, **headers: str
    ) -> web.StreamResponse:
        head = {
            **self._headers(request),
            "Cache-Control": "no-store",
            "Content-Type": TEXT,
            **headers,
        }
        return web.Response(status=status, text=f"{sentence}\n" if sentence else "", headers=head)

    def _headers(self, request: web.BaseRequest) -> dict[str, str]:
        """Of every answer. Only a page that asks to be embedded may be."""
        public, embed = self._options.public, "embed" in request.query
        headers = {**ALWAYS, "Content-Security-Policy": POLICY + ("*" if embed else "'none'")}
        headers["Cross-Origin-Resource-Policy"] = "cross-origin" if public else "same-origin"
        if public and "/api/" in request.path:
            headers["Access-Control-Allow-Origin"] = "*"
        return headers


def _host(request: web.BaseRequest) -> str:
    """The name in the Host header, without its port."""
    name = request.headers.get("Host", "").strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0]


def _has(header: str, etag: str) -> bool:
    return any(part.strip().removeprefix("W/") in (etag, "*") for part in header.split(","))


# ---- listening -----------------------------------------------------------------------------


def listen(bind: str, ports: int) -> socket.socket:
    """A socket on the first free port of so many. OSError of the first when none is."""
    host, port = split_endpoint(bind)
    first: OSError | None = None
    for number in range(port, min(port + ports, 65_536)):
        try:
            return _listen_at(host, number)
        except OSError as error:
            first = first or error
    assert first is not None
    raise first


def _listen_at(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setblocking(False)
        sock.bind(address)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


@contextlib.asynccontextmanager
async def site(server: WindowServer, sock: socket.socket) -> AsyncIterator[None]:
    """Serve on a listening socket meanwhile."""
    counting = CountingServer(server.handle, server.census)
    listener = await asyncio.get_running_loop().create_server(counting, sock=sock, backlog=BACKLOG)
    try:
        yield
    finally:
        listener.close()
        server.hub.cut_all()
        await counting.shutdown(1.0)
