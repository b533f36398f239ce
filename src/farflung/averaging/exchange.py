"""One attempt seen from one node: direct reduce-scatter and all-gather.

    contribute: my encoded slice j -> owner j
    own:        gather every candidate's slice, check it against its commitment, report sums,
                wait for the verdict, reduce, encode once, publish the hash, send to everybody
    gather:     collect every slice's result

The exchange ends with the result bytes or with an accusation; it decides nothing by itself.

Arriving frames are kept as they are: their payloads belong to the receiver. Comparing hashes,
joining and arithmetic are the pool's; what is in its hands is never written to again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from farflung.averaging.inbox import Inbox, check_size
from farflung.averaging.reduce import Bytes, ChunkGrid, EncodedChunks, reduce_slice, statistics
from farflung.clock import Workers
from farflung.errors import LinkDown, ProtocolError
from farflung.failpoints import sent
from farflung.hashing import digest
from farflung.ids import AccusationKind, Hash
from farflung.network.messages import (
    Accuse,
    Attempt,
    BulkHeader,
    Contribution,
    Control,
    Result,
    Slice,
    SliceResult,
    Statistics,
    Verdict,
)

FRAME_BYTES = 1 << 20
"""Chunks are sent in frames of about this many bytes, at least one chunk each."""
STALL_S = 10.0
REDUCED_PER_S = 2e7
"""Elements times contributors that the slowest machine reduces in a second."""
LOOKS = 20
"""How often a stall is looked for in the time that makes one."""


@dataclass(frozen=True, kw_only=True)
class ExchangePorts:
    """What an exchange may do to the world; all awaitables raise LinkDown for a lost peer."""

    send_bulk: Callable[[str, BulkHeader, Bytes], Awaitable[None]]
    """To a member's data plane; dials or waits for it until the attempt's deadline."""
    tell: Callable[[Control], Awaitable[None]]
    """To the coordinator."""
    keep_inputs: Callable[[Attempt, int, Mapping[str, Sequence[Bytes]]], Awaitable[None]] | None = (
        None
    )
    """With `--record all`: store what an owner reduced."""
    heard: Callable[[str], int] = lambda _: 0
    """Bytes that have arrived from a member so far, those of unfinished frames included."""
    refused: Callable[[str, ProtocolError], None] = lambda _, __: None
    """Told of a sender whose chunks are not what it committed to."""
    during: Callable[[str], AbstractContextManager[None]] = lambda _: nullcontext()
    """Told of the phases (events.PHASES) that the attempt goes through: send, receive, reduce."""


@dataclass
class _Arriving:
    """Frames of one slice's result, by first chunk."""

    frames: dict[int, memoryview] = field(default_factory=dict)
    claimed: set[int] = field(default_factory=set)


