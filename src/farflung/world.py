"""The outside of one process, injected: the same object in production and in the simulator."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from farflung.clock import Clock, Workers
from farflung.disk import Disk
from farflung.events import Emit
from farflung.network.link import Transport


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
