"""The agent: everything of a node except the model. It never imports torch.

Side by side, on one loop (docs/threads.md):
    control       reads the coordinator's messages, reconnects
    beats         says once a second that it lives and how far it is
    apply         applies resolved rounds in order, lands them in the trainer
    generations   starts the trainer and lives through rounds, one stay after the other
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Protocol

from farflung.config.run import RunSpec
from farflung.errors import CorruptState, FarflungError, StorageError
from farflung.events import AgentStarted, RunKnown, Warned
from farflung.failpoints import sent
from farflung.ids import GUESTS, NodePhase, Role
from farflung.network.messages import Beat, Synced
from farflung.outer.layout import Layout
from farflung.peer.applier import Applier
from farflung.peer.control_messages import ControlMessages
from farflung.peer.ending import Ending
from farflung.peer.evaluations import Evaluations
from farflung.peer.generations import Generations
from farflung.peer.glance import NO_LEASE, Glance, glance_at
from farflung.peer.node import LocalNode, NodeConfig
from farflung.peer.pins import Pins
from farflung.peer.replay import LogTrimmed
from farflung.peer.serving import Serving
from farflung.peer.standing import Standing, StayPhase
from farflung.peer.state_lifecycle import StateLifecycle
from farflung.swarm.records import Genesis
from farflung.tasks import first_ended
from farflung.trainers.port import TrainerDied, TrainerFactory, TrainerPort


class DataSupply(Protocol):
    """Fetches what a trainer or a keeper needs of the data (run/data_fetch.py)."""

    waiting: bool
    """The trainer stands still because of missing data."""
    own_bytes: int
    """Of the files that are this node's when everything is here; 0 before `provide`."""

    async def provide(self, node: LocalNode, genesis: Genesis) -> None:
        """What is needed before anything else."""

    async def serve(self, node: LocalNode) -> None:
        """The rest, beside everything else; until cancelled, or until nothing is left."""


class RunReopened(FarflungError):
    """A trainer that came to a finished run is needed after all."""


