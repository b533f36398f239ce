"""When exactly a simulated process dies: now, at its n-th disk write, at its n-th frame."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

from farflung.disk import MemoryDisk
from farflung.ids import NodeId
from farflung.sim.world import COORDINATOR_NODE, SimSwarm

PATIENCE_S = 3.0
"""A process that does not come to its n-th write or frame by then dies anyway."""
WRITES = 25
FRAMES = 60


class Aim:
    """Places kills. One per storm; it owns the hooks of disks and network."""

    def __init__(self, swarm: SimSwarm, rng: random.Random) -> None:
        self._swarm = swarm
        self._rng = rng
        self._frames: dict[NodeId, tuple[int, Callable[[], None]]] = {}
        swarm.network.on_send = self._on_send

    async def strike(self, label: str) -> str:
        """Kill a node, at the latest after PATIENCE_S; returns where."""
        node = self._swarm.nodes[label]
        torn = self.torn()
        return await self._strike(
            node.node, node.disk, lambda: self._swarm.strike(label, torn_bytes=torn)
        )

    async def strike_coordinator(self) -> str:
        torn = self.torn()
        return await self._strike(
            COORDINATOR_NODE,
            self._swarm.disk,
            lambda: self._swarm.strike_coordinator(torn_bytes=torn),
        )

    def torn(self) -> int:
        """Bytes of an unsynced tail that survive."""
        return self._rng.choice([0, 0, 5, 40, 300])

    async def _strike(self, node: NodeId, disk: MemoryDisk, kill: Callable[[], None]) -> str:
        way = self._rng.choice(["now", "write", "write", "frame", "frame"])
        where = ""
        if way == "write":
            count = self._rng.randint(1, WRITES)
            where = f" at write {count}"
            self.at_write(disk, count, kill)
        elif way == "frame":
            count = self._rng.randint(1, FRAMES)
            where = f" at frame {count}"
            self._frames[node] = (count, kill)
        if way != "now":
            await asyncio.sleep(PATIENCE_S)
        disk.on_write = None
        self._frames.pop(node, None)
        kill()
        return where

    def at_write(self, disk: MemoryDisk, count: int, kill: Callable[[], None]) -> None:
        left = count

        def on_write() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                kill()

        disk.on_write = on_write

    def _on_send(self, node: NodeId) -> None:
        if node in self._frames:
            count, kill = self._frames[node]
            self._frames[node] = (count - 1, kill)
            if count == 1:
                kill()

    def tamperer(self) -> Callable[[bytes], Sequence[bytes]]:
        """A third of the frames of a path are dropped, doubled or swapped with the next one.

        Changed bytes are left out: TLS ends a connection before anybody sees them.
        """
        rng, held = self._rng, list[bytes]()

        def tamper(frame: bytes) -> Sequence[bytes]:
            if held:
                return [frame, held.pop()]
            way = rng.random()
            if way > 0.33:
                return [frame]
            if way < 0.11:
                return []
            if way < 0.22:
                return [frame, frame]
            held.append(frame)
            return []

        return tamper
