"""A whole swarm in one process and in virtual time: the real coordinator, agents and keeper over
memory links and memory disks. Used by tests and by `farflung sim`.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import random
from collections.abc import Callable

from farflung.checkpoint.blob_store import BlobStore
from farflung.clock import LoopClock
from farflung.config.run import RunSpec
from farflung.coordinator.coordinator import Coordinator, CoordinatorOptions
from farflung.coordinator.sessions import Door
from farflung.disk import Disk, MemoryDisk
from farflung.events import Event
from farflung.ids import GUESTS, Endpoint, NodeId, Role
from farflung.inner.seam import SharedState
from farflung.monitor.answers import Answers
from farflung.monitor.picture import Picture
from farflung.monitor.view import View
from farflung.network.link import COORDINATOR, PEER
from farflung.network.memory import MemoryNetwork
from farflung.network.messages import Control, Redeem
from farflung.outer.fragments import make_fragments
from farflung.outer.layout import Layout
from farflung.peer.agent import Agent
from farflung.peer.node import NodeConfig
from farflung.run.assemble import NodeOptions, assemble_agent, assemble_coordinator
from farflung.run.genesis import genesis_record, make_weights, synthetic_material
from farflung.sim.evaluator import SimEvaluator
from farflung.sim.node import Life, SimNode, SuspendableClock
from farflung.sim.workers import SeededWorkers
from farflung.swarm import identity, votes
from farflung.swarm.identity import RECORD, Identity
from farflung.swarm.journal import Journal
from farflung.swarm.records import AnyRecord, Commit
from farflung.swarm.state import Admitted, Amending, State
from farflung.tasks import Tasks
from farflung.trainers.numpy_trainer import NumpyTrainer
from farflung.trainers.port import TrainerPort
from farflung.world import World

JOURNAL = "journal.bin"
CONTROL = Endpoint("coordinator:7000")
RUN = "5eed5eed5eed5eed"
KEEPER = "keeper"
COORDINATOR_NODE = NodeId("coordinator")
TICK_S = 0.2
"""Between the coordinator's looks at its timers; half as often as in earnest, to save time."""
LOOK_S = 0.1


def seeded_identity(label: str) -> Identity:
    return Identity.from_seed(hashlib.sha256(label.encode()).digest())


