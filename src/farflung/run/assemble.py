"""The only place that builds objects: real ones here, simulated ones in sim/world.py."""

from __future__ import annotations

import contextlib
import random
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from farflung.clock import LoopClock, ThreadWorkers
from farflung.config.run import RunSpec
from farflung.disk import MemoryDisk, RealDisk
from farflung.events import EventLog
from farflung.ids import Endpoint, NodeId, Role
from farflung.inner.seam import SharedState
from farflung.network.tcp import TcpTransport
from farflung.outer.fragments import make_fragments
from farflung.outer.layout import Layout
from farflung.peer.agent import Agent, Provision
from farflung.peer.node import NodeConfig
from farflung.run.genesis import trainer_program
from farflung.run.home import EVENTS, JOURNAL, private_folder
from farflung.swarm import votes
from farflung.swarm.identity import RECORD, Identity, verify_record
from farflung.swarm.journal import Journal
from farflung.trainers.inner_state import InnerStates
from farflung.trainers.numpy_trainer import NumpyTrainer
from farflung.trainers.port import TrainerFactory, TrainerPort
from farflung.trainers.process import ProcessTrainer
from farflung.world import World


def open_replica(disk: RealDisk) -> Journal:
    """A node's copy of the journal: it can check, not sign."""
    return Journal.open(disk, JOURNAL, verifier=verify_record, sign=None)


def read_journal(path: Path) -> Journal:
    """A copy in memory of a journal that may be in use: opening the file itself would cut a tail
    that its owner is writing. Raises CorruptState, StorageError."""
    data = RealDisk(path.parent).read(path.name)
    disk = MemoryDisk({} if data is None else {path.name: data})
    return Journal.open(disk, path.name, verifier=verify_record, sign=None)


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
    identity = Identity.load_or_create(disk, "node.key")
    log = EventLog(folder / EVENTS, identity.node_id, time.monotonic)
    return NodeFiles(folder=folder, disk=disk, log=log, identity=identity)


def build_agent(
    *,
    files: NodeFiles,
    transport: TcpTransport,
    run: str,
    name: str,
    region: str,
    role: Role,
    coordinators: tuple[str, ...],
    bind: Endpoint | None,
    advertise: tuple[str, ...],
    make_trainer: TrainerFactory | None,
    provision: Provision | None,
    max_disk_bytes: int = 0,
    inner_state: str = "fresh",
) -> Agent:
    """`inner_state`: what the optimizer of a new trainer starts with, `fresh` or a `donor`'s."""
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
    config = NodeConfig(
        node=NodeId(identity.node_id),
        run=run,
        name=name,
        region=region,
        role=role,
        coordinators=coordinators,
        bind=bind,
        advertise=advertise,
        max_disk_bytes=max_disk_bytes,
    )

    def keep(spec: RunSpec, layout: Layout) -> TrainerPort:
        assert make_trainer is not None and agent.serving.inner is not None
        return agent.serving.inner.keep(make_trainer(spec, layout), spec)

    agent = Agent(
        config,
        world,
        open_replica(files.disk),
        make_trainer=None if make_trainer is None else keep,
        provision=provision,
    )
    agent.serving.inner = InnerStates(
        run=run,
        rule=inner_state,
        world=world,
        mesh=agent.mesh,
        donors=agent.donors,
        state=lambda: agent.follower.state if agent.follower.ready else None,
        admit=agent.catch_up.retention.admit,
    )
    inner = agent.serving.inner
    agent.catch_up.retention.beside = lambda: inner.n_bytes
    return agent


def trainer_factory(
    folder: Path, data_folder: Path, program: tuple[str, ...] | None
) -> TrainerFactory:
    """A trainer process that shares its anchor, or the NumPy one for quadratic runs."""

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
        )

    return make
