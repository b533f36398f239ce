"""Follows the journal: keeps a signed replica, applies committed rounds in order.

Owner: the agent's apply loop. A trainer's agent and a keeper follow in the same way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec

from farflung.checkpoint.blob_store import BlobStore
from farflung.checkpoint.round_log import RoundLog
from farflung.checkpoint.snapshot import (
    Manifest,
    Pointer,
    assemble,
    chunk_bytes,
    decode_manifest,
    names_of,
    newest,
    write_snapshot,
)
from farflung.clock import Clock, Workers
from farflung.config.run import RunSpec
from farflung.disk import Disk
from farflung.errors import CorruptState, LinkDown, StorageError
from farflung.events import Emit, SnapshotFetched, Warned
from farflung.failpoints import hit
from farflung.ids import Hash
from farflung.run.blobs import BlobExchange
from farflung.run.outer_state import Float32, OuterState
from farflung.swarm.journal import Journal
from farflung.swarm.records import Abandon, AnyRecord, Commit, Genesis, Term

Fetcher = Callable[[Sequence[str], Hash, int], Awaitable[bytes]]

RETRY_S = 0.5
"""Between tries to get bytes that no source delivered."""


@dataclass(frozen=True)
class Applied:
    """What a commit did to the anchor, for the trainer."""

    commit: Commit
    old_anchor: Float32
    """The fragment before the step."""
    new_anchor: Float32


class Follower:
    """Replica of the journal plus the state that it implies."""

    def __init__(
        self,
        *,
        disk: Disk,
        journal: Journal,
        blobs: BlobStore,
        workers: Workers,
        clock: Clock,
        emit: Emit,
        keeps_genesis: bool,
    ) -> None:
        self._keeps_genesis = keeps_genesis
        self.disk = disk
        self.journal = journal
        self.blobs = blobs
        self.log = RoundLog(disk)
        self.lock = asyncio.Lock()
        """Held while anchor or momentum are read for a vote or changed by a commit."""
        self._workers = workers
        self._clock = clock
        self._emit = emit
        self._state: OuterState | None = None
        self._genesis: Genesis | None = None
        self._commits: dict[int, Commit | None] = {}
        """Resolutions by round; None: abandoned."""
        self.term = 0
        """The highest term that the replica holds: coordinators of lower terms are not followed."""
        self._moved = asyncio.Event()

    # ---- the journal -----------------------------------------------------------------------

    def load(self) -> None:
        """Read the replica that a former process left."""
        for record in self.journal.records():
            self._note(record)

    def extend(self, first: int, frames: Iterable[bytes]) -> list[AnyRecord]:
        """Append what the coordinator sent. Returns the new records.

        Raises ProtocolError when a frame does not extend the head.
        """
        fresh: list[AnyRecord] = []
        for index, frame in enumerate(frames, first):
            if index < self.journal.length:
                continue
            record = self.journal.extend(frame, sync=False)
            if isinstance(record, Term):  # kept even when this machine loses its power now
                self.journal.sync()
            self._note(record)
            fresh.append(record)
        return fresh

    def _note(self, record: AnyRecord) -> None:
        if isinstance(record, Genesis):
            self._genesis = record
        elif isinstance(record, Commit):
            self._commits[record.round] = record
        elif isinstance(record, Abandon):
            self._commits[record.round] = None
        elif isinstance(record, Term):
            self.term = record.term

    @property
    def genesis(self) -> Genesis | None:
        return self._genesis

    @property
    def spec(self) -> RunSpec:
        assert self._genesis is not None
        return msgspec.json.decode(self._genesis.spec, type=RunSpec)

    @property
    def state(self) -> OuterState:
        assert self._state is not None
        return self._state

    @property
    def ready(self) -> bool:
        return self._state is not None

    @property
    def resolved(self) -> int:
        """Rounds that the replica resolves, without a gap, from the state on."""
        number = self.state.next_round
        while number in self._commits:
            number += 1
        return number

    async def reached(self, round_: int) -> None:
        """Wait until every round below `round_` is applied."""
        while self._state is None or self._state.next_round < round_:
            self._moved.clear()
            await self._moved.wait()

    # ---- state: from disk, from a donor, by replay -----------------------------------------

    async def bring_up(
        self,
        state: OuterState,
        donors: Callable[[], list[str]],
        exchange: BlobExchange,
        *,
        trust_disk: bool = True,
    ) -> None:
        """Fill `state` from my own snapshot or a donor's. Replay is `apply_next`'s work.

        Tries until a donor delivers; cancel to give up.
        """
        for record in self._commits.values():
            if record is not None:
                self._index(state, record)
        if trust_disk and await self._from_disk(state):
            self._set(state)
            return
        while True:
            try:
                await self._from_donors(state, donors(), exchange)
            except (LinkDown, CorruptState) as error:
                self._emit(Warned(sentence=f"no snapshot yet: {error}"))
                await asyncio.sleep(RETRY_S)
                continue
            self._set(state)
            return

    def _set(self, state: OuterState) -> None:
        self._state = state
        self._moved.set()

    async def _from_disk(self, state: OuterState) -> bool:
        try:
            pointer = newest(self.disk)
            if pointer is None or self._genesis is None:
                return False
            data = self.blobs.get(bytes.fromhex(pointer.manifest))
            if data is None:
                return False
            manifest = decode_manifest(data, self._genesis.run)
            self._check(manifest)
            await self._workers.run(lambda: install(state, manifest, self.blobs))
        except (CorruptState, StorageError) as error:
            self._emit(Warned(sentence=f"my own snapshot is unusable ({error}); fetching one"))
            return False
        return True

    async def _from_donors(
        self, state: OuterState, donors: Sequence[str], exchange: BlobExchange
    ) -> None:
        started = self._clock.now()
        assert self._genesis is not None
        failure: Exception = LinkDown("no donor is known")
        for donor in donors:
            try:
                offer = await exchange.catalogue(donor)
                if not offer.manifest:
                    continue
                sources = [donor, *(d for d in donors if d != donor)]
                data = await exchange.fetch(sources, Hash(offer.manifest), offer.manifest_bytes)
                manifest = decode_manifest(data, self._genesis.run)
                self._check(manifest)
                moved = await self._fetch_chunks(manifest, sources, exchange)
            except (LinkDown, CorruptState) as error:
                failure = error
                continue
            self.blobs.put(data)
            await self._workers.run(partial(install, state, manifest, self.blobs))
            took = self._clock.now() - started
            self._emit(SnapshotFetched(next_round=manifest.next_round, bytes=moved, took_s=took))
            return
        raise failure

    async def _fetch_chunks(
        self, manifest: Manifest, sources: Sequence[str], exchange: BlobExchange
    ) -> int:
        """Missing chunks only, so that an interrupted download goes on where it stopped."""
        moved = 0
        for fragment in manifest.fragments:
            for index, leaf in enumerate(fragment.leaves):
                name = Hash(bytes.fromhex(leaf))
                if not self.blobs.has(name):
                    data = await exchange.fetch(sources, name, chunk_bytes(fragment, index))
                    self.blobs.put(data)
                    moved += len(data)
        return moved

    def _check(self, manifest: Manifest) -> None:
        """Every fragment version must be the one that the journal has."""
        assert self._genesis is not None
        if len(manifest.fragments) != len(self._genesis.fragment_hashes):
            raise CorruptState("the snapshot has another number of fragments")
        for index, fragment in enumerate(manifest.fragments):
            if fragment.round == -1:
                expected: bytes = self._genesis.fragment_hashes[index]
            else:
                commit = self._commits.get(fragment.round)
                if commit is None or commit.fragment != index:
                    raise CorruptState(f"the journal has no round {fragment.round} yet")
                expected = commit.fragment_hash
            if fragment.hash != expected:
                raise CorruptState(f"fragment {index} differs from the journal")

    # ---- applying --------------------------------------------------------------------------

    def next_resolution(self) -> tuple[bool, Commit | None]:
        """(whether the next round is resolved, its commit or None for an abandon)."""
        number = self.state.next_round
        return number in self._commits, self._commits.get(number)

    async def apply(
        self,
        commit: Commit,
        results: Sequence[bytes],
        before: Callable[[], None],
        after: Callable[[], None],
    ) -> Applied:
        """One outer step, in place. `before` and `after` bracket the writing (seqlock).

        Raises CorruptState when the outcome is not what the journal says: resync then.
        """
        state = self.state
        async with self.lock:
            gradient = await self._workers.run(
                lambda: state.decode(commit.fragment, commit.slices, results)
            )
            old = state.anchor_of(commit.fragment)
            hit("apply.before-step")
            before()
            try:
                new_hash = await self._workers.run(
                    lambda: state.step(
                        commit.fragment, gradient, commit.outer_lr, commit.outer_momentum
                    )
                )
            finally:
                after()
            if new_hash != commit.fragment_hash or state.root != commit.state_root:
                raise CorruptState(f"my state after round {commit.round} is not the journal's")
            hit("apply.stepped")
            await self._workers.run(self.journal.sync)
            self.log.resolved(commit.round, commit.bytes_root)
            state.rounds[commit.fragment] = commit.round
            # Last, with no await up to the caller's landing: this wakes the training of the next
            # round, which must find that landing and wait for it.
            self._advance(commit.round)
        return Applied(commit, old, state.anchor_of(commit.fragment))

    def skip(self, round_: int) -> None:
        """A journalled abandon: only the round number moves on."""
        self.log.resolved(round_, None)
        self._advance(round_)

    def _advance(self, round_: int) -> None:
        self.state.next_round = round_ + 1
        self._moved.set()

    def _index(self, state: OuterState, commit: Commit) -> None:
        lengths = slice_lengths(state, commit)
        self.log.note(commit.round, [s.hash for s in commit.slices], lengths)

    def stored(self, commit: Commit) -> list[bytes] | None:
        """The commit's result bytes from my own round log."""
        lengths = slice_lengths(self.state, commit)
        return self.log.load([s.hash for s in commit.slices], lengths)

    async def fetch_results(
        self, commit: Commit, donors: Sequence[str], exchange: BlobExchange
    ) -> list[bytes]:
        """The commit's result bytes by hash, and keep them. Raises LinkDown, CorruptState."""
        lengths = slice_lengths(self.state, commit)
        owners = [s.owner for s in commit.slices]
        sources = list(dict.fromkeys([*commit.holders, *donors, *owners]))
        results = [
            await exchange.fetch(sources, Hash(place.hash), n)
            for place, n in zip(commit.slices, lengths, strict=True)
        ]
        await self._workers.run(lambda: self.log.store(commit.round, results))
        return results

    # ---- snapshots -------------------------------------------------------------------------

    async def snapshot(self, run: str) -> None:
        """Write the state; a full disk skips this snapshot and says so."""
        state = self.state
        async with self.lock:  # only the copy is made under the lock
            copies = [
                (state.rounds[f], state.anchor_of(f), state.momentum_of(f))
                for f in range(len(state.fragments))
            ]
            next_round = state.next_round
        try:
            pointer = await self._workers.run(
                lambda: write_snapshot(self.disk, self.blobs, run, next_round, copies)
            )
            self._collect(pointer, run)
        except StorageError as error:
            self._emit(Warned(sentence=f"snapshot skipped: {error}"))

    def _collect(self, pointer: Pointer, run: str) -> None:
        """Keep the newest snapshot and, so that a joiner in mid-copy can end, the one before."""
        names: set[bytes] = set()
        for kept in (pointer, self._previous):
            data = None if kept is None else self.blobs.get(bytes.fromhex(kept.manifest))
            if kept is not None and data is not None:
                names |= names_of(kept, decode_manifest(data, run))
        if self._keeps_genesis and self._genesis is not None:
            data = self.blobs.get(self._genesis.snapshot)
            if data is not None:
                manifest = decode_manifest(data, run)
                names |= {bytes.fromhex(leaf) for f in manifest.fragments for leaf in f.leaves}
                names.add(self._genesis.snapshot)
        self.blobs.keep_only(names)
        self._previous = pointer

    _previous: Pointer | None = None


def slice_lengths(state: OuterState, commit: Commit) -> list[int]:
    grid = state.grid(commit.fragment)
    return [grid.bytes_between(s.first, s.stop) for s in commit.slices]


def install(state: OuterState, manifest: Manifest, blobs: BlobStore) -> None:
    for index, fragment in enumerate(manifest.fragments):
        if fragment.elements != state.elements(index):
            raise CorruptState(f"fragment {index} has another size than the layout says")
        anchor, momentum = assemble(fragment, blobs.get)
        state.put(index, fragment.round, anchor, momentum)
        if state.hashes[index] != fragment.hash:
            raise CorruptState(f"fragment {index} does not match its manifest")
    state.next_round = manifest.next_round
