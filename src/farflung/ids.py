"""Value types that every room shares. Standard library only."""

from __future__ import annotations

from enum import StrEnum
from typing import NewType

NodeId = NewType("NodeId", str)
"""40 hex digits: the first 20 bytes of BLAKE3(Ed25519 public key)."""

RunId = NewType("RunId", str)
"""16 hex digits, drawn once by `host`."""

Hash = NewType("Hash", bytes)
"""A BLAKE3 digest of 32 bytes."""

Endpoint = NewType("Endpoint", str)
"""`HOST:PORT`; HOST is a DNS name, an IPv4 address or an IPv6 address in brackets."""


class Role(StrEnum):
    """What a node is for. The value travels, and stands in journals."""

    TRAINER = "trainer"
    """Trains and averages."""
    KEEPER = "keeper"
    """Trains nothing; reduces when nobody else can, votes, keeps and serves everything."""
    SOURCE = "source"
    """Only serves the initial state and the data; takes part in no round."""
    EVALUATOR = "evaluator"
    """Measures the model; trains nothing, and neither reduces nor votes. It follows the state."""


GUESTS = frozenset({Role.TRAINER, Role.EVALUATOR})
"""Roles of nodes that keep no more than they need, and go when the last round is kept. The others
keep what `verify` wants, and serve until the host ends."""


class NodePhase(StrEnum):
    """What a node is busy with, as it says with every beat."""

    SYNCING = "syncing"
    """It fetches or replays state; no stay yet."""
    LOADING = "loading"
    """Its trainer starts, or waits for data."""
    COMPILING = "compiling"
    """Until the trainer's first step is done."""
    TRAINING = "training"
    """Steps are due: a node that makes none is out after a while."""
    WAITING = "waiting"
    """Nothing to train."""
    SAVING = "saving"
    """The trainer writes its inner state."""
    NONE = ""
    """A node without trainer, once it takes part."""


class AccusationKind(StrEnum):
    """Why a member of an attempt could not go on with another one."""

    UNREACHABLE = "unreachable"
    """No link to it, or the link broke."""
    SILENT = "silent"
    """It owes bytes, and none arrive."""
    BAD_BYTES = "bad-bytes"
    """What it sent does not match what it committed to."""


def short(node: str) -> str:
    """The first eight digits, for people."""
    return node[:8]


def split_endpoint(endpoint: str) -> tuple[str, int]:
    """`HOST:PORT` as (host, port). Raises ValueError with the rule when it is neither."""
    host, colon, port = endpoint.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise ValueError(f"endpoint {endpoint!r} must be HOST:PORT with PORT in 0..65535")
    return host.removeprefix("[").removesuffix("]"), int(port)
