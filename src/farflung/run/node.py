"""What a node is made of: its configuration and the injected outside world."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from farflung.clock import Clock, Workers
from farflung.config.run import RunSpec
from farflung.disk import Disk
from farflung.events import Emit
from farflung.ids import Endpoint, NodeId
from farflung.network.link import Transport
from farflung.run.outer_state import OuterState
from farflung.run.trainer_port import TrainerPort


@dataclass(frozen=True, kw_only=True)
class NodeConfig:
    """Who this node is and how it is reached."""

    node: NodeId
    run: str
    name: str
    region: str
    role: str
    coordinators: tuple[str, ...]
    bind: Endpoint | None
    """Data plane; None: no inbound connections, outbound only."""
    advertise: tuple[str, ...] = ()
    """What others dial; empty: where it listens."""
    max_disk_bytes: int = 0
    """Limit on log, snapshots, inputs and cache; 0: a share of what is free."""


@dataclass(frozen=True, kw_only=True)
class World:
    """The injected outside: everything that a simulation replaces."""

    transport: Transport
    disk: Disk
    clock: Clock
    workers: Workers
    rng: random.Random
    emit: Emit
    sign: Callable[[bytes], bytes]
    """Signs a vote body under this node's key."""


TrainerFactory = Callable[[RunSpec, OuterState], TrainerPort]
"""Makes the trainer and lets the state share its anchor."""


def outcome(task: asyncio.Task[Any]) -> None:
    """Raise what ended a task; of a group of failures the first, without its wrapping."""
    error = task.exception()
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if error is not None:
        raise error
