"""Connections are counted before a byte of them is read: so many in all, so many from one place.

Whoever is one too many gets one sentence and is closed; so is who opens one and asks nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from typing import Any, cast

from aiohttp import web

FIRST_S = 10.0
"""Until a connection has asked something."""
KEEP_S = 30.0
"""Until the next question on an open connection."""


class Census:
    """Who is connected."""

    def __init__(self, most: int, most_each: int) -> None:
        self.most, self.most_each = most, most_each
        self.open = 0
        self.refused = 0
        self._of: Counter[str] = Counter()

    def refusal(self, address: str) -> str:
        """Why one more connection from there is too many; empty: it is welcome."""
        if self.open >= self.most:
            return f"{self.most:,} connections are open, as many as there may be; try again later"
        if not _is_local(address) and self._of[address] >= self.most_each:
            return f"{self.most_each} connections from {address} are open; close one of them"
        return ""

    def enter(self, address: str) -> None:
        self.open += 1
        self._of[address] += 1

    def leave(self, address: str) -> None:
        self.open -= 1
        self._of[address] -= 1
        if not self._of[address]:
            del self._of[address]


class CountedConnection(web.RequestHandler):
    """aiohttp's connection, counted."""

    def __init__(self, server: web.Server, census: Census, **options: Any) -> None:
        super().__init__(server, **options)
        self._census = census
        self._address: str | None = None
        self._first: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        transport = cast(asyncio.Transport, transport)  # uvloop has its own class
        name = transport.get_extra_info("peername")
        address = str(name[0]) if isinstance(name, tuple) and name else "?"
        if refusal := self._census.refusal(address):
            self._census.refused += 1
            transport.write(_refused(refusal))
            self.close()
            transport.close()
            return
        self._address = address
        self._census.enter(address)
        self._first = asyncio.get_running_loop().call_later(FIRST_S, transport.abort)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._address is not None:
            self._census.leave(self._address)
            self._address = None
        self.asked()
        super().connection_lost(exc)

    def asked(self) -> None:
        """A whole request has come."""
        if self._first is not None:
            self._first.cancel()
            self._first = None


class CountingServer(web.Server):
    """Makes counted connections."""

    def __init__(self, handler: Any, census: Census) -> None:
        super().__init__(handler, handler_cancellation=True)
        self._census = census

    def __call__(self) -> CountedConnection:
        return CountedConnection(
            self,
            self._census,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=KEEP_S,
            access_log=None,
            lingering_time=0.0,
        )


def _is_local(address: str) -> bool:
    """A reverse proxy on this machine: all its viewers come from there."""
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _refused(sentence: str) -> bytes:
    body = f"{sentence}\n".encode()
    head = (
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nRetry-After: 10\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
