"""One round, as a trainer's agent lives it (DESIGN section 3).

PLAN      what to train, which fragment leaves
train     inner steps in the trainer; nothing waits on the network
READY     what was trained, and the commitment to the encoded pseudo-gradient
(attempt, verdict, vote: peer/averager.py)
COMMIT    the anchor moved: land it in the local parameters
ABANDON   nothing moved: the progress stays and leaves with the next round
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from farflung.clock import Workers
from farflung.config.run import RunSpec
from farflung.errors import FarflungError
from farflung.events import Abstained, Emit, Trained
from farflung.failpoints import hit, sent
from farflung.network.messages import Plan, Ready
from farflung.outer.gradient import all_finite, commitment, encode_chunks, pseudo_gradient
from farflung.peer.control_link import ControlLink
from farflung.peer.follower import AnchorChange, Follower
from farflung.swarm import ranges
from farflung.swarm.records import Commit, Ranges
from farflung.trainers.port import Landing, TrainerPort, Work, WorkReport


class ProgressLost(FarflungError):
    """Local parameters are not finite: what was trained since the last landing is worthless."""


@dataclass(frozen=True)
class Departed:
    """What left with READY(r), kept until the round is resolved."""

    ready: Ready
    chunks: Sequence[bytes]
    tokens_before: int
    """Tokens trained in this generation when it left."""


class RoundRunner:
    """The trainer's side of all rounds of one generation. Owned by the agent's loop."""

    def __init__(
        self,
        *,
        spec: RunSpec,
        follower: Follower,
        trainer: TrainerPort,
        control: ControlLink,
        workers: Workers,
        emit: Emit,
    ) -> None:
        self._spec = spec
        self._follower = follower
        self._trainer = trainer
        self._control = control
        self._workers = workers
        self._emit = emit
        self._plans: dict[int, Plan] = {}
        self._news = asyncio.Event()
        self._departed: dict[int, Departed] = {}
        self._training: int | None = None
        self._landings: list[asyncio.Task[None]] = []
        self._replacements: list[asyncio.Task[None]] = []
        """Landings of the anchor itself: the next commit need not wait for them."""
        self.forget()

    def forget(self) -> None:
        """A generation ended: its progress counts for nothing any more."""
        fragments = self._spec.outer.fragments
        self.drop_landings()
        self._plans.clear()
        self._departed.clear()
        self._trained: Ranges = ()
        self._assigned: Ranges = ()
        """Leased and not trained, in the order of the leases: what an early end or a round that
        was resolved without me left over is trained first, so that claims stay a prefix."""
        self._fresh = True
        """Nothing was trained in this stay: a landing may simply be the anchor."""
        self._tokens = 0
        self._since = [0] * fragments
        """Tokens trained in this generation when each fragment last landed."""
        self._bases = list(self._follower.state.rounds) if self._follower.ready else []

    # ---- told by the agent -----------------------------------------------------------------

    def on_plan(self, plan: Plan) -> None:
        """PLAN(r), perhaps repeated by a coordinator that restarted: then READY is repeated."""
        self._plans[plan.round] = plan
        known = ranges.union(self._trained, self._assigned)
        self._assigned = (*self._assigned, *ranges.subtract(plan.ranges, known))
        self._news.set()

    def contribution(self, round_: int) -> Sequence[bytes] | None:
        departed = self._departed.get(round_)
        return departed.chunks if departed and departed.ready.commitment else None

    # ---- the loop --------------------------------------------------------------------------

    async def run(self) -> None:
        """Live through rounds until cancelled. Raises TrainerDied, ProgressLost."""
        while True:
            plan = await self._next_plan()
            departed = self._departed.get(plan.round)
            if departed is None:
                await self._follower.reached(self._must_have(plan))
                await self.landed(replacements=True)
                report = await self._train(plan)
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
            slot=plan.round % self._spec.outer.window,
        )
        self._training = plan.round
        self._fresh = False
        try:
            report = await self._trainer.train(lease)
        finally:
            self._training = None
        done, _ = ranges.take(todo, report.rows)
        self._trained = ranges.union(self._trained, done)
        self._assigned = ranges.subtract(self._assigned, done)
        self._tokens += report.tokens
        self._emit(
            Trained(
                round=plan.round,
                steps=report.steps,
                tokens=report.tokens,
                loss=report.loss_sum / report.steps if report.steps else float("nan"),
                compute_s=report.compute_s,
                wait_s=report.wait_s,
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
        local = self._trainer.shared.sent(plan.round % self._spec.outer.window, plan.fragment)
        chunks, root, note = await self._encode(plan.fragment, local, report)
        ready = Ready(
            term=plan.term,
            round=plan.round,
            fragment=plan.fragment,
            generation=plan.generation,
            trained=self._trained,
            base_round=self._bases[plan.fragment],
            tokens=self._tokens - self._since[plan.fragment],
            commitment=root,
            steps=report.steps,
            loss_sum=report.loss_sum if np.isfinite(report.loss_sum) else 0.0,
            compute_s=report.compute_s,
            wait_s=report.wait_s,
            note=note,
        )
        departed = Departed(ready, chunks, self._tokens)
        self._departed[plan.round] = departed
        if note:
            self._emit(Abstained(round=plan.round, reason=note))
        return departed

    async def _encode(
        self,
        fragment: int,
        local: np.ndarray[tuple[int], np.dtype[np.float32]],
        report: WorkReport,
    ) -> tuple[Sequence[bytes], bytes, str]:
        """(chunks, commitment, note); empty commitment when this peer abstains."""
        state = self._follower.state
        async with self._follower.lock:
            delta = np.empty(state.elements(fragment), np.float32)
            await self._workers.run(
                lambda: pseudo_gradient(state.anchor_of(fragment), local, delta)
            )
        if not report.finite or not all_finite(delta):
            return (), b"", report.note or "non-finite parameters"
        chunks, hashes = await self._workers.run(
            lambda: encode_chunks(delta, state.codec, state.outer.chunk_elements)
        )
        return chunks, commitment(hashes), ""

    async def _announce(self, plan: Plan, departed: Departed) -> None:
        """READY(r), under the term of the newest plan; pointless once the round is resolved."""
        newest = self._plans.pop(plan.round, plan)
        if plan.round >= self._follower.state.next_round:
            await self._control.send(msgspec.structs.replace(departed.ready, term=newest.term))
            await sent("ready.sent")

    # ---- after the resolution --------------------------------------------------------------

    def on_commit(self, applied: AnchorChange, credited: Ranges | None) -> None:
        """Land the new fragment. `credited`: what the commit credits me; None: not in it."""
        commit = applied.commit
        self._stop_if_late(commit.round)
        departed = self._departed.pop(commit.round, None)
        if credited is None:
            landing = self._rebase(applied)
        else:
            self._trained = ranges.subtract(self._trained, credited)
            landing = self._merge(applied)
            kept = departed is not None and self._spec.outer.merge == "carry"
            self._since[commit.fragment] = (
                departed.tokens_before if departed is not None and kept else self._tokens
            )
        self._bases[commit.fragment] = commit.round
        task = asyncio.create_task(self._trainer.land(landing))
        # A trainer's death is reported by `train`; a landing that dies with it says nothing new.
        task.add_done_callback(lambda t: t.cancelled() or t.exception())
        fresh = landing.op == "replace" and self._fresh
        (self._replacements if fresh else self._landings).append(task)
        hit("landing.started")

    def on_abandon(self, round_: int) -> None:
        self._stop_if_late(round_)
        self._departed.pop(round_, None)

    def _stop_if_late(self, round_: int) -> None:
        """Still training for a round that is over: end the lease, be on time for the next."""
        if self._training is not None and self._training <= round_:
            self._trainer.stop_early()

    def _merge(self, applied: AnchorChange) -> Landing:
        """My progress is in the average: overwrite, blend or carry."""
        commit, merge = applied.commit, self._spec.outer.merge
        slot = commit.round % self._spec.outer.window
        op: str = {"overwrite": "replace", "blend": "blend", "carry": "add"}[merge]
        if merge == "carry":  # local += new - sent keeps what was trained since departure
            sent = self._trainer.shared.sent(slot, commit.fragment)
            land = self._trainer.shared.land(slot, commit.fragment)
            np.subtract(applied.new_anchor, sent, out=land)
        return _landing(commit, op, self._spec.outer.blend_alpha, slot)

    def _rebase(self, applied: AnchorChange) -> Landing:
        """My progress is not in it: local += anchor_new - anchor_old, so that it stays mine.

        Without progress local := anchor, whatever the trainer's reset has read of it by now.
        """
        commit = applied.commit
        slot = commit.round % self._spec.outer.window
        if self._fresh:
            return _landing(commit, "replace", 0.0, slot)
        land = self._trainer.shared.land(slot, commit.fragment)
        np.subtract(applied.new_anchor, applied.old_anchor, out=land)
        return _landing(commit, "add", 0.0, slot)

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

    def drop_landings(self) -> None:
        """The trainer is gone or starts again from the anchor: nothing is left to merge."""
        for task in self._landings + self._replacements:
            task.cancel()


def _landing(commit: Commit, op: str, alpha: float, slot: int) -> Landing:
    return msgspec.convert(
        {
            "round": commit.round,
            "fragment": commit.fragment,
            "op": op,
            "alpha": alpha,
            "slot": slot,
        },
        Landing,
    )
