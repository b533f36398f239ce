"""The only place that wires objects. The outside comes in as a `World`: real here, simulated in
sim/world.py."""

from __future__ import annotations

import contextlib
import random
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from farflung.checkpoint.blob_store import BlobStore
from farflung.checkpoint.input_log import InputLog
from farflung.clock import LoopClock, ThreadWorkers
from farflung.config.run import RunSpec
from farflung.coordinator.coordinator import Coordinator, CoordinatorOptions
from farflung.coordinator.sessions import Door
from farflung.disk import MemoryDisk, RealDisk
from farflung.errors import CorruptState
from farflung.events import Emit, EventLog
from farflung.inner.options import ENV_NODE
from farflung.inner.seam import SharedState
from farflung.network.tcp import TcpTransport
from farflung.outer.fragments import make_fragments, size
from farflung.outer.layout import Layout
from farflung.peer.agent import Agent, DataSupply, Equipment, Parts
from farflung.peer.applier import Applier
from farflung.peer.bootstrap import Bootstrap
from farflung.peer.control_link import ControlLink
from farflung.peer.control_messages import ControlMessages
from farflung.peer.ending import Ending
from farflung.peer.evaluations import Evaluations, Evaluator
from farflung.peer.follower import Follower
from farflung.peer.generations import Generations
from farflung.peer.measures import RoundBook
from farflung.peer.node import LocalNode, NodeConfig
from farflung.peer.pins import Pins
from farflung.peer.replay import Replay
from farflung.peer.retention import Retention
from farflung.peer.serving import Serving
from farflung.peer.standing import Standing
from farflung.peer.state_lifecycle import StateLifecycle
from farflung.run.genesis import trainer_program
from farflung.run.home import EVENTS, JOURNAL, private_folder
from farflung.swarm import votes
from farflung.swarm.identity import RECORD, Identity, verify_record
from farflung.swarm.journal import Journal
from farflung.swarm.records import Genesis
from farflung.swarm.replay import genesis_spec
from farflung.trainers.inner_state import InnerStates, stored_bytes
from farflung.trainers.numpy_trainer import NumpyTrainer
from farflung.trainers.port import TrainerFactory, TrainerPort
from farflung.trainers.process import ProcessTrainer
from farflung.transfer.donors import DonorList
from farflung.transfer.download import Downloader
from farflung.transfer.link_meter import LinkMeter
from farflung.transfer.mesh import Mesh
from farflung.world import World

NODE_KEY = "node.key"


def open_replica(disk: RealDisk) -> Journal:
    """A node's copy of the journal: it can check, not sign."""
    return Journal.open(disk, JOURNAL, verifier=verify_record, sign=None)


def read_journal(path: Path, *, check: bool = True) -> Journal:
    """A copy in memory of a journal that may be in use: opening the file itself would cut a tail
    that its owner is writing. `check`: also the signatures, which a node's own copy has had
    checked. Raises CorruptState, StorageError."""
    data = RealDisk(path.parent).read(path.name)
    disk = MemoryDisk({} if data is None else {path.name: data})
    verifier = verify_record if check else _unchecked
    return Journal.open(disk, path.name, verifier=verifier, sign=None)


def _unchecked(*_: bytes) -> bool:
    return True


def open_journal(disk: RealDisk, run_key: Identity) -> Journal:
    """The coordinator's own journal."""
    return Journal.open(
        disk, JOURNAL, verifier=verify_record, sign=lambda m: run_key.sign(RECORD, m)
    )


@dataclass(frozen=True, kw_only=True)
class NodeFiles:
    """A node's folder, opened."""

    folder: Path
    disk: RealDisk
    log: EventLog
    identity: Identity

    def close(self) -> None:
        """Let go of the files; what a full disk did not take of the log is lost."""
        self.disk.close()
        with contextlib.suppress(OSError):
            self.log.close()


def open_node(folder: Path) -> NodeFiles:
    """Keys, disk and event log of a node folder. Raises StorageError, CorruptState."""
    private_folder(folder)
    disk = RealDisk(folder)
    disk.sweep()
    identity = Identity.load_or_create(disk, NODE_KEY)
    log = EventLog(folder / EVENTS, identity.node_id, time.monotonic)
    return NodeFiles(folder=folder, disk=disk, log=log, identity=identity)


@dataclass(frozen=True, kw_only=True)
class NodeOptions:
    """What a node's owner chose."""

    make_trainer: TrainerFactory | None
    """None: it trains nothing."""
    data: DataSupply | None = None
    inner_state: str = "fresh"
    """What the optimizer of a new trainer starts with: `fresh`, or a `donor`'s."""
    evaluator: Evaluator | None = None
    """Measures the model when the coordinator asks; None: it is not asked."""


