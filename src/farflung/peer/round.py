"""One round, as a trainer's agent lives it (docs/round.md).

PLAN      what to train, which fragment leaves
train     inner steps in the trainer; nothing waits on the network
READY     what was trained, and the commitment to the encoded pseudo-gradient
(attempt, verdict, vote: peer/averager.py)
COMMIT    the anchor moved: land it in the local parameters
ABANDON   nothing moved: the progress stays and leaves with the next round
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import msgspec
import numpy as np

from farflung.averaging.reduce import EncodedChunks
from farflung.errors import FarflungError
from farflung.events import Abstained, Trained
from farflung.failpoints import hit, sent
from farflung.network.messages import Plan, Ready
from farflung.outer.gradient import commitment, encode_departure
from farflung.outer.merge import operation_of, reads_anchor
from farflung.peer.anchor_write import Addend
from farflung.peer.glance import LeaseGlance
from farflung.peer.node import LocalNode
from farflung.swarm import ranges
from farflung.swarm.mixing import changes
from farflung.swarm.records import Commit, Ranges
from farflung.tasks import Tasks
from farflung.trainers.port import Landing, TrainerDied, TrainerPort, Work, WorkReport


class ProgressLost(FarflungError):
    """Local parameters are not finite: what was trained since the last landing is worthless."""


@dataclass(frozen=True)
class Departed:
    """What left with READY(r), kept until the round is resolved."""

    ready: Ready
    encoded: EncodedChunks | None
    """None: this peer abstained."""
    tokens_before: int
    """Tokens trained in this generation when it left."""


class RoundRunner:
    """The trainer's side of all rounds of one generation. Owned by the agent's loop."""

    def __init__(self, node: LocalNode, trainer: TrainerPort, tasks: Tasks) -> None:
        """`tasks`: of the generation; a landing that fails unexpectedly ends it."""
        self._spec = node.follower.spec  # of these settings none can be amended
        self._follower = node.follower
        self._control = node.control
        self._workers = node.world.workers
        self._emit = node.world.emit
        self._measures = node.measures
        self._trainer = trainer
        self._tasks = tasks
        self._plans: dict[int, Plan] = {}
        self._news = asyncio.Event()
        self._departed: dict[int, Departed] = {}
        self._training: int | None = None
        self._lease_steps = self._steps_before = 0
        """Of the present lease; the trainer's steps when it began."""
        self._landings: list[asyncio.Task[None]] = []
        self._replacements: list[asyncio.Task[None]] = []
        """Landings of the anchor itself: the next commit need not wait for them."""
        self._trained: Ranges = ()
        self._assigned: Ranges = ()
        """Leased and not trained, in the order of the leases: what an early end or a round that
        was resolved without me left over is trained first, so that claims stay a prefix."""
        self._fresh = True
        """Nothing was trained in this stay: a landing may simply be the anchor."""
        self._tokens = 0
        """Of the ledger: trained rows times data.seq_len. What a contribution weighs."""
        self._reported = 0
        """As the program counted them, for people."""
        self._since = [0] * self._spec.outer.fragments
        """Tokens trained in this generation when each fragment last landed."""
        self._bases = list(self._follower.state.rounds)

    # ---- told by the agent -----------------------------------------------------------------

    def on_plan(self, plan: Plan) -> None:
        """PLAN(r), perhaps repeated by a coordinator that restarted: then READY is repeated."""
        self._plans[plan.round] = plan
        known = ranges.union(self._trained, self._assigned)
        self._assigned = (*self._assigned, *ranges.subtract(plan.ranges, known))
        self._news.set()

    def contribution(self, round_: int) -> EncodedChunks | None:
        departed = self._departed.get(round_)
        return None if departed is None else departed.encoded

    def lease(self) -> LeaseGlance:
        """How far the present lease is."""
        steps = max(0, self._trainer.steps - self._steps_before)
        return LeaseGlance(
            round=-1 if self._training is None else self._training,
            step=min(steps, self._lease_steps),
            steps=self._lease_steps,
            departed=any(r >= self._follower.state.next_round for r in self._departed),
        )

    # ---- the loop --------------------------------------------------------------------------

    async def run(self) -> None:
        """Live through rounds until cancelled. Raises TrainerDied, ProgressLost."""
        while True:
            plan = await self._next_plan()
            self._measures.begin(plan.round)
            departed = self._departed.get(plan.round)
            if departed is None:
                await self._follower.reached(self._must_have(plan))
                await self.landed(replacements=True)
                report = await self._train(plan)
                if report.finite and plan.round < self._follower.state.next_round:
                    continue  # resolved without me: the progress leaves with the next round
                departed = await self._depart(plan, report)
            await self._announce(plan, departed)
            if not departed.ready.commitment:
                raise ProgressLost(departed.ready.note)

    async def _next_plan(self) -> Plan:
        """The oldest plan that was not dealt with; plans of resolved rounds are dropped."""
        while True:
            for number in sorted(self._plans):
                plan = self._plans.pop(number)
                if number >= self._follower.state.next_round:
                    return plan
            self._news.clear()
            await self._news.wait()

    def _must_have(self, plan: Plan) -> int:
        """Rounds below this are applied before this plan's training may begin."""
        return plan.round - self._spec.outer.window + 1

    async def _train(self, plan: Plan) -> WorkReport:
        todo = self._todo(plan)
        lease = Work(
            round=plan.round,
            fragment=plan.fragment,
            generation=plan.generation,
            ranges=todo,
            steps=ranges.count(todo) // self._spec.inner.batch_rows,
            progress_start=plan.progress_start,
            progress_end=plan.progress_end,
            slot=self._slot(plan.round),
            mixture=changes(self._follower.mixes),
        )
        self._training = plan.round
        self._lease_steps, self._steps_before = lease.steps, self._trainer.steps
        self._fresh = False
        self._trainer.amend(self._follower.spec)
        try:
            with self._measures.during(plan.round, "train"):
                report = await self._trainer.train(lease)
        finally:
            self._training = None
            self._lease_steps = 0
        self._measures.trained(plan.round, report)
        done, _ = ranges.take(todo, report.rows)
        self._trained = ranges.union(self._trained, done)
        self._assigned = ranges.subtract(self._assigned, done)
        self._tokens += report.rows * self._spec.data.seq_len
        self._reported += max(0, report.tokens)
        self._emit(
            Trained(
                round=plan.round,
                steps=report.steps,
                tokens=report.tokens,
                loss=report.loss,
                compute_s=report.compute_s,
                wait_s=report.wait_s,
                mfu=report.figures.mfu,
            )
        )
        return report

    def _todo(self, plan: Plan) -> Ranges:
        """What is assigned up to the last position of this plan."""
        last = 0
        for i, piece in enumerate(self._assigned, 1):
            if ranges.intersect((piece,), plan.ranges):
                last = i
        return self._assigned[:last]

    async def _depart(self, plan: Plan, report: WorkReport) -> Departed:
        """Pseudo-gradient = anchor - local, encoded; the trainer's copy is the send snapshot."""
        local = self._trainer.shared.sent(self._slot(plan.round), plan.fragment)
        with self._measures.during(plan.round, "encode"):
            encoded, note = await self._encode(plan.fragment, local, report)
        ready = Ready(
            term=plan.term,
            round=plan.round,
            fragment=plan.fragment,
            generation=plan.generation,
            trained=self._trained,
            base_round=self._bases[plan.fragment],
            tokens=self._tokens - self._since[plan.fragment],
            commitment=b"" if encoded is None else commitment(encoded.hashes),
            steps=report.steps,
            loss_sum=report.loss * report.steps if report.steps else 0.0,
            compute_s=report.compute_s,
            wait_s=report.wait_s,
            note=note,
            reported=self._reported,
        )
        departed = Departed(ready, encoded, self._tokens)
        self._departed[plan.round] = departed
        if note:
            self._emit(Abstained(round=plan.round, reason=note))
        return departed

    async def _encode(
        self,
        fragment: int,
        local: np.ndarray[tuple[int], np.dtype[np.float32]],
        report: WorkReport,
    ) -> tuple[EncodedChunks | None, str]:
        """(contribution, note); None and why when this peer abstains."""
        state, encoded = self._follower.state, None
        if report.finite:
            async with self._follower.lock:
                encoded = await self._workers.run(
                    lambda: encode_departure(
                        state.anchor_view(fragment), local, state.codec, state.outer.chunk_elements
                    )
                )
        if encoded is None:
            return None, report.note or "non-finite parameters"
        chunks, hashes = encoded
        return EncodedChunks(chunks, tuple(hashes)), ""

    async def _announce(self, plan: Plan, departed: Departed) -> None:
        """READY(r), under the term of the newest plan; pointless once the round is resolved."""
        newest = self._plans.pop(plan.round, plan)
        if plan.round >= self._follower.state.next_round:
            await self._control.send(msgspec.structs.replace(departed.ready, term=newest.term))
            await sent("ready.sent")

    # ---- after the resolution --------------------------------------------------------------

    def addend(self, commit: Commit, *, contributed: bool) -> Addend | None:
        """What must be formed while the anchor changes, so that `on_commit` can land it.

        Also for a peer that has not begun to train: it may do so while the commit is applied.
        """
        operation = operation_of(self._spec.outer.merge, contributed=contributed, fresh=False)
        if reads_anchor(operation):
            return None
        shared, slot = self._trainer.shared, self._slot(commit.round)
        return Addend(
            out=shared.land(slot, commit.fragment),
            sent=shared.sent(slot, commit.fragment) if operation == "carry" else None,
        )

    def on_commit(self, commit: Commit, credited: Ranges | None) -> None:
        """Land the new fragment. `credited`: what the commit credits me; None: not in it."""
        self._stop_if_late(commit.round)
        departed = self._departed.pop(commit.round, None)
        if credited is not None:
            self._trained = ranges.subtract(self._trained, credited)
            kept = departed is not None and self._spec.outer.merge == "carry"
            self._since[commit.fragment] = (
                departed.tokens_before if departed is not None and kept else self._tokens
            )
        self._bases[commit.fragment] = commit.round
        landing = self._landing(commit, contributed=credited is not None)
        # A trainer's death is reported by `train`; a landing that dies with it says nothing new.
        task = self._tasks.start(self._trainer.land(landing), "land", expects=(TrainerDied,))
        (self._replacements if self._fresh else self._landings).append(task)
        hit("landing.started")

    def on_abandon(self, round_: int) -> None:
        self._stop_if_late(round_)
        self._departed.pop(round_, None)

    def _stop_if_late(self, round_: int) -> None:
        """Still training for a round that is over: end the lease, be on time for the next."""
        if self._training is not None and self._training <= round_:
            self._trainer.stop_early()

    def _landing(self, commit: Commit, *, contributed: bool) -> Landing:
        outer = self._spec.outer
        return Landing(
            round=commit.round,
            fragment=commit.fragment,
            op=operation_of(outer.merge, contributed=contributed, fresh=self._fresh),
            alpha=outer.blend_alpha,
            slot=self._slot(commit.round),
        )

    def _slot(self, round_: int) -> int:
        """Of the shared block, for what departs with a round and for what it lands."""
        return round_ % self._spec.outer.window

    async def landed(self, *, replacements: bool = False) -> None:
        """Wait until the trainer has merged everything that was sent to it.

        The next commit is applied only then: a landing reads the anchor, or the buffer of its
        slot, as this commit left it. Before training the `replacements` must have come too; the
        next commit does not wait for those, so that a hung trainer keeps no node from following.
        """
        while waiting := self._landings + (self._replacements if replacements else []):
            await asyncio.gather(*waiting, return_exceptions=True)
            self._landings = [t for t in self._landings if not t.done()]
            self._replacements = [t for t in self._replacements if not t.done()]
