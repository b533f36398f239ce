"""The agent: everything of a node except the model. It never imports torch.

Tasks, all on one loop (docs/threads.md):
    control   reads the coordinator's messages, reconnects
    apply     applies resolved rounds in order, lands them in the trainer
    rounds    trains (trainers only)
    beats     says once a second that it lives and how far it is
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from farflung.averaging.rates import RateMeter
from farflung.checkpoint.blob_store import BlobStore
from farflung.config.run import ARITHMETIC_VERSION, PROTOCOL_VERSION
from farflung.errors import CorruptState, ProtocolError, StorageError
from farflung.events import AgentStarted, DiskAwaited, Resynced
from farflung.failpoints import sent
from farflung.ids import NodePhase, Role
from farflung.network.messages import (
    Attempt,
    Beat,
    Control,
    Donors,
    Hello,
    JournalFrames,
    Plan,
    Synced,
    Verdict,
    Welcome,
)
from farflung.outer.layout import Layout
from farflung.peer.applier import Applier
from farflung.peer.averager import Averager
from farflung.peer.catch_up import CatchUp
from farflung.peer.control_link import ControlLink, check_welcome
from farflung.peer.ending import Ending
from farflung.peer.follower import Follower
from farflung.peer.node import NodeConfig
from farflung.peer.outer_state import OuterState
from farflung.peer.replay import RETRY_S, LogTrimmed
from farflung.peer.round import RoundRunner
from farflung.peer.serving import Serving
from farflung.peer.supervisor import Supervisor
from farflung.swarm.journal import Journal
from farflung.swarm.records import AnyRecord, Close, Gen, Genesis
from farflung.trainers.port import TrainerFactory, TrainerPort
from farflung.transfer.mesh import Mesh
from farflung.world import World

Provision = Callable[["Agent", Genesis], Awaitable[None]]
"""Fetches what the trainer needs (token shards, tokenizer) before it starts."""


class Agent:
    """One node of one run. `run` returns when the run is finished or the node left."""

    def __init__(
        self,
        config: NodeConfig,
        world: World,
        journal: Journal,
        *,
        make_trainer: TrainerFactory | None,
        provision: Provision | None = None,
    ) -> None:
        self.config = config
        self.world = world
        self.blobs = BlobStore(world.disk)
        self._news = asyncio.Event()
        self.follower = Follower(
            disk=world.disk, journal=journal, blobs=self.blobs, workers=world.workers
        )
        self.serving = Serving(self.follower, self.blobs, world.disk, world.clock, world.emit)
        self.mesh = Mesh(
            node=config.node,
            run=config.run,
            transport=world.transport,
            services=self.serving,
            emit=world.emit,
        )
        self.control = ControlLink(
            transport=world.transport,
            endpoints=config.coordinators,
            hello=self._hello,
            on_welcome=self._on_welcome,
            on_message=self._on_message,
            on_down=self._news.set,
            show=journal.frame,
            rng=world.rng,
            clock=world.clock,
            emit=world.emit,
        )
        self.catch_up = CatchUp(config, world, self.mesh, self.serving, self.donors)
        retention, trains = self.catch_up.retention, make_trainer is not None
        self.last_round = Ending(world, self.follower, self.control, retention, trains=trains)
        self.applier = Applier(
            config=config,
            world=world,
            follower=self.follower,
            mesh=self.mesh,
            control=self.control,
            replay=self.catch_up.replay,
            retention=retention,
        )
        self.supervisor: Supervisor | None = None
        self.trainer: TrainerPort | None = None
        self.runner: RoundRunner | None = None
        self.averager: Averager | None = None
        self._donors: tuple[str, ...] = ()
        self._make_trainer, self._provision = make_trainer, provision
        self._endpoints: tuple[str, ...] = ()
        self._session = f"{world.rng.getrandbits(64):016x}"
        self._asked = self._counted = False  # Synced was sent; the coordinator answered it
        self._finished, self._leaving = asyncio.Event(), asyncio.Event()
        self._phase, self._leave_reason = NodePhase.SYNCING, ""
        self._distrust = self._ending = False
        self._term = self._at_least = self._journal_target = 0

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
                _outcome(task)
            return "left" if self._leaving.is_set() else "finished"
        finally:
            self._ending = True
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
        async with contextlib.AsyncExitStack() as rest:  # each, even when one before it fails
            rest.push_async_callback(self.mesh.close)
            rest.callback(self.control.close)
            rest.push_async_callback(self.applier.close)
            if self.trainer is not None:
                rest.push_async_callback(self.trainer.close)
            if self.averager is not None:
                rest.push_async_callback(self.averager.close)
            if self._leaving.is_set():
                await self.control.leave(self._leave_reason)

    async def _listen(self) -> None:
        if self.config.bind is not None:
            actual = await self.mesh.listen(self.config.bind)
            self._endpoints = self.config.advertise or (actual,)

    async def _live(self) -> None:
        """Bring the state up, then apply and train side by side."""
        genesis = await self._genesis_known()
        if self._provision is not None:
            await self._provision(self, genesis)
        while not self._ending:  # a group that fails while it is cancelled raises the failure
            await self._bring_up(genesis)
            try:
                async with asyncio.TaskGroup() as group:
                    if self.supervisor is not None:
                        group.create_task(self.supervisor.run())
                    group.create_task(self._apply_loop())
            except* (CorruptState, LogTrimmed) as errors:
                await self._forget_state(errors.exceptions[0])
            except* StorageError as errors:
                await self._forget_state(errors.exceptions[0])
                await asyncio.sleep(RETRY_S[0])

    async def _genesis_known(self) -> Genesis:
        while self.follower.genesis is None:
            self._news.clear()
            await self._news.wait()
        return self.follower.genesis

    async def _bring_up(self, genesis: Genesis) -> None:
        """State from disk or donors, shared with a fresh trainer."""
        spec = self.follower.spec
        state = OuterState(Layout.from_json(genesis.layout), spec.outer)
        self.catch_up.retention.open(state)
        if self.trainer is not None:
            state.anchor = self.trainer.shared.anchor
        elif self._make_trainer is not None:
            self.trainer = self._make_trainer(spec, state.layout)
            state.anchor = self.trainer.shared.anchor
        await self.follower.bring_up(
            state, self.catch_up.source, trust_disk=not self._distrust, at_least=self._at_least
        )
        self.catch_up.retention.fetched()
        self._distrust = False
        if self.trainer is not None:
            self._phase = NodePhase.LOADING
            self.supervisor = Supervisor(
                trainer=self.trainer,
                make_runner=self._make_runner,
                on_runner=self._on_runner,
                lost=self._lost_progress,
                emit=self.world.emit,
            )
        self.applier.trainer = self.trainer
        self.averager = self.applier.averager = self.serving.averager = Averager(
            node=self.config.node,
            run=self.config.run,
            follower=self.follower,
            mesh=self.mesh,
            control=self.control,
            workers=self.world.workers,
            sign=self.world.sign,
            contribution=lambda r: None if self.runner is None else self.runner.contribution(r),
            keep_inputs=self.serving.keep_inputs if spec.record == "all" else None,
            emit=self.world.emit,
        )

    async def _forget_state(self, error: BaseException) -> None:
        """What is in memory is not the journal's, too old to be replayed, or the disk failed:
        leave the round; `_bring_up` reads it anew, from a donor when mine cannot be trusted."""
        reason, round_ = str(error), self.follower.state.next_round
        if isinstance(error, StorageError):
            self.world.emit(DiskAwaited(what="the next stay", reason=reason))
        else:
            self.world.emit(Resynced(round=round_, reason=reason))
            self._distrust = True
        if isinstance(error, LogTrimmed):
            self._at_least = max(self._at_least, round_ + 1)
        await self._lost_progress(reason)
        self._on_runner(None)
        if self.averager is not None:
            await self.averager.close()
        self.averager = self.applier.averager = self.serving.averager = None
        await self.catch_up.replay.close()
        self.catch_up.retention.before_fetch()
        self.follower.forget()

    def donors(self) -> list[str]:
        """Keepers first: they have everything and train nothing."""
        return [d for d in self._donors if d != self.config.node]

    # ---- taking part -----------------------------------------------------------------------

    async def _ask_in(self) -> None:
        """Nothing left to apply: if I am not in, say that I hold the newest state."""
        ready = self.supervisor is None or self.supervisor.ready
        behind = self.follower.journal.length < self._journal_target
        if self.config.role == Role.SOURCE or not ready or behind:
            return
        state = self.follower.state
        if not self._counted:  # a commit on its way makes the coordinator ignore a Synced
            self._asked = True
            await self.control.send(
                Synced(
                    next_round=state.next_round,
                    state_root=state.root,
                    steps_per_s=0.0 if self.trainer is None else self.trainer.steps_per_s,
                )
            )
            await sent("synced.sent")

    async def _apply_loop(self) -> None:
        while True:
            while await self.applier.step():
                self._news.set()
            await self._ask_in()
            if await self.last_round.keep():
                await self._beat()
            if self.last_round.may_go():
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
        self._phase = NodePhase.LOADING if runner is None else NodePhase.WAITING
        self._news.set()

    async def _lost_progress(self, reason: str) -> None:
        """What was trained since the last commit is gone: this stay ends."""
        if self.applier.generation:
            await self.control.leave(reason)
        elif self._asked:  # a stay may be open that I have not heard of: the next hello ends it
            self.control.reconnect()
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
            term=self.follower.term,
            journal_length=self.follower.journal.length,
            journal_head=self.follower.journal.head,
            session=self._session,
            generation=self.applier.generation,
        )

    def _on_welcome(self, welcome: Welcome) -> None:
        check_welcome(welcome, self.follower.term)
        self._term = welcome.term
        self._journal_target = welcome.journal_length
        self._asked = self._counted = False
        if self.averager is not None:
            self.averager.new_term(welcome.term)
        self._news.set()

    def _on_message(self, message: Control) -> None:
        match message:
            case JournalFrames():
                at = self.follower.journal.length
                for i, record in enumerate(self.follower.extend(message.first, message.frames), at):
                    self._on_record(record, new=i >= self._journal_target)
                self._news.set()
            case Donors():
                self.mesh.know(message.members)
                self._donors = tuple(m.node for m in message.members)
            case Plan():
                if self.runner is not None and message.generation == self.applier.generation:
                    self._counted = self._asked  # else it was sent before the link was new
                    self.runner.on_plan(message)
            case Attempt():
                if self.averager is not None and message.term == self._term:
                    self._counted = self._asked and self.applier.generation > 0
                    self.averager.on_attempt(message)
            case Verdict():
                if self.averager is not None and message.term == self._term:
                    self.averager.on_verdict(message)
            case _:
                raise ProtocolError(f"{type(message).__name__} does not come from a coordinator")

    def _on_record(self, record: AnyRecord, *, new: bool) -> None:
        match record:  # `new`: since this link's Hello; an older GEN was a former process's
            case Gen(node=self.config.node, generation=generation) if new:
                self.applier.generation, self._counted = generation, self._asked
                self.applier.count_bytes_from_now()
            case Close(node=self.config.node, generation=self.applier.generation):
                self._end_generation()
            case _:
                pass

    def _end_generation(self) -> None:
        """My stay was closed: local parameters start again from the anchor."""
        self.applier.generation = 0
        self._asked = self._counted = False
        if self.runner is not None:
            self.runner.drop_landings()
        if self.supervisor is not None:
            self.supervisor.end_generation()
        self._news.set()

    async def _beats(self) -> None:
        while True:
            await self._beat()
            interval = self.follower.spec.swarm.beat_s if self.follower.genesis else 1.0
            await asyncio.sleep(interval)
            if self.follower.finished:
                self._news.set()  # how long it has been alone

    async def _beat(self) -> None:
        running = self.trainer is not None and self.runner is not None
        phase = NodePhase.NONE if running else self._phase
        rates = None if self.averager is None else self.averager.rates
        await self.control.send(_beat_of(self.trainer, phase, rates, kept=self.last_round.kept))


def _beat_of(
    trainer: TrainerPort | None, phase: NodePhase, rates: RateMeter | None, *, kept: bool
) -> Beat:
    """The beat of a node; an empty `phase` means the trainer's own."""
    return Beat(
        steps=0 if trainer is None else trainer.steps,
        steps_per_s=0.0 if trainer is None else trainer.steps_per_s,
        phase=phase or (NodePhase.NONE if trainer is None else trainer.phase),
        kept=kept,
        up_bytes_per_s=0.0 if rates is None else rates.up,
        down_bytes_per_s=0.0 if rates is None else rates.down,
    )


def _outcome(task: asyncio.Task[Any]) -> None:
    """Raise what ended a task; of a group of failures the first, without its wrapping."""
    error = task.exception()
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if error is not None:
        raise error