def assemble_agent(
    world: World, config: NodeConfig, journal: Journal, options: NodeOptions
) -> Agent:
    """All parts of one node, wired. The same in production and in the simulator."""
    follower = Follower(
        disk=world.disk, journal=journal, blobs=BlobStore(world.disk), workers=world.workers
    )
    donors = DonorList(config.node)
    mesh = Mesh(config.node, config.run, world.transport, world.emit)
    node = LocalNode(
        config=config,
        world=world,
        follower=follower,
        inputs=InputLog(world.disk),
        mesh=mesh,
        donors=donors,
        control=ControlLink(world, config.coordinators),
        measures=RoundBook(world.clock.now),
        meter=LinkMeter(mesh),
    )
    standing = Standing(f"{world.rng.getrandbits(64):016x}")
    generations = Generations(node, standing)
    pins = Pins(world.clock)
    supply = options.data
    retention = Retention(
        node,
        pins,
        beside=lambda: stored_bytes(world.disk),
        data=lambda: 0 if supply is None else supply.own_bytes,
    )
    inner = InnerStates(
        run=config.run,
        rule=options.inner_state,
        world=world,
        mesh=node.mesh,
        donors=donors,
        state=lambda: follower.state if follower.ready else None,
        admit=retention.admit,
    )
    downloader = Downloader(node.mesh, donors, world.clock, world.workers, world.emit)
    bootstrap = Bootstrap(node, downloader)
    replay = Replay(node, downloader, bootstrap)
    applier = Applier(node, standing, generations, replay, retention)
    evaluations = Evaluations(node, retention, pins, options.evaluator)
    parts = Parts(
        node=node,
        standing=standing,
        generations=generations,
        state=StateLifecycle(node, bootstrap, replay, retention),
        applier=applier,
        serving=Serving(node, generations, pins, inner),
        messages=ControlMessages(node, standing, generations, applier, evaluations),
        ending=Ending(node, standing, retention),
        evaluations=evaluations,
        pins=pins,
    )
    return Agent(parts, Equipment(_resuming(options.make_trainer, inner), options.data))


def assemble_coordinator(
    world: World, journal: Journal, door: Door, options: CoordinatorOptions
) -> Coordinator:
    """The control plane of the run whose journal this is. Raises CorruptState without GENESIS."""
    genesis = next(iter(journal.records()), None)
    if not isinstance(genesis, Genesis):
        raise CorruptState("the journal does not begin with GENESIS")
    layout = Layout.from_json(genesis.layout)
    fragments = make_fragments(layout, genesis_spec(genesis).outer.fragments)
    return Coordinator(world, journal, tuple(size(f) for f in fragments), door, options)


def _resuming(make: TrainerFactory | None, inner: InnerStates) -> TrainerFactory | None:
    """Trainers whose optimizer's state is kept, where they have one."""
    if make is None:
        return None
    return lambda spec, layout: inner.keep(make(spec, layout), spec)


def build_agent(
    files: NodeFiles, transport: TcpTransport, config: NodeConfig, options: NodeOptions
) -> Agent:
    """A real node on its folder."""
    identity = files.identity
    world = World(
        transport=transport,
        disk=files.disk,
        clock=LoopClock(),
        workers=ThreadWorkers(2),
        rng=random.Random(secrets.randbits(64)),
        emit=files.log.emit,
        sign=lambda body: identity.sign(votes.DOMAIN, body),
    )
    return assemble_agent(world, config, open_replica(files.disk), options)


def trainer_factory(
    folder: Path,
    data_folder: Path,
    program: tuple[str, ...] | None,
    emit: Emit,
    *,
    ranks: int = 1,
    gpus: tuple[str, ...] = (),
) -> TrainerFactory:
    """A trainer that shares its anchor, of one process or of several ranks, or the NumPy one for
    quadratic runs."""

    def make(spec: RunSpec, layout: Layout) -> TrainerPort:
        wanted = program or trainer_program(spec)
        shared = SharedState.create(
            layout.size,
            make_fragments(layout, spec.outer.fragments),
            spec.outer.window,
            memfd=wanted is not None,
        )
        if wanted is None:
            return NumpyTrainer(shared, spec, spec.model.step_s)
        return ProcessTrainer(
            shared,
            spec,
            layout=layout,
            program=wanted,
            data_dir=data_folder,
            log_path=folder / "trainer.log",
            emit=emit,
            ranks=ranks,
            gpus=gpus,
            env={ENV_NODE: str(folder.resolve())},
        )

    return make
