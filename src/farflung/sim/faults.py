"""Seeded faults for a simulated swarm: one seed is one history. Faults overlap."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from farflung.ids import GUESTS, NodeId, Role
from farflung.sim.aim import Aim
from farflung.sim.node import SimNode, newest_result
from farflung.sim.world import COORDINATOR_NODE, KEEPER, SimSwarm
from farflung.tasks import root_cause

MOST_LATE = 2
"""Joins per storm."""
CUT = "cut"


@dataclass(frozen=True)
class Harm:
    """What a fault did to whom, and when; `node` is empty for the coordinator."""

    kind: str
    node: str
    start_s: float
    stop_s: float


@dataclass
class Storm:
    """Random faults, several at a time, each healed by itself."""

    swarm: SimSwarm
    rng: random.Random
    done: list[str] = field(default_factory=list)
    """What was done, in order."""
    harms: list[Harm] = field(default_factory=list)
    joined: int = 0
    lost_disks: int = 0

    def __post_init__(self) -> None:
        self.aim = Aim(self.swarm, self.rng)
        self._busy: set[str] = set()

    async def rage(self, faults: int, pause_s: tuple[float, float] = (0.2, 3.0)) -> None:
        """`faults` faults with random pauses; everything is healed and running at the end."""
        try:
            async with asyncio.TaskGroup() as group:
                while len(self.done) < faults:
                    await asyncio.sleep(self.rng.uniform(*pause_s))
                    group.create_task(self._one())
                    await asyncio.sleep(0)
        except BaseExceptionGroup as failed:
            raise root_cause(failed) from None
        await self.calm()

    async def _one(self) -> None:
        kind, weight = zip(*self._kinds(), strict=True)
        await self.rng.choices(kind, weight)[0]()

    def _kinds(self) -> list[tuple[Callable[[], Awaitable[None]], int]]:
        return [
            (self._kill_peer, 6),
            (self._kill_coordinator, 4),
            (self._kill_keeper, 2),
            (self._kill_all, 1),
            (self._lose_disk, 1),
            (self._freeze, 2),
            (self._suspend_coordinator, 2),
            (self._double_start, 1),
            (self._partition, 4),
            (self._cut, 2),
            (self._tamper, 2),
            (self._slow_link, 2),
            (self._slow_disk, 2),
            (self._full_disk, 2),
            (self._full_journal, 1),
            (self._join, 2),
            (self._leave, 1),
            (self._extend, 1),
        ]

    async def calm(self) -> None:
        """Every link healed, every disk with room, every process running."""
        everybody = self._everybody()
        for a in everybody:
            for b in everybody:
                if a != b:
                    self.swarm.network.path(a, b).tamper = None
        for node in self.swarm.nodes.values():
            node.disk.full = False
            if node.task is None or node.task.done():
                await self.swarm.kill(node.label)
                self.swarm.spawn(node.label)
        self.swarm.disk.full = False
        if self.swarm.life is None or not self.swarm.life.alive:
            await self._restart_coordinator()

    # ---- processes -------------------------------------------------------------------------

    async def _kill_peer(self) -> None:
        label = self._pick(self._guests())
        if label:
            await self._killed(label, f"kill {label}", self.rng.uniform(0, 10))

    async def _kill_keeper(self) -> None:
        if KEEPER not in self._busy:
            await self._killed(KEEPER, "kill keeper", self.rng.uniform(0, 8))

    async def _killed(self, label: str, what: str, away_s: float) -> None:
        self._busy.add(label)
        self.done.append(what)
        start = _now()
        where = await self.aim.strike(label)
        self.done[-1] += where
        await self.swarm.kill(label)
        await asyncio.sleep(away_s)
        self.swarm.spawn(label)
        self._harm("kill", label, start)

    async def _kill_coordinator(self) -> None:
        if "" in self._busy:
            return
        self._busy.add("")
        self.done.append("kill coordinator")
        start = _now()
        self.done[-1] += await self.aim.strike_coordinator()
        await self.swarm.kill_coordinator()
        await asyncio.sleep(self.rng.uniform(0, 5))
        await self._restart_coordinator()
        self._harm("kill", "", start)

    async def _restart_coordinator(self) -> None:
        """Perhaps killed again while it starts."""
        if self.rng.random() < 0.2:
            self.aim.at_write(self.swarm.disk, self.rng.randint(1, 3), self._strike_again)
        await self.swarm.start_coordinator()
        self.swarm.disk.on_write = None
        if self.swarm.life is None or not self.swarm.life.alive:
            self.done.append("kill coordinator again")
            await self.swarm.kill_coordinator()
            await self.swarm.start_coordinator()

    def _strike_again(self) -> None:
        self.swarm.strike_coordinator(self.aim.torn())

    async def _kill_all(self) -> None:
        """A power cut everywhere at once."""
        labels = [n for n in self.swarm.nodes if n not in self._busy]
        self._busy.update(labels)
        self.done.append("kill " + " ".join(labels))
        start = _now()
        for label in labels:
            await self.swarm.kill(label, torn_bytes=self.aim.torn())
        await asyncio.sleep(self.rng.uniform(0, 4))
        for label in labels:
            self.swarm.spawn(label)
            self._harm("kill", label, start)

    async def _lose_disk(self) -> None:
        """One trainer's machine burns; a new one with the same key comes back empty."""
        label = self._pick(self._guests())
        if not label or self.lost_disks or not self._is_elsewhere(label):
            return
        self.lost_disks += 1
        self._busy.add(label)
        self.done.append(f"lose disk {label}")
        start = _now()
        await self.swarm.kill(label)
        self.swarm.nodes[label].disk = type(self.swarm.nodes[label].disk)()
        await asyncio.sleep(self.rng.uniform(0, 10))
        self.swarm.spawn(label)
        self._harm("kill", label, start)

    def _is_elsewhere(self, label: str) -> bool:
        """Another live node has applied every committed round: no only copy is lost."""
        others = [n.agent for n in self.swarm.nodes.values() if n.label != label and n.agent]
        done = [a.node.follower.state.next_round for a in others if a.node.follower.ready]
        return max(done, default=0) >= self.swarm.picture.round + 1

    async def _freeze(self) -> None:
        label = self._pick(self._guests())
        if not label:
            return
        self._busy.add(label)
        self.done.append(f"freeze {label}")
        start, node = _now(), self.swarm.nodes[label].node
        self.swarm.network.freeze(node)
        await asyncio.sleep(self.rng.uniform(1, 12))
        self.swarm.network.thaw(node)
        self._harm("freeze", label, start)

    async def _suspend_coordinator(self) -> None:
        if "" in self._busy:
            return
        self._busy.add("")
        self.done.append("suspend coordinator")
        start = _now()
        await self.swarm.suspend_coordinator(self.rng.uniform(2, 20))
        self._harm("suspend", "", start)

    async def _double_start(self) -> None:
        """A copy of a running node's folder is started as well; it must be refused."""
        label = self._pick(self._guests())
        if not label or "" in self._busy:
            return
        self._busy.update((label, ""))
        self.done.append(f"double start {label}")
        start = _now()
        twin = self.swarm.spawn_twin(label)
        assert twin.task is not None
        await asyncio.wait({twin.task}, timeout=12.0)
        self.done[-1] += " (refused)" if twin.task.done() else ""
        twin.task.cancel()
        await asyncio.gather(twin.task, return_exceptions=True)
        await self.swarm.kill(label)  # the twin shared its address
        self._keep_the_newer_folder(label, twin)
        self.swarm.spawn(label)
        self._busy.discard("")
        self._harm("double start", label, start)

    def _keep_the_newer_folder(self, label: str, twin: SimNode) -> None:
        """Where the twin took over, it may hold the only copy of the last rounds: whoever threw
        that folder away would lose a disk."""
        node, commits = self.swarm.nodes[label], self.swarm.commits()
        if newest_result(twin.disk, commits) > newest_result(node.disk, commits):
            node.disk = twin.disk.crash()

    async def _join(self) -> None:
        if self.joined >= MOST_LATE:
            return
        label = f"late{self.joined}"
        self.joined += 1
        self.done.append(f"join {label}")
        step_s = self.rng.choice([0.15, 0.15, 0.6])
        self.swarm.add(label, Role.TRAINER, step_s=step_s)
        self.swarm.spawn(label)

    async def _leave(self) -> None:
        """Politely, and back after a while."""
        label = self._pick(self._guests())
        if not label:
            return
        self._busy.add(label)
        self.done.append(f"leave {label}")
        start, node = _now(), self.swarm.nodes[label]
        if node.agent is not None:
            node.agent.leave("for a while")
        await asyncio.sleep(self.rng.uniform(2, 6))
        await self.swarm.kill(label)
        self.swarm.spawn(label)
        self._harm("leave", label, start)

    async def _extend(self) -> None:
        """The operator changes the run, once or twice at the same moment."""
        wishes = [f"rounds=+{self.rng.randint(1, 12)}"]
        wishes += self.rng.choice([[], ["grace_s=+0.5"], ["snapshot_every=3", "keep_rounds=8"]])
        wishes += self._weights()
        self.done.append(f"extend {' '.join(wishes)}")
        for _ in range(self.rng.choice([1, 1, 2])):
            self.swarm.extend(*wishes)

    def _weights(self) -> list[str]:
        """Other weights too, half of the times when the run has several sources."""
        rng = random.Random(" ".join(self.done))  # draws nothing of the storm's
        names = [part.name for part in self.swarm.spec.data.parts]
        if len(names) == 1 or rng.random() < 0.5:
            return []
        return ["weights=" + ",".join(f"{name}:{rng.randint(1, 9)}" for name in names)]

    # ---- links -----------------------------------------------------------------------------

    async def _partition(self) -> None:
        label = self._pick(self._guests())
        if not label:
            return
        self._busy.add(label)
        one_way = self.rng.random() < 0.3
        self.done.append(f"partition {label}{' one way' if one_way else ''}")
        start, node = _now(), self.swarm.nodes[label].node
        others = [n for n in self._everybody() if n != node]
        hit = self.rng.sample(others, self.rng.randint(1, len(others)))
        for other in hit:
            self.swarm.network.partition(node, other, one_way=one_way)
        await asyncio.sleep(self.rng.uniform(1, 15))
        for other in hit:
            self.swarm.network.heal(node, other)
        self._harm("partition", label, start)

    async def _cut(self) -> None:
        a, b = self._pair()
        self.done.append(f"cut {self._label(a)}-{self._label(b)}")
        self.swarm.network.cut(a, b)
        if COORDINATOR_NODE in (a, b):
            node = b if a == COORDINATOR_NODE else a
            self.harms.append(Harm(CUT, self._label(node), _now(), _now()))

    async def _tamper(self) -> None:
        """Frames are lost, doubled, swapped or changed: each must end the connection, not more."""
        a, b = self._pair()
        self.done.append(f"tamper {self._label(a)}-{self._label(b)}")
        path, start = self.swarm.network.path(a, b), _now()
        path.tamper = self.aim.tamperer()
        await asyncio.sleep(self.rng.uniform(0.5, 4))
        path.tamper = None
        if COORDINATOR_NODE in (a, b):  # beats and reconnections were lost as well
            node = b if a == COORDINATOR_NODE else a
            self.harms.append(Harm("tamper", self._label(node), start, _now()))

    async def _slow_link(self) -> None:
        a, b = self._pair()
        self.done.append(f"delay {self._label(a)}-{self._label(b)}")
        self.swarm.network.set_delay(a, b, self.rng.choice([0.0, 0.01, 0.1, 0.5]))
        self.swarm.network.path(a, b).bytes_per_s = self.rng.choice([None, 20_000.0])

    # ---- disks -----------------------------------------------------------------------------

    async def _slow_disk(self) -> None:
        label = self.rng.choice(["", *self.swarm.nodes])
        life = self.swarm.life if not label else self.swarm.nodes[label].life
        self.done.append(f"slow disk {label or 'coordinator'}")
        if life is not None:
            life.workers.slow_s = self.rng.choice([0.1, 0.5, 2.0])
            await asyncio.sleep(self.rng.uniform(1, 6))
            life.workers.slow_s = 0.0

    async def _full_disk(self) -> None:
        label = self._pick([*self._guests(), KEEPER])
        if not label:
            return
        self._busy.add(label)
        self.done.append(f"full disk {label}")
        start, node = _now(), self.swarm.nodes[label]
        node.disk.full = True
        await asyncio.sleep(self.rng.uniform(1, 6))
        node.disk.full = False
        if node.task is None or node.task.done():  # it gave up: its operator starts it again
            self.done[-1] += " (gave up)"
            await self.swarm.kill(label)
            self.swarm.spawn(label)
        self._harm("full disk", label, start)

    async def _full_journal(self) -> None:
        if "" in self._busy:
            return
        self._busy.add("")
        self.done.append("full disk coordinator")
        start = _now()
        self.swarm.disk.full = True
        await asyncio.sleep(self.rng.uniform(1, 6))
        self.swarm.disk.full = False
        self._harm("full disk", "", start)

    # ---- choosing --------------------------------------------------------------------------

    def _harm(self, kind: str, label: str, start_s: float) -> None:
        self._busy.discard(label)
        self.harms.append(Harm(kind, label, start_s, _now()))

    def _guests(self) -> list[str]:
        return [n.label for n in self.swarm.nodes.values() if n.role in GUESTS]

    def _pick(self, labels: list[str]) -> str:
        """One that no other fault holds; empty when there is none."""
        free = [label for label in labels if label not in self._busy]
        return self.rng.choice(free) if free else ""

    def _everybody(self) -> list[NodeId]:
        return [*(n.node for n in self.swarm.nodes.values()), COORDINATOR_NODE]

    def _pair(self) -> tuple[NodeId, NodeId]:
        a, b = self.rng.sample(self._everybody(), 2)
        return a, b

    def _label(self, node: NodeId) -> str:
        named = (n.label for n in self.swarm.nodes.values() if n.node == node)
        return next(named, "coordinator")


def _now() -> float:
    return asyncio.get_running_loop().time()