@functools.lru_cache(maxsize=20_000)
def verify_record(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Remembered: a dozen simulated nodes check the same record, and a check is a pure function."""
    return identity.verify_record(public_key, message, signature)


@functools.lru_cache(maxsize=20_000)
def verify_vote(public_key: bytes, body: bytes, signature: bytes) -> bool:
    return identity.verify_vote(public_key, body, signature)


class SimSwarm:
    """Build with `await SimSwarm.start(...)` inside `run_virtual`."""

    def __init__(self, spec: RunSpec, seed: int) -> None:
        self.spec = spec
        self.rng = random.Random(seed)
        self.network = MemoryNetwork()
        self.run_key = seeded_identity(f"run-{seed}")
        self.disk = MemoryDisk()
        self.events: list[Event] = []
        self.told: list[tuple[float, Event]] = []
        """The coordinator's events with their (virtual) times."""
        self.former_journals: list[bytes] = []
        """What was durable whenever the coordinator died."""
        self.clock = SuspendableClock()
        """The coordinator's."""
        self.life: Life | None = None
        self._view = View()
        self._answers = Answers(self._view)
        self.nodes: dict[str, SimNode] = {}
        self.coordinators: tuple[Endpoint, ...] = (CONTROL,)
        """Where nodes look for a coordinator, in this order."""
        self.coordinator: Coordinator | None = None
        self._processes = Tasks(self.events.append)
        """What ends one is seen by `until`, as a shell sees an exit code."""
        self._coordinator_task: asyncio.Task[None] | None = None
        self.latency_s: tuple[float, float] | None = None
        self.momentum = 0.0
        """Of the trainers; above 0 they have an inner state, which is saved and passed on."""
        self.inner_state = "fresh"
        """What the optimizer of a newcomer starts with, or `donor`."""

    @classmethod
    async def start(
        cls,
        spec: RunSpec,
        *,
        peers: int,
        keeper: bool = True,
        seed: int = 0,
        outbound_only: bool = False,
        step_s: float = 0.05,
        latency_s: tuple[float, float] | None = None,
        momentum: float = 0.0,
        inner_state: str = "fresh",
    ) -> SimSwarm:
        """`latency_s`: each pair of nodes draws its one-way delay from this range."""
        swarm = cls(spec, seed)
        swarm.latency_s = latency_s
        swarm.momentum, swarm.inner_state = momentum, inner_state
        source = swarm.add(KEEPER, Role.KEEPER if keeper else Role.SOURCE)
        swarm._make_genesis(source.disk)
        await swarm.start_coordinator()
        swarm.spawn(KEEPER)
        for i in range(peers):
            swarm.add(f"p{i}", Role.TRAINER, outbound_only=outbound_only, step_s=step_s)
            swarm.spawn(f"p{i}")
        return swarm

    def _make_genesis(self, disk: Disk) -> None:
        weights = make_weights(self.spec, None)
        record = genesis_record(
            run=RUN,
            run_key=self.run_key.public_key,
            spec=self.spec,
            weights=weights,
            material=synthetic_material(self.spec),
            disk=disk,
        )
        journal = self._open_journal()
        journal.append(record)

    def _open_journal(self) -> Journal:
        return Journal.open(
            self.disk,
            JOURNAL,
            verifier=verify_record,
            sign=self._sign_record,
        )

    def _sign_record(self, record: bytes) -> bytes:
        return self.run_key.sign(RECORD, record)

    # ---- the coordinator -------------------------------------------------------------------

    async def start_coordinator(self, *wishes: str) -> None:
        """Start or restart it on its disk, perhaps with `--extend` wishes. Raises StorageError."""
        if self.over and self.life is not None and self.life.alive:
            await self.life.workers.idle()  # its last writes are on the disk before the next reads
        self.life = life = Life(self._workers(), self.events, self._see)
        world = World(
            transport=self.network.transport(COORDINATOR_NODE, COORDINATOR),
            disk=self.disk,
            clock=self.clock,
            workers=life.workers,
            rng=self.rng,
            emit=life.emit,
            sign=self._sign_record,
        )
        door = Door(
            admission=nobody,
            check_vote=verify_vote,
            status=lambda node: self._answers.to(node, at_s=self.clock.now(), now=0.0),
            operator=self.run_key.node_id,
        )
        options = CoordinatorOptions(
            tick_s=TICK_S, amending=self._amending(wishes) if wishes else None
        )
        self.coordinator = coordinator = assemble_coordinator(
            world, self._open_journal(), door, options
        )
        try:
            await coordinator.start(CONTROL)
        except asyncio.CancelledError:
            if life.alive:
                raise
        if not life.alive:
            return  # killed while it started
        self._coordinator_task = self._processes.start(
            _to_its_end(coordinator), "coordinator", expects=(Exception,)
        )
        for node in self.nodes.values():
            self._admit(node)

    def extend(self, *wishes: str) -> None:
        """As `farflung host --extend` does with a host that runs; nobody waits for the answer."""
        if self.coordinator is not None and not self.over:
            self.coordinator.submit(self._amending(wishes))

    def _amending(self, wishes: tuple[str, ...]) -> Amending:
        return Amending(request=f"{self.rng.getrandbits(64):016x}", wishes=wishes)

    @property
    def over(self) -> bool:
        """The coordinator has ended by itself."""
        task = self._coordinator_task
        return task is not None and task.done() and not task.cancelled()

    def strike_coordinator(self, torn_bytes: int = 0) -> None:
        """SIGKILL, at this very instruction: nothing more is said, unsynced bytes are gone."""
        if self.life is None or not self.life.alive:
            return
        self.life.end()
        self.network.kill(COORDINATOR_NODE)
        self.former_journals.append(self.disk.crash().read(JOURNAL) or b"")
        self.disk = self.disk.crash(torn_bytes)
        self.coordinator = None
        if self._coordinator_task is not None:
            self._coordinator_task.cancel()

    async def suspend_coordinator(self, seconds: float) -> None:
        """SIGSTOP and SIGCONT: it hears nothing, says nothing, and its clock jumps at the end."""
        self.clock.suspend()
        self.network.freeze(COORDINATOR_NODE)
        await asyncio.sleep(seconds)
        self.clock.resume()
        self.network.thaw(COORDINATOR_NODE)

    async def kill_coordinator(self, torn_bytes: int = 0) -> None:
        self.strike_coordinator(torn_bytes)
        await _end(self._coordinator_task)
        self._coordinator_task = None

    def _see(self, event: Event) -> None:
        self.told.append((asyncio.get_running_loop().time(), event))
        self._view.event(None, event)

    @property
    def picture(self) -> Picture:
        """What the coordinator's events have told."""
        return self._view.picture()

    def _workers(self) -> SeededWorkers:
        return SeededWorkers(random.Random(self.rng.getrandbits(64)))

    # ---- nodes -----------------------------------------------------------------------------

    def add(
        self, label: str, role: Role, *, outbound_only: bool = False, step_s: float = 0.05
    ) -> SimNode:
        node = SimNode(
            label=label,
            identity=seeded_identity(label),
            role=role,
            outbound_only=outbound_only,
            step_s=step_s,
        )
        if self.latency_s is not None:
            for other in [COORDINATOR_NODE, *(n.node for n in self.nodes.values())]:
                self.network.set_delay(node.node, other, self.rng.uniform(*self.latency_s))
        self.nodes[label] = node
        if self.coordinator is not None:
            self._admit(node)
        return node

    def _admit(self, node: SimNode) -> None:
        assert self.coordinator is not None
        self.coordinator.submit(
            Admitted(
                node=node.node,
                name=node.label,
                region="",
                role=node.role,
                public_key=node.identity.public_key,
                invite=b"",
            )
        )

    def spawn(self, label: str) -> None:
        """Start (or restart) a node's process on its disk."""
        node = self.nodes[label]
        node.life = Life(self._workers(), node.events)
        node.agent = self._agent(node, node.life)
        node.task = self._processes.start(node.agent.run(), label, expects=(Exception,))

    def _agent(self, node: SimNode, life: Life) -> Agent:
        def make_trainer(spec: RunSpec, layout: Layout) -> TrainerPort:
            fragments = make_fragments(layout, spec.outer.fragments)
            shared = SharedState.create(layout.size, fragments, spec.outer.window, memfd=False)
            node.trainer = NumpyTrainer(
                shared, spec, step_s=node.step_s, momentum=self.momentum, disk=node.disk
            )
            return node.trainer

        world = World(
            transport=self.network.transport(node.node, PEER),
            disk=node.disk,
            clock=LoopClock(),
            workers=life.workers,
            rng=random.Random(self.rng.getrandbits(64)),
            emit=life.emit,
            sign=lambda body: node.identity.sign(votes.DOMAIN, body),
        )
        config = NodeConfig(
            node=node.node,
            run=RUN,
            name=node.label,
            region="",
            role=node.role,
            coordinators=self.coordinators,
            bind=None if node.outbound_only else Endpoint(f"{node.node}:0"),
            max_disk_bytes=node.max_disk_bytes,
        )
        journal = Journal.open(node.disk, JOURNAL, verifier=verify_record, sign=None)
        trains = node.role == Role.TRAINER
        options = NodeOptions(
            make_trainer=make_trainer if trains else None,
            inner_state=self.inner_state,
            evaluator=SimEvaluator(life.workers) if node.role in GUESTS else None,
        )
        return assemble_agent(world, config, journal, options)

    def strike(self, label: str, torn_bytes: int = 0) -> None:
        """SIGKILL a node at this very instruction: links end, unsynced bytes are gone."""
        node = self.nodes[label]
        if node.life is None or not node.life.alive:
            return
        node.life.end()
        self.network.kill(node.node)
        node.disk = node.disk.crash(torn_bytes)
        node.agent = node.trainer = None
        if node.task is not None:
            node.task.cancel()

    def spawn_twin(self, label: str) -> SimNode:
        """A second process of the same node on a copy of its disk, as after a copied folder."""
        node = self.nodes[label]
        twin = SimNode(
            label=f"{label}'",
            identity=node.identity,
            role=node.role,
            disk=node.disk.crash(),
            step_s=node.step_s,
        )
        twin.life = Life(self._workers(), twin.events)
        twin.agent = self._agent(twin, twin.life)
        twin.task = self._processes.start(twin.agent.run(), twin.label, expects=(Exception,))
        return twin

    async def kill(self, label: str, torn_bytes: int = 0) -> None:
        self.strike(label, torn_bytes)
        await _end(self.nodes[label].task)
        self.nodes[label].task = None

    # ---- waiting and looking ---------------------------------------------------------------

    async def until(self, done: Callable[[], bool], deadline_s: float = 600.0) -> None:
        """Wait in virtual time. TimeoutError with the picture when it does not come true."""
        end = asyncio.get_running_loop().time() + deadline_s
        while not done():
            for node in self.nodes.values():
                if node.task is not None and node.task.done() and not node.task.cancelled():
                    node.task.result()
            coordinating = self._coordinator_task
            if coordinating is not None and coordinating.done() and not coordinating.cancelled():
                coordinating.result()
            if asyncio.get_running_loop().time() > end:
                raise TimeoutError(f"not in {deadline_s:g} s: {self.picture}")
            await asyncio.sleep(LOOK_S)

    async def committed(self, rounds: int, deadline_s: float = 600.0) -> None:
        await self.until(lambda: self.picture.committed >= rounds, deadline_s)

    async def finished(self, deadline_s: float = 3600.0) -> None:
        """The run is complete, and every live node and the coordinator have ended by themselves."""
        await self.until(lambda: self.picture.finished, deadline_s)
        assert self._coordinator_task is not None and self.coordinator is not None
        await asyncio.wait_for(self._coordinator_task, deadline_s)
        for node in self.nodes.values():  # as the host does with its own, which may lack a round
            if node.role == Role.SOURCE and node.agent is not None:
                node.agent.leave("the host stops")
        tasks = [n.task for n in self.nodes.values() if n.task is not None]
        await asyncio.wait_for(asyncio.gather(*tasks), deadline_s)

    async def stop(self) -> None:
        for label, node in self.nodes.items():
            if node.task is not None:
                await self.kill(label)
        if self.coordinator is not None:
            await self.kill_coordinator()

    def coordinator_state(self) -> State:
        """What the living coordinator knows."""
        assert self.coordinator is not None
        return self.coordinator.state

    def records(self) -> list[AnyRecord]:
        return list(self._open_journal().records())

    def journal_bytes(self) -> bytes:
        return self.disk.read(JOURNAL) or b""

    def commits(self) -> list[Commit]:
        return [r for r in self.records() if isinstance(r, Commit)]

    def roots(self) -> dict[str, bytes]:
        """State root of every live node that has a state."""
        return {
            label: bytes(n.agent.node.follower.state.root)
            for label, n in self.nodes.items()
            if n.agent is not None and n.agent.node.follower.ready
        }

    def blobs(self, label: str) -> BlobStore:
        return BlobStore(self.nodes[label].disk)


def whole_frames(journal: bytes) -> bytes:
    """What a restart keeps of a journal: a torn tail is cut."""
    disk = MemoryDisk({JOURNAL: journal} if journal else None)
    Journal.open(disk, JOURNAL, verifier=verify_record, sign=None)
    return disk.read(JOURNAL) or b""


def nobody(_: Redeem) -> tuple[Control, None]:
    raise AssertionError("simulated nodes are admitted directly")


async def _to_its_end(coordinator: Coordinator) -> None:
    """As the host does: its links end with it."""
    await coordinator.run()
    await coordinator.close()


async def _end(task: asyncio.Task[str] | asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
