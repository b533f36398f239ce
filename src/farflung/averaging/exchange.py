"""One attempt seen from one node: direct reduce-scatter and all-gather.

    contribute: my encoded slice j -> owner j
    own:        gather every candidate's slice, check it against its commitment, report sums,
                wait for the verdict, reduce, encode once, publish the hash, send to everybody
    gather:     collect every slice's result

The exchange ends with the result bytes or with an accusation; it decides nothing by itself.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from farflung.averaging.reduce import ChunkGrid, reduce_slice, statistics
from farflung.clock import Workers
from farflung.errors import LinkDown, ProtocolError
from farflung.failpoints import sent
from farflung.hashing import digest, merkle_root
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

    send_bulk: Callable[[str, BulkHeader, bytes], Awaitable[None]]
    """To a member's data plane; dials or waits for it until the attempt's deadline."""
    tell: Callable[[Control], Awaitable[None]]
    """To the coordinator."""
    keep_inputs: Callable[[Attempt, int, Mapping[str, Sequence[bytes]]], None] | None = None
    """With `--record all`: store what an owner reduced."""
    heard: Callable[[str], int] = lambda _: 0
    """Bytes that have arrived from a member so far, those of unfinished frames included."""


@dataclass
class _Incoming:
    """Chunks of one slice from one sender."""

    chunks: dict[int, bytes] = field(default_factory=dict)
    hashes: tuple[bytes, ...] = ()


class Exchange:
    """One (round, attempt). `run` does the work, deliver_* feed it, `results` is the outcome."""

    def __init__(
        self,
        *,
        node: str,
        attempt: Attempt,
        grid: ChunkGrid,
        mine: Sequence[bytes] | None,
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
        self._hashes = tuple(digest(c) for c in mine or ())
        self._candidates = {c.node: c for c in attempt.candidates}
        self._inputs: dict[tuple[int, str], _Incoming] = {}
        self._results: dict[int, dict[int, bytes]] = {}
        self._verdict: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self.results: asyncio.Future[list[bytes]] = asyncio.get_running_loop().create_future()
        """Encoded result of every slice, in order; cancelled when the attempt fails."""
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

    def deliver_contribution(self, sender: str, head: Contribution, payload: memoryview) -> None:
        """Store chunks. Raises ProtocolError when they are not what the plan allows."""
        place = self._slice(head.slice, head.first, head.stop)
        if place.owner != self._node or sender not in self._candidates:
            raise ProtocolError(f"slice {head.slice} of round {head.round} is not for me")
        incoming = self._inputs.setdefault((head.slice, sender), _Incoming())
        if head.hashes:
            self._check_commitment(sender, head.hashes)
            incoming.hashes = head.hashes
        for i, chunk in enumerate(self._grid.split(payload, head.first, head.stop), head.first):
            if not incoming.hashes or digest(chunk) != incoming.hashes[i]:
                raise ProtocolError(f"chunk {i} does not match its commitment")
            incoming.chunks[i] = chunk
        self._deliveries[sender] += 1
        self._changed.set()

    def deliver_result(self, sender: str, head: SliceResult, payload: memoryview) -> None:
        place = self._slice(head.slice, head.first, head.stop)
        if place.owner != sender:
            raise ProtocolError(f"slice {head.slice} is not owned by its sender")
        chunks = self._grid.split(payload, head.first, head.stop)
        self._results.setdefault(head.slice, {}).update(dict(enumerate(chunks, start=head.first)))
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
            for index, place in enumerate(self.attempt.slices):
                if place.owner == self._node:
                    group.create_task(self._own(index, place))
            group.create_task(self._watch_accusations())
            group.create_task(self._watch_stalls())
            group.create_task(self._gather())

    async def _contribute(self) -> None:
        """Send every slice to its owner, starting at my own place so that nobody is flooded."""
        if self._mine is None or self._node not in self._candidates:
            return
        start = list(self._candidates).index(self._node)
        order = list(enumerate(self.attempt.slices))
        order = order[start % len(order) :] + order[: start % len(order)]
        await asyncio.gather(*(self._send_slice(i, place) for i, place in order))
        await sent("contribution.sent")

    async def _send_slice(self, index: int, place: Slice) -> None:
        assert self._mine is not None
        for first, stop in self._frames(place):
            head = Contribution(
                term=self.attempt.term,
                round=self.attempt.round,
                attempt=self.attempt.attempt,
                slice=index,
                first=first,
                stop=stop,
                hashes=self._hashes if first == place.first else (),
            )
            payload = b"".join(self._mine[first:stop])
            if place.owner == self._node:
                self.deliver_contribution(self._node, head, memoryview(payload))
            else:
                await sent("contribution.before-frame")
                if not await self._try_send(place.owner, head, payload):
                    return

    async def _own(self, index: int, place: Slice) -> None:
        """Reduce one slice. The order of contributors is the verdict's, never the arrival's."""
        await self._until(lambda: self._complete(index, place))
        inputs = {
            node: [self._inputs[index, node].chunks[c] for c in range(place.first, place.stop)]
            for node in self._candidates
        }
        sums = await self._workers.run(lambda: statistics(self._grid, place.first, inputs))
        await self._ports.tell(Statistics(**self._fence(), slice=index, partials=sums))
        await sent("statistics.sent")
        verdict = await self._verdict
        encoded = await self._workers.run(
            lambda: reduce_slice(self._grid, place.first, inputs, verdict.included, verdict.divisor)
        )
        if self._ports.keep_inputs is not None:
            self._ports.keep_inputs(self.attempt, index, inputs)
        await self._ports.tell(Result(**self._fence(), slice=index, hash=digest(b"".join(encoded))))
        await sent("result.sent")
        self._results[index] = dict(enumerate(encoded, start=place.first))
        self._changed.set()
        others = [m.node for m in self.attempt.members if m.node != self._node]
        await asyncio.gather(*(self._send_result(o, index, place, encoded) for o in others))

    async def _send_result(
        self, to: str, index: int, place: Slice, encoded: Sequence[bytes]
    ) -> None:
        for first, stop in self._frames(place):
            head = SliceResult(
                term=self.attempt.term,
                round=self.attempt.round,
                attempt=self.attempt.attempt,
                slice=index,
                first=first,
                stop=stop,
            )
            payload = b"".join(encoded[first - place.first : stop - place.first])
            # A member that cannot be reached now fetches the result by hash later.
            if not await self._try_send(to, head, payload, accuse=False):
                return

    async def _gather(self) -> None:
        def done() -> bool:
            return all(
                len(self._results.get(i, ())) == s.stop - s.first
                for i, s in enumerate(self.attempt.slices)
            )

        await self._until(done)
        self.results.set_result(
            [
                b"".join(self._results[i][c] for c in range(s.first, s.stop))
                for i, s in enumerate(self.attempt.slices)
            ]
        )
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
            if place.owner == self._node and i not in self._results:
                late = {n for n in self._candidates if len(self._incoming(i, n).chunks) < size}
                owing |= dict.fromkeys(late - {self._node}, self._stall_s)
            if self._verdict.done() and len(self._results.get(i, ())) < size:
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
        self, to: str, head: BulkHeader, payload: bytes, *, accuse: bool = True
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
            if len(self._results.get(i, ())) < place.stop - place.first:
                missing.add(place.owner)
            if place.owner == self._node and i not in self._results:
                missing |= {
                    n
                    for n in self._candidates
                    if len(self._incoming(i, n).chunks) < place.stop - place.first
                }
        return missing

    def _incoming(self, index: int, node: str) -> _Incoming:
        return self._inputs.get((index, node)) or _Incoming()

    def _complete(self, index: int, place: Slice) -> bool:
        size = place.stop - place.first
        return all(len(self._incoming(index, n).chunks) == size for n in self._candidates)

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

    def _check_commitment(self, sender: str, hashes: tuple[bytes, ...]) -> None:
        if len(hashes) != self._grid.chunks:
            raise ProtocolError(f"{len(hashes)} chunk hashes, {self._grid.chunks} expected")
        if merkle_root(hashes) != Hash(self._candidates[sender].commitment):
            raise ProtocolError("chunk hashes do not match the commitment")

    def _fence(self) -> dict[str, int]:
        return {
            "term": self.attempt.term,
            "round": self.attempt.round,
            "attempt": self.attempt.attempt,
        }
