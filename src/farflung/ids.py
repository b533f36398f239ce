"""Value types that every room shares. Standard library only."""

from __future__ import annotations

from typing import NewType

NodeId = NewType("NodeId", str)
"""40 hex digits: the first 20 bytes of BLAKE3(Ed25519 public key)."""

RunId = NewType("RunId", str)
"""16 hex digits, drawn once by `host`."""

Hash = NewType("Hash", bytes)
"""A BLAKE3 digest of 32 bytes."""

Endpoint = NewType("Endpoint", str)
"""`HOST:PORT`; HOST is a DNS name, an IPv4 address or an IPv6 address in brackets."""


def short(node: str) -> str:
    """The first eight digits, for people."""
    return node[:8]


def split_endpoint(endpoint: str) -> tuple[str, int]:
    """`HOST:PORT` as (host, port). Raises ValueError with the rule when it is neither."""
    host, colon, port = endpoint.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise ValueError(f"endpoint {endpoint!r} must be HOST:PORT with PORT in 0..65535")
    return host.removeprefix("[").removesuffix("]"), int(port)