class Exchange:
    """One (round, attempt). `run` does the work, deliver_* feed it, `results` is the outcome."""

    def __init__(
        self,
        *,
        node: str,
        attempt: Attempt,
        grid: ChunkGrid,
        mine: EncodedChunks | None,
        ports: ExchangePorts,
        workers: Workers,
        stall_s: float = STALL_S,
    ) -> None:
        """`stall_s`: who owes bytes and sends none for so long is accused."""
        self.attempt = attempt
        self._node = node
        self._grid = grid
        self._mine = mine
        self._ports = ports
        self._workers = workers
        self._stall_s = stall_s
        self._candidates = {c.node: c for c in attempt.candidates}
        self._inbox = Inbox(grid, {n: c.commitment for n, c in self._candidates.items()})
        self._arriving = [_Arriving() for _ in attempt.slices]
        self._done: dict[int, tuple[bytes, Hash]] = {}
        """Whole results and their digests, by slice."""
        self._verdict: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self.results: asyncio.Future[list[bytes]] = asyncio.get_running_loop().create_future()
        """EncodedChunks result of every slice, in order; cancelled when the attempt fails."""
        self.arrived: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()
        """(slice, its result) once for every slice, as each becomes whole; for one reader."""
        self.over = False
        """All that this node had to send and to get is through, or the attempt failed here."""
        self._changed = asyncio.Event()
        self._accused: set[str] = set()
        self._deliveries: Counter[str] = Counter()

    # ---- fed by the agent's loops ----------------------------------------------------------

    def deliver_verdict(self, verdict: Verdict) -> None:
        if not self._verdict.done():
            self._verdict.set_result(verdict)
            self._changed.set()

    @property
    def hashes(self) -> list[Hash]:
        """Digest of every slice's result, in order. Only when `results` are there."""
        return [self._done[i][1] for i in range(len(self.attempt.slices))]

    def deliver_contribution(self, sender: str, head: Contribution, payload: memoryview) -> None:
        """Take chunks; the pool compares them with their commitment, in order of arrival.

        Raises ProtocolError when they are not what the plan allows. Bad chunks count as a lost
        sender, and `ports.refused` is told why; what it still sends is dropped.
        """
        place = self._slice(head.slice, head.first, head.stop)
        if place.owner != self._node or sender not in self._candidates:
            raise ProtocolError(f"slice {head.slice} of round {head.round} is not for me")
        self._inbox.take(sender, head, payload)
        self._changed.set()

    def deliver_result(self, sender: str, head: SliceResult, payload: memoryview) -> None:
        """Take a part of a slice's result. Raises ProtocolError as `deliver_contribution`."""
        place = self._slice(head.slice, head.first, head.stop)
        if place.owner != sender:
            raise ProtocolError(f"slice {head.slice} is not owned by its sender")
        check_size(self._grid, head, payload)
        arriving, chunks = self._arriving[head.slice], range(head.first, head.stop)
        if arriving.claimed.isdisjoint(chunks):
            arriving.frames[head.first] = payload
            arriving.claimed.update(chunks)
            self._deliveries[sender] += 1
            self._changed.set()

    def lost(self, node: str) -> None:
        """The data link to a node broke: accuse it if something is still missing from it."""
        if node in self._missing_from():
            self._accused.add(node)
            self._changed.set()

    # ---- the attempt -----------------------------------------------------------------------

    async def run(self) -> None:
        """The whole attempt. `results` is set as soon as this node has every slice.

        Whoever owes bytes and sends none is accused after the stall time. The deadline is the
        last resort: raises LinkDown after accusing those who did not deliver by then.
        """
        try:
            async with asyncio.timeout(self.attempt.deadline_s):
                await self._run_tasks()
        except TimeoutError:
            owing = set(self._owing())
            await self._accuse(owing, AccusationKind.SILENT)
            missing = len(self._missing_from())
            raise LinkDown(f"round {self.attempt.round}: {missing} did not deliver") from None
        finally:
            self.over = True
            if not self.results.done():
                self.results.cancel()

    async def _run_tasks(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._contribute())
            group.create_task(self._check_frames())
            for index, place in enumerate(self.attempt.slices):
                own = place.owner == self._node
                group.create_task(self._own(index, place) if own else self._receive(index, place))
            group.create_task(self._watch_accusations())
            group.create_task(self._watch_stalls())

    async def _contribute(self) -> None:
        """Send every slice to its owner, starting at my own place so that nobody is flooded."""
        if self._mine is None or self._node not in self._candidates:
            return
        start = list(self._candidates).index(self._node)
        order = list(enumerate(self.attempt.slices))
        order = order[start % len(order) :] + order[: start % len(order)]
        with self._ports.during("send"):
            await asyncio.gather(*(self._send_slice(i, place) for i, place in order))
        await sent("contribution.sent")

    async def _send_slice(self, index: int, place: Slice) -> None:
        assert self._mine is not None
        if place.owner == self._node:
            self._inbox.take_own(index, self._node, place, self._mine)
            self._changed.set()
            return
        for first, stop in self._frames(place):
            head = Contribution(
                term=self.attempt.term,
                round=self.attempt.round,
                attempt=self.attempt.attempt,
                slice=index,
                first=first,
                stop=stop,
                hashes=self._mine.hashes if first == place.first else (),
            )
            await sent("contribution.before-frame")
            payload = b"".join(self._mine.chunks[first:stop])
            if not await self._try_send(place.owner, head, payload):
                return

    async def _check_frames(self) -> None:
        """One job at a time, so that checking takes one thread; until all my slices are whole."""
        mine = [(i, p) for i, p in enumerate(self.attempt.slices) if p.owner == self._node]
        while not all(self._complete(i, place) for i, place in mine):
            if not self._inbox.unchecked:
                self._changed.clear()
                await self._changed.wait()
                continue
            job = self._inbox.job()
            for sender, error in self._inbox.enter(await self._workers.run(job)):
                if error is None:
                    self._deliveries[sender] += 1
                else:
                    self._ports.refused(sender, error)
                    self.lost(sender)
            self._changed.set()

    async def _own(self, index: int, place: Slice) -> None:
        """Reduce one slice. The order of contributors is the verdict's, never the arrival's."""
        await self._until(lambda: self._begun(index, place))
        with self._ports.during("receive"):
            await self._until(lambda: self._complete(index, place))
        inputs = {
            node: self._inbox.chunks(index, node, place.first, place.stop)
            for node in self._candidates
        }
        with self._ports.during("reduce"):
            sums = await self._workers.run(lambda: statistics(self._grid, place.first, inputs))
        await self._ports.tell(Statistics(**self._fence(), slice=index, partials=sums))
        await sent("statistics.sent")
        verdict = await self._verdict
        with self._ports.during("reduce"):
            encoded, name = await self._workers.run(
                lambda: _joined(
                    reduce_slice(self._grid, place.first, inputs, verdict.included, verdict.divisor)
                )
            )
        if self._ports.keep_inputs is not None:
            await self._ports.keep_inputs(self.attempt, index, inputs)
        await self._ports.tell(Result(**self._fence(), slice=index, hash=name))
        await sent("result.sent")
        self._finish(index, encoded, name)
        others = [m.node for m in self.attempt.members if m.node != self._node]
        with self._ports.during("send"):
            await asyncio.gather(*(self._send_result(o, index, place, encoded) for o in others))

    async def _send_result(self, to: str, index: int, place: Slice, encoded: bytes) -> None:
        at, view = 0, memoryview(encoded)
        for first, stop in self._frames(place):
            head = SliceResult(
                term=self.attempt.term,
                round=self.attempt.round,
                attempt=self.attempt.attempt,
                slice=index,
                first=first,
                stop=stop,
            )
            n_bytes = self._grid.bytes_between(first, stop)
            payload, at = view[at : at + n_bytes], at + n_bytes
            # A member that cannot be reached now fetches the result by hash later.
            if not await self._try_send(to, head, payload, accuse=False):
                return

    async def _receive(self, index: int, place: Slice) -> None:
        """Another owner's result: joined and hashed as soon as it is whole."""
        await self._until(lambda: bool(self._arriving[index].claimed))
        with self._ports.during("receive"):
            await self._until(lambda: not self._lacks_result(index, place))
            frames = self._arriving[index].frames
            parts = [frames[first] for first in sorted(frames)]
            data, name = await self._workers.run(lambda: _joined(parts))
        self._finish(index, data, name)

    def _finish(self, index: int, data: bytes, name: Hash) -> None:
        self._done[index] = (data, name)
        self._arriving[index].frames.clear()
        self.arrived.put_nowait((index, data))
        if len(self._done) == len(self.attempt.slices):
            self.results.set_result([self._done[i][0] for i in range(len(self._done))])
        self._changed.set()

    async def _watch_accusations(self) -> None:
        """Tell the coordinator of broken links as they are found, until all is gathered."""
        told: set[str] = set()
        while self._missing_from():
            new = self._accused - told
            if new:
                told |= new
                await self._accuse(new, AccusationKind.UNREACHABLE)
                continue  # things may have changed meanwhile
            self._changed.clear()
            await self._changed.wait()

    async def _watch_stalls(self) -> None:
        """Accuse whoever owes me bytes and sends none, until all is gathered.

        Progress is bytes, not frames and not time: a slow link is waited for, a silent one is
        not. Whether the node lives is another question; beats answer it.
        """
        clock = asyncio.get_running_loop()
        seen: dict[str, tuple[int, float]] = {}
        told: set[str] = set()
        while self._missing_from():
            now_s = clock.time()
            owing = self._owing()
            counts = {n: self._deliveries[n] + self._ports.heard(n) for n in owing}
            seen = {
                n: seen[n] if n in seen and seen[n][0] == counts[n] else (counts[n], now_s)
                for n in owing
            }
            stalled = {n for n, (_, since_s) in seen.items() if now_s - since_s >= owing[n]}
            if stalled - told:
                told |= stalled
                await self._accuse(stalled, AccusationKind.SILENT)
            await asyncio.sleep(self._stall_s / LOOKS)

    def _owing(self) -> dict[str, float]:
        """Nodes that could send me what I lack, and for how long they may be silent.

        Contributions are owed at once, results from the verdict on, reducing included.
        """
        owing: dict[str, float] = {}
        for i, place in enumerate(self.attempt.slices):
            size = place.stop - place.first
            if place.owner == self._node and i not in self._done:
                late = {n for n in self._candidates if self._inbox.count(i, n) < size}
                owing |= dict.fromkeys(late - {self._node}, self._stall_s)
            if self._verdict.done() and self._lacks_result(i, place):
                work = size * self._grid.chunk_elements * len(self._candidates)
                owing.setdefault(place.owner, self._stall_s + work / REDUCED_PER_S)
        owing.pop(self._node, None)
        return owing

    # ---- small things ----------------------------------------------------------------------

    async def _until(self, done: Callable[[], bool]) -> None:
        while not done():
            self._changed.clear()
            await self._changed.wait()

    async def _try_send(
        self, to: str, head: BulkHeader, payload: Bytes, *, accuse: bool = True
    ) -> bool:
        try:
            await self._ports.send_bulk(to, head, payload)
        except LinkDown:
            if accuse:  # the coordinator plans around this link
                self._accused.add(to)
                self._changed.set()
            return False
        return True

    async def _accuse(self, nodes: set[str], kind: AccusationKind) -> None:
        others = tuple(sorted(nodes - {self._node}))
        if others:
            await self._ports.tell(Accuse(**self._fence(), nodes=others, kind=kind))

    def _missing_from(self) -> set[str]:
        """Nodes from which this node still needs bytes."""
        missing: set[str] = set()
        for i, place in enumerate(self.attempt.slices):
            if self._lacks_result(i, place):
                missing.add(place.owner)
            if place.owner == self._node and i not in self._done:
                missing |= {
                    n
                    for n in self._candidates
                    if self._inbox.count(i, n) < place.stop - place.first
                }
        return missing

    def _lacks_result(self, index: int, place: Slice) -> bool:
        """Whether bytes of it have still to come, or have still to be reduced here."""
        arrived = len(self._arriving[index].claimed)
        return index not in self._done and arrived < place.stop - place.first

    def _begun(self, index: int, place: Slice) -> bool:
        """Whether somebody else's chunks of my slice are here, or all there are."""
        others = (n for n in self._candidates if n != self._node)
        return any(self._inbox.count(index, n) for n in others) or self._complete(index, place)

    def _complete(self, index: int, place: Slice) -> bool:
        size = place.stop - place.first
        return all(self._inbox.count(index, n) == size for n in self._candidates)

    def _frames(self, place: Slice) -> list[tuple[int, int]]:
        each = max(1, FRAME_BYTES // max(1, self._grid.bytes_of(place.first)))
        return [(c, min(place.stop, c + each)) for c in range(place.first, place.stop, each)]

    def _slice(self, index: int, first: int, stop: int) -> Slice:
        if not 0 <= index < len(self.attempt.slices):
            raise ProtocolError(f"round {self.attempt.round} has no slice {index}")
        place = self.attempt.slices[index]
        if not place.first <= first < stop <= place.stop:
            raise ProtocolError(f"chunks [{first}, {stop}) are outside slice {index}")
        return place

    def _fence(self) -> dict[str, int]:
        return {
            "term": self.attempt.term,
            "round": self.attempt.round,
            "attempt": self.attempt.attempt,
        }


def _joined(parts: Sequence[Bytes]) -> tuple[bytes, Hash]:
    data = b"".join(parts)
    return data, digest(data)
