"""Seeded faults for a simulated swarm: one seed is one history."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field

from farflung.ids import NodeId
from farflung.sim.world import KEEPER, SimSwarm

COORDINATOR = NodeId("coordinator")


@dataclass
class Storm:
    """Kills, restarts, freezes, partitions, cuts, joins and coordinator kills, one at a time."""

    swarm: SimSwarm
    rng: random.Random
    done: list[str] = field(default_factory=list)
    """What was done, in order."""
    joined: int = 0

    async def rage(self, faults: int, pause_s: tuple[float, float] = (0.2, 4.0)) -> None:
        """`faults` faults with random pauses; everything is healed and running at the end."""
        kinds = [
            self._kill_peer,
            self._kill_peer,
            self._kill_coordinator,
            self._freeze,
            self._partition,
            self._cut,
            self._join,
            self._kill_keeper,
            self._slow_link,
        ]
        for _ in range(faults):
            await asyncio.sleep(self.rng.uniform(*pause_s))
            await self.rng.choice(kinds)()

    def _trainers(self) -> list[str]:
        return [n.label for n in self.swarm.nodes.values() if n.role == "trainer"]

    async def _kill_peer(self) -> None:
        label = self.rng.choice(self._trainers())
        self.done.append(f"kill {label}")
        await self.swarm.kill(label, torn_bytes=self.rng.choice([0, 0, 7, 300]))
        await asyncio.sleep(self.rng.uniform(0, 10))
        self.swarm.spawn(label)

    async def _kill_keeper(self) -> None:
        self.done.append("kill keeper")
        await self.swarm.kill(KEEPER)
        await asyncio.sleep(self.rng.uniform(0, 8))
        self.swarm.spawn(KEEPER)

    async def _kill_coordinator(self) -> None:
        self.done.append("kill coordinator")
        await self.swarm.kill_coordinator(torn_bytes=self.rng.choice([0, 0, 5, 200]))
        await asyncio.sleep(self.rng.uniform(0, 5))
        await self.swarm.start_coordinator()

    async def _freeze(self) -> None:
        label = self.rng.choice(self._trainers())
        self.done.append(f"freeze {label}")
        node = self.swarm.nodes[label].node
        self.swarm.network.freeze(node)
        await asyncio.sleep(self.rng.uniform(1, 12))
        self.swarm.network.thaw(node)

    async def _partition(self) -> None:
        label = self.rng.choice(self._trainers())
        one_way = self.rng.random() < 0.3
        self.done.append(f"partition {label}{' one way' if one_way else ''}")
        node = self.swarm.nodes[label].node
        others = [n.node for n in self.swarm.nodes.values() if n.node != node] + [COORDINATOR]
        hit = self.rng.sample(others, self.rng.randint(1, len(others)))
        for other in hit:
            self.swarm.network.partition(node, other, one_way=one_way)
        await asyncio.sleep(self.rng.uniform(1, 15))
        for other in hit:
            self.swarm.network.heal(node, other)

    async def _cut(self) -> None:
        everybody = [n.node for n in self.swarm.nodes.values()] + [COORDINATOR]
        a, b = self.rng.sample(everybody, 2)
        self.done.append(f"cut {a[:6]}-{b[:6]}")
        self.swarm.network.cut(a, b)

    async def _join(self) -> None:
        label = f"late{self.joined}"
        self.joined += 1
        self.done.append(f"join {label}")
        self.swarm.add(label, "trainer", step_s=self.rng.choice([0.05, 0.05, 0.2]))
        self.swarm.spawn(label)

    async def _slow_link(self) -> None:
        everybody = [n.node for n in self.swarm.nodes.values()] + [COORDINATOR]
        a, b = self.rng.sample(everybody, 2)
        self.done.append(f"delay {a[:6]}-{b[:6]}")
        self.swarm.network.set_delay(a, b, self.rng.choice([0.0, 0.01, 0.1, 0.5]))
