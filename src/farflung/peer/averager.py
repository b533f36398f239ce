"""Steps 4 and 5 of a round for one node: take part in attempts, keep results, vote.

A vote promises durable bytes: the result is synced to the round log before the vote is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from farflung.averaging.exchange import Exchange, ExchangePorts
from farflung.averaging.rates import WINDOW_S
from farflung.averaging.reduce import Bytes, EncodedChunks
from farflung.checkpoint.input_log import attempt_name
from farflung.errors import CorruptState, LinkDown, ProtocolError, StorageError
from farflung.events import AttemptLeft, InputsNotKept, LinkClosed, Voted, VoteWithheld
from farflung.failpoints import hit, sent
from farflung.hashing import merkle_root
from farflung.ids import Hash
from farflung.network.messages import (
    Attempt,
    BulkHeader,
    Contribution,
    SliceResult,
    Verdict,
    Vote,
)
from farflung.outer.candidate import StepAhead
from farflung.outer.nesterov import bits_of
from farflung.peer.candidates import AttemptKey, KeptStep
from farflung.peer.node import LocalNode
from farflung.swarm.records import Commit
from farflung.swarm.votes import vote_body
from farflung.tasks import Tasks, to_the_end

PUSH_PATIENCE_S = 2.0
"""After a commit: how long to wait for owners to push the result before asking by hash."""
MAX_EARLY_BYTES = 64 << 20
"""Frames that overtake their ATTEMPT (another link) are held up to this many bytes."""


class Averager:
    """All attempts of one stay. Owned by the agent's loop."""

    def __init__(
        self,
        node: LocalNode,
        contribution: Callable[[int], EncodedChunks | None],
        on_failure: Callable[[Exception], None],
    ) -> None:
        """`contribution`: encoded chunks of a round that this peer has trained. `on_failure`: an
        attempt ended by an exception that nobody expected."""
        self._node = node
        self._me = node.config.node
        self._follower = node.follower
        self._mesh = node.mesh
        self._control = node.control
        self._workers = node.world.workers
        self._emit = node.world.emit
        self._measures = node.measures
        self._contribution = contribution
        self._attempts = Tasks(node.world.emit, on_failure)
        self._exchanges: dict[AttemptKey, Exchange] = {}
        self._tasks: dict[AttemptKey, asyncio.Task[None]] = {}
        self._early: dict[AttemptKey, list[tuple[str, BulkHeader, memoryview]]] = {}
        self._early_bytes = 0

    # ---- from the coordinator --------------------------------------------------------------

    def on_attempt(self, attempt: Attempt) -> None:
        """Begin an attempt; an older one of the same round ends."""
        key = _key(attempt)
        if key in self._exchanges or attempt.round < self._follower.state.next_round:
            return
        self._end(lambda k: k[1] == attempt.round and k < key)
        self._measures.interrupt(attempt.round, "vote")
        self._measures.begin(attempt.round)
        self._mesh.know(attempt.members)
        stall_s = self._follower.spec.swarm.attempt_s
        exchange = Exchange(
            node=self._me,
            attempt=attempt,
            grid=self._follower.state.grid(attempt.fragment),
            mine=self._contribution(attempt.round),
            ports=ExchangePorts(
                send_bulk=lambda to, head, data: self._mesh.send_bulk(to, head, data, stall_s),
                tell=self._control.send,
                keep_inputs=self._keep,
                heard=self._mesh.heard,
                refused=self._refused,
                during=lambda phase: self._measures.during(attempt.round, phase),
            ),
            workers=self._workers,
            stall_s=stall_s,
        )
        self._exchanges[key] = exchange
        self._tasks[key] = self._attempts.start(self._attempt(key, exchange), "attempt")
        for sender, header, payload in self._early.pop(key, []):
            self._early_bytes -= len(payload)
            self._deliver(exchange, sender, header, payload)

    def on_verdict(self, verdict: Verdict) -> None:
        exchange = self._exchanges.get((verdict.term, verdict.round, verdict.attempt))
        if exchange is not None:
            exchange.deliver_verdict(verdict)

    async def _attempt(self, key: AttemptKey, exchange: Exchange) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._open_links(exchange.attempt))
                group.create_task(exchange.run())
                group.create_task(self._measure(exchange))
                group.create_task(self._vote_if_stored(exchange))
        except* LinkDown:
            pass  # the exchange has accused; the coordinator decides
        except* (CorruptState, StorageError) as errors:
            for error in _leaves(errors):
                self._emit(AttemptLeft(round=key[1], reason=str(error)))

    async def _vote_if_stored(self, exchange: Exchange) -> None:
        """Without a durable result no vote; the others still get what this node owes them."""
        try:
            await self._vote(exchange)
        except* (CorruptState, StorageError) as errors:
            for error in _leaves(errors):
                self._emit(VoteWithheld(round=exchange.attempt.round, reason=str(error)))

    async def _keep(
        self, attempt: Attempt, index: int, inputs: Mapping[str, Sequence[Bytes]]
    ) -> None:
        """`record = "all"`: what this node reduced, for verify. A full disk ends no round."""
        if self._follower.spec.record != "all":
            return
        log, name = self._node.inputs, attempt_name(attempt.round, attempt.term, attempt.attempt)

        async def store() -> None:
            log.wrote(name, await self._workers.run(lambda: log.write(name, index, inputs)))

        log.expect(name)
        try:
            await to_the_end(store())
        except StorageError as error:
            self._emit(InputsNotKept(round=attempt.round, reason=str(error)))

    async def _measure(self, exchange: Exchange) -> None:
        """Sample the links while an attempt runs."""
        loop = asyncio.get_running_loop()
        while not exchange.over:
            self._node.rates.sample(loop.time(), self._mesh.traffic())
            await asyncio.sleep(WINDOW_S)
        self._node.rates.sample(loop.time(), self._mesh.traffic())

    async def _open_links(self, attempt: Attempt) -> None:
        """Dial the owners, so that those who cannot dial me can answer on this link."""
        owners = sorted({s.owner for s in attempt.slices} - {self._me})
        for owner in owners:
            try:
                await self._mesh.reach(owner, self._follower.spec.swarm.attempt_s)
            except LinkDown:
                continue  # a sender that needs this link will accuse it

    async def _vote(self, exchange: Exchange) -> None:
        """The file is written beside the step; the vote leaves when both are done."""
        attempt = exchange.attempt
        async with asyncio.TaskGroup() as group:
            stepping = group.create_task(self._step_ahead(exchange))
            storing = group.create_task(self._store(exchange))
        fragment_hash, bytes_root = stepping.result(), storing.result()
        if fragment_hash is None:
            return
        body = vote_body(
            self._node.config.run,
            attempt.term,
            attempt.round,
            attempt.attempt,
            bytes_root,
            fragment_hash,
        )
        await self._control.send(
            Vote(
                term=attempt.term,
                round=attempt.round,
                attempt=attempt.attempt,
                bytes_root=bytes_root,
                fragment_hash=fragment_hash,
                signature=self._node.world.sign(body),
            )
        )
        await sent("vote.sent")
        self._emit(
            Voted(
                term=attempt.term,
                round=attempt.round,
                attempt=attempt.attempt,
                bytes_root=bytes_root.hex(),
                fragment_hash=fragment_hash.hex(),
            )
        )

    async def _store(self, exchange: Exchange) -> Hash:
        """Results on disk, synced; their bytes root."""
        # Shielded: a step that fails ends this task, not the exchange, which still owes the others.
        results = await asyncio.shield(exchange.results)
        self._measures.enter(exchange.attempt.round, "vote")  # until its commit, or next attempt
        root = await self._follower.keep(exchange.attempt.round, results, exchange.hashes)
        hit("vote.stored")
        return root

    async def _step_ahead(self, exchange: Exchange) -> Hash | None:
        """The hash to vote for; the outer step is kept for the commit.

        Slices are decoded, stepped and hashed as they become whole. None when the round was
        committed meanwhile by the others' votes.
        """
        attempt, follower = exchange.attempt, self._follower
        await follower.reached(attempt.round - len(follower.state.fragments) + 1)
        state, ahead, left = follower.state, None, len(attempt.slices)
        while left:
            index, data = await exchange.arrived.get()
            async with follower.lock:
                if state.next_round > attempt.round:
                    return None
                ahead = ahead or self._begin_step(attempt)
                await self._feed(ahead, attempt, index, data)
                left -= 1
                # What is here already goes on at once: a commit that waits for the lock would
                # have to begin anew.
                while not exchange.arrived.empty():
                    await self._feed(ahead, attempt, *exchange.arrived.get_nowait())
                    left -= 1
                if not left:
                    return await self._keep_step(exchange, ahead)
        return None

    async def _feed(self, ahead: StepAhead, attempt: Attempt, index: int, data: bytes) -> None:
        state, place = self._follower.state, attempt.slices[index]
        await self._workers.run(lambda: state.feed(ahead, attempt.fragment, place, data))

    def _begin_step(self, attempt: Attempt) -> StepAhead:
        outer = self._follower.state.outer
        lr, momentum = bits_of(outer.lr), bits_of(outer.momentum)
        return self._follower.state.ahead(attempt.fragment, lr, momentum)

    async def _keep_step(self, exchange: Exchange, ahead: StepAhead) -> Hash:
        attempt, state = exchange.attempt, self._follower.state
        stepped = await self._workers.run(ahead.finish)
        self._follower.candidates.keep(
            KeptStep(
                key=_key(attempt),
                fragment=attempt.fragment,
                base=state.hashes[attempt.fragment],
                bytes_root=merkle_root(exchange.hashes),
                stepped=stepped,
            )
        )
        return stepped.hash

    # ---- from the data plane ---------------------------------------------------------------

    def on_bulk(self, sender: str, header: BulkHeader, payload: memoryview) -> None:
        assert isinstance(header, Contribution | SliceResult)
        key = (header.term, header.round, header.attempt)
        exchange = self._exchanges.get(key)
        if exchange is not None:
            self._deliver(exchange, sender, header, payload)
        elif self._is_early(key) and self._early_bytes + len(payload) <= MAX_EARLY_BYTES:
            self._early_bytes += len(payload)
            self._early.setdefault(key, []).append((sender, header, payload))

    def _is_early(self, key: AttemptKey) -> bool:
        """Rounds that I cannot be in yet are dropped: I fetch their results when I get there."""
        state = self._follower.state
        if not state.next_round <= key[1] <= state.next_round + state.outer.window + 1:
            return False
        newest = max((k for k in self._exchanges if k[1] == key[1]), default=None)
        return newest is None or key > newest

    def _deliver(
        self, exchange: Exchange, sender: str, header: BulkHeader, payload: memoryview
    ) -> None:
        try:
            if isinstance(header, Contribution):
                exchange.deliver_contribution(sender, header, payload)
            elif isinstance(header, SliceResult):
                exchange.deliver_result(sender, header, payload)
        except ProtocolError as error:
            self._refused(sender, error)
            exchange.lost(sender)

    def _refused(self, sender: str, error: ProtocolError) -> None:
        self._emit(LinkClosed(plane="data", name=sender[:8], reason=str(error)))

    def on_link_lost(self, node: str) -> None:
        for exchange in list(self._exchanges.values()):
            exchange.lost(node)

    # ---- for the apply loop ----------------------------------------------------------------

    async def results_of(self, commit: Commit) -> list[bytes] | None:
        """Result bytes that this node's own exchange of the committed attempt gathered."""
        key = (commit.term, commit.round, commit.attempt)
        exchange = self._exchanges.get(key)
        if exchange is None:
            return None
        await asyncio.wait({exchange.results}, timeout=PUSH_PATIENCE_S)
        if not exchange.results.done() or exchange.results.cancelled():
            return None
        results = exchange.results.result()
        return results if merkle_root(exchange.hashes) == commit.bytes_root else None

    def resolved(self, round_: int) -> None:
        """A round is over: its attempts end, what they held is dropped."""
        self._end(lambda key: key[1] <= round_)

    def new_term(self, term: int) -> None:
        """Attempts of older terms are void."""
        self._end(lambda key: key[0] < term)

    def _end(self, over: Callable[[AttemptKey], bool]) -> None:
        for key in [k for k in self._exchanges if over(k)]:
            del self._exchanges[key]
            self._tasks.pop(key).cancel()
        self._follower.candidates.drop(over)
        for key in [k for k in self._early if over(k)]:
            self._early_bytes -= sum(len(p) for _, _, p in self._early.pop(key))

    def cancel(self) -> None:
        """End all attempts, without waiting."""
        self._end(lambda _: True)

    async def close(self) -> None:
        """End all attempts; returns when none of them runs any more, or looks at the state."""
        self._end(lambda _: True)
        await self._attempts.close()


def _key(attempt: Attempt) -> AttemptKey:
    return attempt.term, attempt.round, attempt.attempt


def _leaves(error: BaseException) -> list[BaseException]:
    """What really happened, without the groups of the tasks that it passed through."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]
