"""Steps 4 and 5 of a round for one node: take part in attempts, keep results, vote.

A vote promises durable bytes: the result is synced to the round log before the vote is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from farflung.averaging.exchange import Exchange, ExchangePorts
from farflung.averaging.rates import WINDOW_S, RateMeter
from farflung.clock import Workers
from farflung.errors import CorruptState, LinkDown, ProtocolError, StorageError
from farflung.events import AttemptLeft, Emit, InputsNotKept, LinkClosed, Voted, VoteWithheld
from farflung.failpoints import hit, sent
from farflung.hashing import digest, merkle_root
from farflung.ids import NodeId
from farflung.network.messages import (
    Attempt,
    BulkHeader,
    Contribution,
    SliceResult,
    Verdict,
    Vote,
)
from farflung.outer.nesterov import bits_of
from farflung.peer.control_link import ControlLink
from farflung.peer.follower import Follower
from farflung.swarm.records import Commit
from farflung.swarm.votes import vote_body
from farflung.transfer.mesh import Mesh

PUSH_PATIENCE_S = 2.0
"""After a commit: how long to wait for owners to push the result before asking by hash."""
MAX_EARLY_BYTES = 64 << 20
"""Frames that overtake their ATTEMPT (another link) are held up to this many bytes."""

_Key = tuple[int, int, int]
"""(term, round, attempt)."""


class Averager:
    """All attempts of one node. Owned by the agent's loop."""

    def __init__(
        self,
        *,
        node: NodeId,
        run: str,
        follower: Follower,
        mesh: Mesh,
        control: ControlLink,
        workers: Workers,
        sign: Callable[[bytes], bytes],
        contribution: Callable[[int], Sequence[bytes] | None],
        keep_inputs: Callable[[Attempt, int, Mapping[str, Sequence[bytes]]], None] | None,
        emit: Emit,
    ) -> None:
        self._node = node
        self._run = run
        self._follower = follower
        self._mesh = mesh
        self._control = control
        self._workers = workers
        self._sign = sign
        self._contribution = contribution
        self._keep_inputs = keep_inputs
        self._emit = emit
        self._exchanges: dict[_Key, Exchange] = {}
        self._tasks: dict[_Key, asyncio.Task[None]] = {}
        self._going: set[asyncio.Task[None]] = set()
        """Cancelled, and not ended yet: they may still look at the state."""
        self._early: dict[_Key, list[tuple[str, BulkHeader, bytes]]] = {}
        self._early_bytes = 0
        self.rates = RateMeter()
        """Of my network, from the exchanges so far."""

    # ---- from the coordinator --------------------------------------------------------------

    def on_attempt(self, attempt: Attempt) -> None:
        """Begin an attempt; an older one of the same round ends."""
        key = (attempt.term, attempt.round, attempt.attempt)
        if key in self._exchanges or attempt.round < self._follower.state.next_round:
            return
        self._end(lambda k: k[1] == attempt.round and k < key)
        self._mesh.know(attempt.members)
        stall_s = self._follower.spec.swarm.attempt_s
        exchange = Exchange(
            node=self._node,
            attempt=attempt,
            grid=self._follower.state.grid(attempt.fragment),
            mine=self._contribution(attempt.round),
            ports=ExchangePorts(
                send_bulk=lambda to, head, data: self._mesh.send_bulk(to, head, data, stall_s),
                tell=self._control.send,
                keep_inputs=self._keep,
                heard=self._mesh.heard,
            ),
            workers=self._workers,
            stall_s=stall_s,
        )
        self._exchanges[key] = exchange
        task = asyncio.create_task(self._attempt(key, exchange))
        self._tasks[key] = task
        for sender, header, payload in self._early.pop(key, []):
            self._early_bytes -= len(payload)
            self._deliver(exchange, sender, header, memoryview(payload))

    def on_verdict(self, verdict: Verdict) -> None:
        exchange = self._exchanges.get((verdict.term, verdict.round, verdict.attempt))
        if exchange is not None:
            exchange.deliver_verdict(verdict)

    async def _attempt(self, key: _Key, exchange: Exchange) -> None:
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
        except (CorruptState, StorageError) as error:
            self._emit(VoteWithheld(round=exchange.attempt.round, reason=str(error)))

    def _keep(self, attempt: Attempt, index: int, inputs: Mapping[str, Sequence[bytes]]) -> None:
        if self._keep_inputs is not None:
            try:
                self._keep_inputs(attempt, index, inputs)
            except StorageError as error:
                self._emit(InputsNotKept(round=attempt.round, reason=str(error)))

    async def _measure(self, exchange: Exchange) -> None:
        """Sample the links while an attempt runs."""
        loop = asyncio.get_running_loop()
        while not exchange.over:
            self.rates.sample(loop.time(), self._mesh.traffic())
            await asyncio.sleep(WINDOW_S)
        self.rates.sample(loop.time(), self._mesh.traffic())

    async def _open_links(self, attempt: Attempt) -> None:
        """Dial the owners, so that those who cannot dial me can answer on this link."""
        owners = sorted({s.owner for s in attempt.slices} - {self._node})
        for owner in owners:
            try:
                await self._mesh.reach(owner, self._follower.spec.swarm.attempt_s)
            except LinkDown:
                continue  # a sender that needs this link will accuse it

    async def _vote(self, exchange: Exchange) -> None:
        attempt, outer = exchange.attempt, self._follower.state.outer
        results = await exchange.results
        await self._follower.reached(attempt.round - len(self._follower.state.fragments) + 1)
        state = self._follower.state
        bytes_root = await self._follower.keep(attempt.round, results)
        hit("vote.stored")
        async with self._follower.lock:
            if state.next_round > attempt.round:
                return  # committed meanwhile by the others' votes
            gradient = await self._workers.run(
                lambda: state.decode(attempt.fragment, attempt.slices, results)
            )
            fragment_hash = await self._workers.run(
                lambda: state.candidate(
                    attempt.fragment, gradient, bits_of(outer.lr), bits_of(outer.momentum)
                )
            )
        body = vote_body(
            self._run, attempt.term, attempt.round, attempt.attempt, bytes_root, fragment_hash
        )
        await self._control.send(
            Vote(
                term=attempt.term,
                round=attempt.round,
                attempt=attempt.attempt,
                bytes_root=bytes_root,
                fragment_hash=fragment_hash,
                signature=self._sign(body),
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

    # ---- from the data plane ---------------------------------------------------------------

    def expected_bytes(self, header: BulkHeader) -> int:
        """Exact size of a slice frame: it follows from the run, the round and the chunks."""
        if not isinstance(header, Contribution | SliceResult) or not self._follower.ready:
            raise ProtocolError(f"{type(header).__name__} is not expected here")
        state = self._follower.state
        try:
            grid = state.grid(header.round % len(state.fragments))
            return grid.bytes_between(header.first, header.stop)
        except ValueError as error:
            raise ProtocolError(str(error)) from None

    def on_bulk(self, sender: str, header: BulkHeader, payload: memoryview) -> None:
        assert isinstance(header, Contribution | SliceResult)
        key = (header.term, header.round, header.attempt)
        exchange = self._exchanges.get(key)
        if exchange is not None:
            self._deliver(exchange, sender, header, payload)
        elif self._is_early(key) and self._early_bytes + len(payload) <= MAX_EARLY_BYTES:
            self._early_bytes += len(payload)
            self._early.setdefault(key, []).append((sender, header, bytes(payload)))

    def _is_early(self, key: _Key) -> bool:
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
            self._emit(LinkClosed(plane="data", name=sender[:8], reason=str(error)))
            exchange.lost(sender)

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
        return results if merkle_root([digest(r) for r in results]) == commit.bytes_root else None

    def resolved(self, round_: int) -> None:
        """A round is over: its attempts end, what they held is dropped."""
        self._end(lambda key: key[1] <= round_)

    def new_term(self, term: int) -> None:
        """Attempts of older terms are void."""
        self._end(lambda key: key[0] < term)

    def _end(self, over: Callable[[_Key], bool]) -> None:
        for key in [k for k in self._exchanges if over(k)]:
            del self._exchanges[key]
            task = self._tasks.pop(key)
            task.cancel()
            self._going.add(task)
            task.add_done_callback(self._going.discard)
        for key in [k for k in self._early if over(k)]:
            self._early_bytes -= sum(len(p) for _, _, p in self._early.pop(key))

    async def close(self) -> None:
        """End all attempts; returns when none of them runs any more."""
        self._end(lambda _: True)
        await asyncio.gather(*self._going, return_exceptions=True)


def _leaves(error: BaseException) -> list[BaseException]:
    """What really happened, without the groups of the tasks that it passed through."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]
