"""Follows the journal: keeps a signed replica, applies committed rounds in order.

Owner: the agent's apply loop. A trainer's agent and a keeper follow in the same way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from farflung.checkpoint.blob_store import BlobStore
from farflung.checkpoint.round_log import RoundLog
from farflung.checkpoint.snapshot import SnapshotManifest
from farflung.clock import Workers
from farflung.config.run import RunSpec
from farflung.disk import Disk
from farflung.errors import CorruptState
from farflung.failpoints import hit
from farflung.hashing import merkle_root
from farflung.ids import Hash
from farflung.outer.candidate import Stepped
from farflung.peer.candidates import Candidates
from farflung.peer.outer_state import OuterState
from farflung.swarm.amendments import amended_by
from farflung.swarm.journal import Journal
from farflung.swarm.records import Abandon, Admin, Amend, AnyRecord, Commit, Genesis, Mix, Term
from farflung.swarm.replay import genesis_spec
from farflung.tasks import to_the_end

Check = Callable[[OuterState, SnapshotManifest], None]
"""Raises CorruptState unless every fragment version is one that the journal has."""

KEPT_COMMITS = 64
"""Rounds behind the state whose records stay in memory; older ones are on the disk."""


class StateSource(Protocol):
    """Fills a state (peer/bootstrap.py)."""

    async def fill(
        self, state: OuterState, run: str, check: Check, *, trust_disk: bool, at_least: int
    ) -> None: ...


class Follower:
    """Replica of the journal plus the state that it implies."""

    def __init__(
        self,
        *,
        disk: Disk,
        journal: Journal,
        blobs: BlobStore,
        workers: Workers,
    ) -> None:
        self.disk = disk
        self.journal = journal
        self.blobs = blobs
        self.log = RoundLog(disk)
        self.lock = asyncio.Lock()
        """Held while anchor or momentum are read for a vote or changed by a commit."""
        self.candidates = Candidates()
        """Steps that were computed for votes."""
        self._workers = workers
        self._state: OuterState | None = None
        self._genesis: Genesis | None = None
        self._spec: RunSpec | None = None
        self._commits: dict[int, Commit | None] = {}
        """Resolutions by round; None: abandoned. Those from `_oldest` on."""
        self._oldest = 0
        self.term = 0
        """The highest term that the replica holds: coordinators of lower terms are not followed."""
        self._moved = asyncio.Event()
        self.mixes: list[Mix] = []
        """Changes of the mixture so far: a PLAN's positions come after what they need."""
        self.finished = False
        """The last round is committed."""
        self.ended = False
        """And it is kept: whoever has it may go."""

    # ---- the journal -----------------------------------------------------------------------

    def load(self) -> None:
        """Read the replica that a former process left."""
        for record in self.journal.records():
            self._note(record)

    def extend(self, first: int, frames: Iterable[bytes]) -> Iterator[AnyRecord]:
        """Append what the coordinator sent; each new record as soon as the replica has it, so that
        a disk which refuses the next one loses the meaning of none.

        Raises ProtocolError when a frame does not extend the head, StorageError.
        """
        for index, frame in enumerate(frames, first):
            if index < self.journal.length:
                continue
            record = self.journal.extend(frame, sync=False)
            if isinstance(record, Term):  # kept even when this machine loses its power now
                self.journal.sync()
            self._note(record)
            hit("replica.written")
            yield record

    def _note(self, record: AnyRecord) -> None:
        if isinstance(record, Genesis):
            self._spec = genesis_spec(record)  # raises ConfigError: this version cannot take part
            self._genesis = record
            self.mixes.clear()  # the journal may be read a second time
        elif isinstance(record, Commit):
            self._commits[record.round] = record
            if self._state is not None:  # serve what I hold, also before I apply it
                self._index(self._state, record)
        elif isinstance(record, Abandon):
            self._commits[record.round] = None
        elif isinstance(record, Admin):
            self.finished |= record.action == "finish"
            self.ended |= record.action == "end"
        elif isinstance(record, Amend):
            self._spec = amended_by(self.spec, record)
            self.finished = self.ended = False
        elif isinstance(record, Term):
            self.term = record.term
        elif isinstance(record, Mix):
            self.mixes.append(record)

    @property
    def genesis(self) -> Genesis | None:
        return self._genesis

    @property
    def spec(self) -> RunSpec:
        """As the newest amendment that is here left it: read it anew, keep no copy."""
        assert self._spec is not None
        return self._spec

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

    def commit_of(self, round_: int) -> Commit | None:
        """The commit of a round; None when it is open or abandoned."""
        return self._commits.get(round_)

    async def reached(self, round_: int) -> None:
        """Wait until every round below `round_` is applied."""
        while self._state is None or self._state.next_round < round_:
            self._moved.clear()
            await self._moved.wait()

    # ---- state: from disk, from donors, by replay ------------------------------------------

    async def bring_up(
        self,
        state: OuterState,
        source: StateSource,
        *,
        trust_disk: bool = True,
        at_least: int = 0,
    ) -> None:
        """Fill `state` from my own snapshot or a donor's. Replay is the apply loop's work.

        `at_least`: the round from which result bytes can be had. Tries until a donor delivers;
        cancel to give up.
        """
        assert self._genesis is not None
        if self._oldest:  # an older snapshot may come: all resolutions again
            self._oldest = 0
            self.load()
        for record in self._commits.values():
            if record is not None:
                self._index(state, record)
        await source.fill(
            state, self._genesis.run, self._check, trust_disk=trust_disk, at_least=at_least
        )
        self._state = state
        self._moved.set()

    def forget(self) -> None:
        """The state is not of use any more; `bring_up` brings another."""
        self._state = None
        self.candidates.drop(lambda _: True)

    def _check(self, state: OuterState, manifest: SnapshotManifest) -> None:
        """Every fragment version must be the one that the journal has."""
        assert self._genesis is not None
        check_versions(state, manifest, self._genesis, self._commits)

    async def keep(self, round_: int, results: Sequence[bytes], hashes: Sequence[bytes]) -> Hash:
        """Store and sync one attempt's results and serve them; their bytes root.

        `hashes`: the digest of each result. The pool writes the file; the log's tables belong to
        this loop. Raises StorageError.
        """

        async def store() -> None:
            await self._workers.run(lambda: self.log.write(hashes, results))
            self.log.note(round_, hashes, [len(r) for r in results])

        with self.log.writing():  # to its end: a file that nobody knows of would never be trimmed
            await to_the_end(store())
        return merkle_root(hashes)

    # ---- applying --------------------------------------------------------------------------

    def next_resolution(self) -> tuple[bool, Commit | None]:
        """(whether the next round is resolved, its commit or None for an abandon)."""
        number = self.state.next_round
        return number in self._commits, self._commits.get(number)

    async def apply(
        self,
        commit: Commit,
        results: Sequence[bytes],
        writing: AbstractContextManager[object],
    ) -> None:
        """One outer step, inside the context `writing`; both in one job of the pool.

        The step that was computed for a vote is copied in; `results` are used without one. Raises
        CorruptState when the outcome is not what the journal says: nothing changed then, resync.
        """
        state = self.state
        async with self.lock:
            new = self.candidates.take(commit, state.hashes[commit.fragment])
            if new is None:
                new = await self._workers.run(lambda: state.stepped(commit, results))
            if new.hash != commit.fragment_hash:
                raise CorruptState(f"my state after round {commit.round} is not the journal's")
            self._check_root(commit, state.root_with(commit.fragment, new.hash))
            hit("apply.before-step")
            await to_the_end(self._write(commit, new, writing))
            # Last, with no await up to the caller's landing: this wakes the training of the next
            # round, which must find that landing and wait for it.
            self._advance(commit.round)

    async def _write(
        self, commit: Commit, new: Stepped, writing: AbstractContextManager[object]
    ) -> None:
        """The fragment, and at once what it is called: whoever ends this process writes the state
        as it is then, and a fragment that is ahead of `next_round` is a state that can be used."""
        state = self.state

        def write() -> None:
            with writing:
                state.write(commit.fragment, new)

        await self._workers.run(write)
        state.note(commit.fragment, new.leaves)
        state.rounds[commit.fragment] = commit.round
        hit("apply.stepped")
        await self._workers.run(self.journal.sync)
        hit("replica.synced")
        self.log.resolved(commit.round, commit.bytes_root)

    def holds(self, commit: Commit) -> bool:
        """The snapshot that I began with was written while commits went on: it has this one."""
        return self.state.rounds[commit.fragment] >= commit.round

    @property
    def whole(self) -> bool:
        """No fragment holds a round that is not applied: the state is that of one moment."""
        return max(self.state.rounds) < self.state.next_round

    def pass_over(self, commit: Commit) -> None:
        """A commit that the state `holds`: only the round number moves on.

        Raises CorruptState when the state is whole then and not what the journal says.
        """
        self._check_root(commit, self.state.root)
        self.log.resolved(commit.round, commit.bytes_root)
        self._advance(commit.round)

    def _check_root(self, commit: Commit, root: Hash) -> None:
        """The journal names the root of the whole state, with no fragment ahead of the commit."""
        whole = max(self.state.rounds) <= commit.round
        if whole and root != commit.state_root:
            raise CorruptState(f"my state after round {commit.round} is not the journal's")

    def skip(self, round_: int) -> None:
        """A journalled abandon: only the round number moves on."""
        self.log.resolved(round_, None)
        self._advance(round_)

    def _advance(self, round_: int) -> None:
        self.candidates.drop(lambda key: key[1] <= round_)
        self.state.next_round = round_ + 1
        self._moved.set()
        while self._oldest < round_ - KEPT_COMMITS:
            self._commits.pop(self._oldest, None)
            self._oldest += 1

    def _index(self, state: OuterState, commit: Commit) -> None:
        lengths = slice_lengths(state, commit)
        self.log.note(commit.round, [s.hash for s in commit.slices], lengths)

    def stored(self, commit: Commit) -> list[bytes] | None:
        """The commit's result bytes from my own round log."""
        hashes = [s.hash for s in commit.slices]
        lengths = slice_lengths(self.state, commit)
        found = self.log.load(hashes, lengths)
        if found is not None:  # from now on it is served and trimmed like the others
            self.log.note(commit.round, hashes, lengths)
        return found