@dataclass(frozen=True)
class Equipment:
    """What a node brings along besides its state."""

    make_trainer: TrainerFactory | None
    """None: a keeper, or a mere source of blobs."""
    data: DataSupply | None = None


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts of an agent, wired in run/assemble.py."""

    node: LocalNode
    standing: Standing
    generations: Generations
    state: StateLifecycle
    applier: Applier
    serving: Serving
    messages: ControlMessages
    ending: Ending
    evaluations: Evaluations
    pins: Pins


class Agent:
    """One node of one run. `run` returns when the run is finished or the node left."""

    def __init__(self, parts: Parts, equipment: Equipment) -> None:
        self.node = parts.node
        self.standing = parts.standing
        self.generations = parts.generations
        self.applier = parts.applier
        self.pins = parts.pins
        self._state = parts.state
        self._serving = parts.serving
        self._messages = parts.messages
        self._ending = parts.ending
        self._evaluations = parts.evaluations
        self._equipment = equipment
        self._trainer: TrainerPort | None = None
        self._too_late = False
        """The run was finished when this trainer came: it takes the last state, and no data."""
        self._over = asyncio.Event()
        self._provided = asyncio.Event()
        self._leave_reason: str | None = None
        """None while nobody asked this node to go."""

    @property
    def config(self) -> NodeConfig:
        return self.node.config

    # ---- life ------------------------------------------------------------------------------

    async def run(self) -> str:
        """Take part until the run is finished ("finished") or `leave` was called ("left").

        Raises Refused, MismatchError (not wanted here), StorageError, TrainerDied (also when the
        run is finished and the trainer has failed before), GenerationFailed, and what ended a
        task of this node that nobody expected.
        """
        config, mesh = self.config, self.node.mesh
        await mesh.open(self._serving, config.bind, config.advertise)
        self.node.world.emit(
            AgentStarted(run=config.run, node=config.node, name=config.name, role=config.role)
        )
        self.node.follower.load()
        try:
            await first_ended(
                self._over.wait(),
                self.node.control.run(self._messages),
                self._beats(),
                self._live(),
                self._supply(),
                mesh.failed(),
            )
        finally:
            await self._close()
        if self._leave_reason is not None:
            return "left"
        if self._trainer is not None and self._trainer.failure:
            raise TrainerDied(f"the run is finished, but not by this peer: {self._trainer.failure}")
        return "finished"

    def leave(self, reason: str) -> None:
        """Go: hand the lease back and end `run`. Idempotent."""
        if not self._over.is_set():
            self._leave_reason = reason
            self._over.set()

    def glance(self) -> Glance:
        """What this node does at this moment, for people."""
        stay, data = self.generations.current, self._equipment.data
        runner = None if stay is None else stay.runner
        ready = runner is not None and self.node.follower.ready
        return glance_at(
            self.node,
            self.standing,
            self._trainer,
            runner.lease() if runner is not None and ready else NO_LEASE,
            provided=data is None or self._too_late or self._provided.is_set(),
            rows_missing=data is not None and data.waiting,
            evaluating=self._evaluations.busy,
        )

    async def _close(self) -> None:
        async with contextlib.AsyncExitStack() as rest:  # each, even when one before it fails
            rest.push_async_callback(self.node.mesh.close)
            rest.callback(self.node.control.close)
            rest.push_async_callback(self.applier.close)
            rest.push_async_callback(self._evaluations.close)
            if self._trainer is not None:
                rest.push_async_callback(self._trainer.close)
            if self._leave_reason is not None:
                await self.node.control.leave(self._leave_reason)

    async def _live(self) -> None:
        """Bring the state up, then apply and train side by side; again when the state is lost."""
        genesis = await self._run_known()
        while True:
            await self._provide(genesis)
            await self._bring_up(genesis)
            try:
                await first_ended(self.generations.run(self._trainer), self._apply_loop())
            except RunReopened as error:
                self._too_late = False
                await self.generations.lost(str(error))
                await self._state.drop()
            except (CorruptState, LogTrimmed, StorageError) as error:
                await self.generations.lost(str(error))
                await self._state.forget(error)

    async def _provide(self, genesis: Genesis) -> None:
        if self._equipment.data is not None and not self._too_late and not self._provided.is_set():
            await self._equipment.data.provide(self.node, genesis)
            self._provided.set()

    async def _supply(self) -> None:
        """Data goes on coming while rounds are trained."""
        await self._provided.wait()
        if self._equipment.data is not None:
            await self._equipment.data.serve(self.node)
        await asyncio.Event().wait()

    async def _run_known(self) -> Genesis:
        """The journal up to what the coordinator had when it let me in; without one, my copy."""
        follower = self.node.follower
        while follower.genesis is None or follower.journal.length < self.standing.journal_target:
            self.standing.news.clear()
            await self.standing.news.wait()
        spec = follower.spec
        self.node.world.emit(
            RunKnown(
                name=spec.name,
                model=spec.model.preset,
                parameters=Layout.from_json(follower.genesis.layout).size,
                rounds=spec.outer.rounds,
                finished=follower.finished,
            )
        )
        self._too_late = self.config.role in GUESTS and follower.finished
        self._warn_idle(follower.spec)
        return follower.genesis

    def _warn_idle(self, spec: RunSpec) -> None:
        """An evaluator that nobody will ask should not look busy."""
        if self.config.role != Role.EVALUATOR:
            return
        if not spec.evaluation.every:
            why = "evaluation.every = 0"
        elif not self._evaluations.able:
            why = f"nothing here can measure its model ({spec.model.preset})"
        else:
            return
        self.node.world.emit(Warned(sentence=f"an evaluator has nothing to do in this run: {why}"))

    async def _bring_up(self, genesis: Genesis) -> None:
        """State from disk or donors, shared with the trainer; the first time that one is made."""
        self.standing.enter(StayPhase.SYNCING)
        state = await self._state.empty(genesis)
        make_trainer = self._equipment.make_trainer
        if make_trainer is not None and self._trainer is None and not self._too_late:
            self._trainer = make_trainer(self.node.follower.spec, state.layout)
        await self._state.fill(state, None if self._trainer is None else self._trainer.shared)
        self.standing.enter(StayPhase.STARTING)

    # ---- taking part -----------------------------------------------------------------------

    async def _apply_loop(self) -> None:
        while True:
            while await self.applier.step():
                self._evaluations.applied()
            if self._too_late and not self.node.follower.finished:
                raise RunReopened("the run was extended")
            self.standing.news.clear()  # before whatever waits below: what comes meanwhile counts
            await self._ask_in()
            if await self._ending.keep():
                await self._beat()
            if self._ending.may_go() and not self._measures_the_end():
                self._over.set()
            await self.standing.news.wait()

    def _measures_the_end(self) -> bool:
        """An evaluator answers before it goes; the coordinator waits for it, not for ever."""
        measures = self.config.role == Role.EVALUATOR and self._evaluations.busy
        return measures and self.node.control.connected

    async def _ask_in(self) -> None:
        """Nothing left to apply: if I am not in, say that I hold the newest state.

        Again after every round until it is answered: a commit on its way makes the coordinator
        ignore a SYNCED.
        """
        standing, follower = self.standing, self.node.follower
        behind = follower.journal.length < standing.journal_target
        if self.config.role == "source" or behind:
            return
        if standing.phase not in (StayPhase.READY, StayPhase.ASKED):
            return
        standing.enter(StayPhase.ASKED)
        await self.node.control.send(
            Synced(
                next_round=follower.state.next_round,
                state_root=follower.state.root,
                steps_per_s=0.0 if self._trainer is None else self._trainer.steps_per_s,
                evaluates=self._evaluations.able and not self._too_late,
            )
        )
        await sent("synced.sent")

    async def _beats(self) -> None:
        while True:
            await self._beat()
            follower = self.node.follower
            await asyncio.sleep(follower.spec.swarm.beat_s if follower.genesis else 1.0)
            if follower.finished:
                self.standing.news.set()  # how long it has been alone

    async def _beat(self) -> None:
        trainer, rates = self._trainer, self.node.rates
        await self.node.control.send(
            Beat(
                steps=0 if trainer is None else trainer.steps,
                steps_per_s=0.0 if trainer is None else trainer.steps_per_s,
                phase=self._busy_with(),
                kept=self._ending.kept,
                up_bytes_per_s=rates.up,
                down_bytes_per_s=rates.down,
            )
        )

    def _busy_with(self) -> NodePhase:
        """What the coordinator's watchdog should know: without steps only some of it is right."""
        if self.standing.phase is StayPhase.SYNCING:
            return NodePhase.SYNCING
        if self._trainer is None:
            return NodePhase.WAITING
        data = self._equipment.data
        if self.generations.current is None or (data is not None and data.waiting):
            return NodePhase.LOADING
        return self._trainer.phase
