"""Sockets as we want them, and the system's errors as words."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import ssl
import struct
import sys
import termios

from farflung.errors import LinkDown
from farflung.ids import Endpoint, split_endpoint
from farflung.network.link import LinkCounts

BACKLOG = 128
USER_TIMEOUT_MS = 5000
"""Unacknowledged for this long: the connection is dead (black hole, unplugged cable)."""
_OPTIONS: tuple[tuple[int, str, int | bytes], ...] = (
    (socket.IPPROTO_TCP, "TCP_NODELAY", 1),
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 2),
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPCNT", 3),
    (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", USER_TIMEOUT_MS),
    # At 0.1 % loss and 80 ms round trip BBR moves 20 times what cubic does; not always allowed.
    (socket.IPPROTO_TCP, "TCP_CONGESTION", b"bbr"),
)

_ACKED_AT = 120
"""Offset of tcpi_bytes_acked in Linux's struct tcp_info (4.1 and later)."""
_INFO = struct.Struct("=68xI28xI16xQ28xIQQ")
"""Of the same struct, Linux 4.9 and later: tcpi_rtt (us), tcpi_total_retrans, tcpi_bytes_acked,
tcpi_data_segs_out, tcpi_delivery_rate (bytes/s), tcpi_busy_time (us)."""
_Address = tuple[object, ...]


def tune(sock: socket.socket) -> None:
    """Set what this system has and allows of the options above."""
    for level, name, value in _OPTIONS:
        option = getattr(socket, name, None)
        if option is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(level, option, value)


def unacknowledged(sock: socket.socket | None) -> int:
    """Bytes in the system's send queue; 0 where the system does not tell. None: it is closed."""
    if sock is None:
        return 0
    try:
        answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
    except OSError:
        return 0
    return int.from_bytes(answer, sys.byteorder)


def acknowledged(sock: socket.socket) -> int | None:
    """Bytes that the other side's machine has acknowledged; None where the system does not tell."""
    option = getattr(socket, "TCP_INFO", None)
    if option is None or not sys.platform.startswith("linux"):
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, option, _ACKED_AT + 8)
    except OSError:
        return None
    at_end = info[_ACKED_AT : _ACKED_AT + 8]
    return int.from_bytes(at_end, sys.byteorder) if len(at_end) == 8 else None


def counts(sock: socket.socket) -> LinkCounts | None:
    """What the system counts of a connection; None where it does not tell."""
    option = getattr(socket, "TCP_INFO", None)
    if option is None or not sys.platform.startswith("linux"):
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, option, _INFO.size)
    except OSError:
        return None
    if len(info) < _INFO.size:
        return None
    rtt_us, again, acked, segments, rate, busy_us = _INFO.unpack(info)
    return LinkCounts(
        acknowledged=acked,
        segments=segments,
        retransmitted=again,
        busy_s=busy_us / 1e6,
        rtt_s=rtt_us / 1e6,
        delivery_bytes_per_s=float(rate),
    )


async def listening_socket(bind: Endpoint) -> tuple[socket.socket, Endpoint]:
    """Bound, listening and non-blocking, with its real endpoint. LinkDown when it cannot be."""
    try:
        host, port = split_endpoint(bind)
        family, address = (await _resolve(host, port))[0]
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setblocking(False)
            sock.bind(address)
            sock.listen(BACKLOG)
        except BaseException:
            sock.close()
            raise
    except (OSError, ValueError) as error:
        raise LinkDown(f"cannot listen on {bind}: {reason(error)}") from None
    shown = f"[{host}]" if ":" in host else host
    return sock, Endpoint(f"{shown}:{sock.getsockname()[1]}")


async def addresses_of(endpoint: Endpoint) -> list[tuple[int, str, int]]:
    """(family, numeric host, port) of each address of an endpoint, in the system's order.

    Raises LinkDown for a malformed endpoint or name, OSError for one that does not resolve.
    """
    try:
        host, port = split_endpoint(endpoint)
        found = await _resolve(host, port)
    except ValueError as error:  # also a name that no resolver takes: UnicodeError is one
        raise LinkDown(f"{endpoint!r}: {error}") from None
    return [(family, str(address[0]), port) for family, address in found]


async def _resolve(host: str, port: int) -> list[tuple[int, _Address]]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    unique = dict.fromkeys((family, address) for family, _, _, _, address in found)
    return [(int(family), address) for family, address in unique]


def reason(error: BaseException) -> str:
    """A few words for a person."""
    if isinstance(error, ssl.SSLCertVerificationError):
        expired = "expired" in error.verify_message
        hint = "; check the clocks" if expired or "not yet" in error.verify_message else ""
        return f"certificate refused: {error.verify_message}{hint}"
    if isinstance(error, ssl.SSLError):
        words = (error.reason or str(error)).lower().replace("_", " ")
        return f"TLS: {words}"
    if isinstance(error, socket.gaierror):
        return "the name does not resolve"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return str(error) or type(error).__name__