def check_versions(
    state: OuterState,
    manifest: SnapshotManifest,
    genesis: Genesis,
    commits: Mapping[int, Commit | None],
) -> None:
    """Every fragment version of a snapshot must be one that the journal has. Raises CorruptState.

    `commits`: resolutions by round; None: abandoned.
    """
    if not sizes_fit(state, manifest):
        raise CorruptState("the snapshot has other fragments than the layout")
    for index, fragment in enumerate(manifest.fragments):
        if fragment.round == -1:
            expected: bytes = genesis.fragment_hashes[index]
        else:
            commit = commits.get(fragment.round)
            if commit is None or commit.fragment != index:
                raise CorruptState(f"the journal has no round {fragment.round} yet")
            expected = commit.fragment_hash
        if fragment.hash != expected:
            raise CorruptState(f"fragment {index} differs from the journal")


def slice_lengths(state: OuterState, commit: Commit) -> list[int]:
    grid = state.grid(commit.fragment)
    return [grid.bytes_between(s.first, s.stop) for s in commit.slices]


def sizes_fit(state: OuterState, manifest: SnapshotManifest) -> bool:
    """Whether a manifest has the layout's fragments, before anything of it is fetched."""
    sizes = [state.elements(f) for f in range(len(state.fragments))]
    return [f.elements for f in manifest.fragments] == sizes
