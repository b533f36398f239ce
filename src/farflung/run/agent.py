"""The agent: everything of a node except the model. It never imports torch.

Tasks, all on one loop (docs/threads.md):
    control   reads the coordinator's messages, reconnects
    apply     applies resolved rounds in order, lands them in the trainer
    rounds    trains (trainers only)
    beats     says once a second that it lives and how far it is
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from farflung.checkpoint.blob_store import BlobStore
from farflung.config.run import ARITHMETIC_VERSION, PROTOCOL_VERSION
from farflung.errors import (
    CorruptState,
    MismatchError,
    ProtocolError,
    Refused,
)
from farflung.events import (
    AgentStarted,
    Resynced,
)
from farflung.network.messages import (
    Attempt,
    Beat,
    Control,
    Donors,
    Hello,
    Journal,
    Leave,
    Plan,
    Synced,
    Verdict,
    Welcome,
)
from farflung.outer.layout import Layout
from farflung.run.applier import Applier
from farflung.run.averager import Averager
from farflung.run.control import ControlLink
from farflung.run.follower import Follower
from farflung.run.mesh import Mesh
from farflung.run.node import NodeConfig, TrainerFactory, World, outcome
from farflung.run.outer_state import OuterState
from farflung.run.plant import NodePlant
from farflung.run.round import RoundRunner
from farflung.run.supervisor import Supervisor
from farflung.run.trainer_port import TrainerPort
from farflung.swarm.journal import Journal as JournalFile
from farflung.swarm.records import Admin, AnyRecord, Close, Gen, Genesis

Provision = Callable[["Agent", Genesis], Awaitable[None]]
"""Fetches what the trainer needs (token shards, tokenizer) before it starts."""


class Agent:
    """One node of one run. `run` returns when the run is finished or the node left."""

    def __init__(
        self,
        config: NodeConfig,
        world: World,
        journal: JournalFile,
        *,
        make_trainer: TrainerFactory | None,
        provision: Provision | None = None,
    ) -> None:
        self.config = config
        self.world = world
        self.blobs = BlobStore(world.disk)
        self.follower = Follower(
            disk=world.disk,
            journal=journal,
            blobs=self.blobs,
            workers=world.workers,
            clock=world.clock,
            emit=world.emit,
            keeps_genesis=config.role != "trainer",
        )
        self.plant = NodePlant(self.follower, self.blobs, world.disk)
        self.mesh = Mesh(
            node=config.node,
            run=config.run,
            transport=world.transport,
            plant=self.plant,
            emit=world.emit,
        )
        self.control = ControlLink(
            transport=world.transport,
            endpoints=config.coordinators,
            hello=self._hello,
            on_welcome=self._on_welcome,
            on_message=self._on_message,
            rng=world.rng,
            clock=world.clock,
            emit=world.emit,
        )
        self.applier = Applier(
            config=config,
            world=world,
            follower=self.follower,
            mesh=self.mesh,
            control=self.control,
            donors=self.donors,
        )
        self.supervisor: Supervisor | None = None
        self.trainer: TrainerPort | None = None
        self.runner: RoundRunner | None = None
        self.averager: Averager | None = None
        self._donors: tuple[str, ...] = ()
        self._make_trainer = make_trainer
        self._provision = provision
        self._endpoints: tuple[str, ...] = ()
        self._session = f"{world.rng.getrandbits(64):016x}"
        self._term = 0
        self._asked = False
        self._journal_ended = False
        self._journal_target = 0
        self._news = asyncio.Event()
        self._finished = asyncio.Event()
        self._leaving = asyncio.Event()
        self._phase = "syncing"
        self._leave_reason = ""
        self._distrust = False

    # ---- life ------------------------------------------------------------------------------

    async def run(self) -> str:
        """Take part until the run is finished ("finished") or `leave` was called ("left").

        Raises Refused, MismatchError (not wanted here), StorageError.
        """
        world, config = self.world, self.config
        await self._listen()
        world.emit(
            AgentStarted(run=config.run, node=config.node, name=config.name, role=config.role)
        )
        self.follower.load()
        tasks = [
            asyncio.create_task(self.control.run(), name="control"),
            asyncio.create_task(self._beats(), name="beats"),
            asyncio.create_task(self._live(), name="live"),
            asyncio.create_task(self._finished.wait(), name="finished"),
            asyncio.create_task(self._leaving.wait(), name="leaving"),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                outcome(task)
            return "left" if self._leaving.is_set() else "finished"
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._close()

    def leave(self, reason: str) -> None:
        """Go: hand the lease back and end `run`. Idempotent."""
        if not self._leaving.is_set():
            self._leave_reason = reason
            self._leaving.set()

    async def _close(self) -> None:
        if self._leaving.is_set():
            await self.control.send(Leave(reason=self._leave_reason))
        if self.averager is not None:
            await self.averager.close()
        if self.trainer is not None:
            await self.trainer.close()
        await self.applier.close()
        if self.follower.ready and self.follower.state.next_round > 0:
            await self.follower.snapshot(self.config.run)
        self.control.close()
        await self.mesh.close()

    async def _listen(self) -> None:
        if self.config.bind is None:
            return
        actual = await self.mesh.listen(self.config.bind)
        self._endpoints = self.config.advertise or (actual,)

    async def _live(self) -> None:
        """Bring the state up, then apply and train side by side."""
        genesis = await self._genesis_known()
        if self._provision is not None:
            await self._provision(self, genesis)
        while True:
            await self._bring_up(genesis)
            try:
                async with asyncio.TaskGroup() as group:
                    if self.supervisor is not None:
                        group.create_task(self.supervisor.run())
                    group.create_task(self._apply_loop())
            except* CorruptState as errors:
                reason = str(errors.exceptions[0])
                self.world.emit(Resynced(round=self.follower.state.next_round, reason=reason))
                await self._forget_state(reason)

    async def _genesis_known(self) -> Genesis:
        while self.follower.genesis is None:
            self._news.clear()
            await self._news.wait()
        return self.follower.genesis

    async def _bring_up(self, genesis: Genesis) -> None:
        """State from disk or donors, shared with a fresh trainer."""
        spec = self.follower.spec
        state = OuterState(Layout.from_json(genesis.layout), spec.outer)
        if self._make_trainer is not None and self.trainer is None:
            self.trainer = self._make_trainer(spec, state)
        elif self.trainer is not None:
            state.anchor = self.trainer.shared.anchor
        await self.follower.bring_up(
            state, self.donors, self.mesh.blobs, trust_disk=not self._distrust
        )
        self._distrust = False
        if self.trainer is not None:
            self._phase = "loading"
            self.supervisor = Supervisor(
                trainer=self.trainer,
                make_runner=self._make_runner,
                on_runner=self._on_runner,
                lost=self._lost_progress,
                emit=self.world.emit,
            )
        self.applier.trainer = self.trainer
        self.averager = self.applier.averager = self.plant.averager = Averager(
            node=self.config.node,
            run=self.config.run,
            follower=self.follower,
            mesh=self.mesh,
            control=self.control,
            workers=self.world.workers,
            sign=self.world.sign,
            contribution=self._contribution,
            keep_inputs=self.plant.keep_inputs if spec.record == "all" else None,
            emit=self.world.emit,
        )

    async def _forget_state(self, reason: str) -> None:
        """My state is not the journal's: leave the round, take a donor's."""
        self._distrust = True
        await self._lost_progress(reason)
        if self.averager is not None:
            await self.averager.close()

    def donors(self) -> list[str]:
        """Keepers first: they have everything and train nothing."""
        return [d for d in self._donors if d != self.config.node]

    # ---- taking part -----------------------------------------------------------------------

    async def _ask_in(self) -> None:
        """Nothing left to apply: if I am not in, say that I hold the newest state."""
        ready = self.trainer is None or self.runner is not None
        behind = self.follower.journal.length < self._journal_target
        if self.config.role == "source" or not ready or behind:
            return
        state = self.follower.state
        if not self.applier.generation or not self._asked:
            self._asked = True
            await self.control.send(
                Synced(
                    next_round=state.next_round,
                    state_root=state.root,
                    steps_per_s=0.0 if self.trainer is None else self.trainer.steps_per_s,
                )
            )

    async def _apply_loop(self) -> None:
        while True:
            while await self.applier.step():
                self._news.set()
            await self._ask_in()
            if self._journal_ended:
                self._finished.set()
            self._news.clear()
            await self._news.wait()

    def _make_runner(self) -> RoundRunner:
        assert self.trainer is not None
        return RoundRunner(
            spec=self.follower.spec,
            follower=self.follower,
            trainer=self.trainer,
            control=self.control,
            workers=self.world.workers,
            emit=self.world.emit,
        )

    def _on_runner(self, runner: RoundRunner | None) -> None:
        self.runner = self.applier.runner = runner
        self._phase = "loading" if runner is None else "waiting"
        self._news.set()

    async def _lost_progress(self, reason: str) -> None:
        """What was trained since the last commit is gone: this stay ends."""
        if self.applier.generation:
            await self.control.send(Leave(reason=reason))
        self._end_generation()

    # ---- the control link ------------------------------------------------------------------

    def _hello(self) -> Hello:
        return Hello(
            protocol=PROTOCOL_VERSION,
            arithmetic=ARITHMETIC_VERSION,
            run=self.config.run,
            name=self.config.name,
            region=self.config.region,
            role=self.config.role,
            endpoints=self._endpoints,
            term=self._term,
            journal_length=self.follower.journal.length,
            journal_head=self.follower.journal.head,
            session=self._session,
            generation=self.applier.generation,
        )

    def _on_welcome(self, welcome: Welcome) -> None:
        if welcome.protocol != PROTOCOL_VERSION:
            raise MismatchError(
                f"the run speaks protocol {welcome.protocol}, this farflung "
                f"{PROTOCOL_VERSION}; install the version that the host runs"
            )
        if welcome.term < self._term:
            raise Refused(
                f"the coordinator's term {welcome.term} is older than {self._term}, which I "
                f"have followed; stop the stale coordinator"
            )
        self._term = welcome.term
        self._journal_target = welcome.journal_length
        self._asked = False
        if self.averager is not None:
            self.averager.new_term(welcome.term)
        self._news.set()

    def _on_message(self, message: Control) -> None:
        match message:
            case Journal():
                for record in self.follower.extend(message.first, message.frames):
                    self._on_record(record)
                self._news.set()
            case Donors():
                self.mesh.know(message.members)
                self._donors = tuple(m.node for m in message.members)
            case Plan():
                if self.runner is not None and message.generation == self.applier.generation:
                    self.runner.on_plan(message)
            case Attempt():
                if self.averager is not None and message.term == self._term:
                    self.averager.on_attempt(message)
            case Verdict():
                if self.averager is not None and message.term == self._term:
                    self.averager.on_verdict(message)
            case _:
                raise ProtocolError(f"{type(message).__name__} does not come from a coordinator")

    def _on_record(self, record: AnyRecord) -> None:
        match record:
            case Gen(node=self.config.node, generation=generation) if self._asked:
                self.applier.generation = generation
                self.applier.count_bytes_from_now()
                if self.runner is not None:
                    self.runner.begin()
            case Close(node=self.config.node, generation=self.applier.generation):
                self._end_generation()
            case Admin(action="finish"):
                self._journal_ended = True
            case _:
                pass

    def _end_generation(self) -> None:
        """My stay was closed: local parameters start again from the anchor."""
        self.applier.generation = 0
        self._asked = False
        if self.runner is not None:
            self.runner.drop_landings()
            self._on_runner(None)  # no plan for it until it has begun anew
        if self.supervisor is not None:
            self.supervisor.end_generation()
        self._news.set()

    async def _beats(self) -> None:
        while True:
            trainer = self.trainer
            phase = self._phase if trainer is None or self.runner is None else trainer.phase
            await self.control.send(
                Beat(
                    steps=0 if trainer is None else trainer.steps,
                    steps_per_s=0.0 if trainer is None else trainer.steps_per_s,
                    phase=phase,
                )
            )
            interval = self.follower.spec.swarm.beat_s if self.follower.genesis else 1.0
            await asyncio.sleep(interval)

    def _contribution(self, round_: int) -> Sequence[bytes] | None:
        return None if self.runner is None else self.runner.contribution(round_)
