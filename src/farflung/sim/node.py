"""What a simulated node is made of, and what of it survives its process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from farflung.checkpoint.round_log import RoundLog
from farflung.clock import LoopClock
from farflung.disk import MemoryDisk
from farflung.events import Event
from farflung.ids import NodeId, Role
from farflung.peer.agent import Agent
from farflung.sim.workers import SeededWorkers
from farflung.swarm.identity import Identity
from farflung.swarm.records import Commit
from farflung.trainers.numpy_trainer import NumpyTrainer


class SuspendableClock:
    """The loop's clock as a suspended process sees it: it stands still, then it jumps."""

    def __init__(self) -> None:
        self._loop_clock = LoopClock()
        self._stopped_s: float | None = None

    def now(self) -> float:
        return self._loop_clock.now() if self._stopped_s is None else self._stopped_s

    def suspend(self) -> None:
        self._stopped_s = self.now()

    def resume(self) -> None:
        self._stopped_s = None


@dataclass
class Life:
    """One run of a simulated process: what it says and does after its death does not count."""

    workers: SeededWorkers
    events: list[Event]
    listen: Callable[[Event], None] | None = None
    alive: bool = True

    def emit(self, event: Event) -> None:
        if self.alive:
            self.events.append(event)
            if self.listen is not None:
                self.listen(event)

    def end(self) -> None:
        self.alive = False
        self.workers.stop()


@dataclass
class SimNode:
    """A node's name, key and disk outlive its process."""

    label: str
    identity: Identity
    role: Role
    disk: MemoryDisk = field(default_factory=MemoryDisk)
    outbound_only: bool = False
    step_s: float = 0.05
    max_disk_bytes: int = 0
    agent: Agent | None = None
    task: asyncio.Task[str] | None = None
    trainer: NumpyTrainer | None = None
    life: Life | None = None
    events: list[Event] = field(default_factory=list)

    @property
    def node(self) -> NodeId:
        return self.identity.node_id


def newest_result(disk: MemoryDisk, commits: list[Commit]) -> int:
    """The last committed round of which this disk holds the averaged result; -1: none."""
    log = RoundLog(disk)
    held = [c.round for c in commits if log.has([s.hash for s in c.slices])]
    return max(held, default=-1)
