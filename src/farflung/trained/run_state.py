"""The newest state that the folders of a run's nodes hold, read beside whoever writes them.

Takes no lock and changes no file. A node moves the pointer to a new snapshot before it removes an
old one's chunks: when a chunk is gone and the pointer has moved, reading begins anew.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from farflung.checkpoint.blob_store import BlobStore
from farflung.checkpoint.round_log import RoundLog
from farflung.checkpoint.snapshot import (
    SnapshotManifest,
    SnapshotPointer,
    chunk_bytes,
    decode_manifest,
    newest,
)
from farflung.config.run import ARITHMETIC_VERSION, RunSpec
from farflung.disk import Disk, MemoryDisk, RealDisk
from farflung.errors import CorruptState, FarflungError, StorageError, UserError
from farflung.hashing import digest
from farflung.outer.layout import Layout
from farflung.peer.bootstrap import installing
from farflung.peer.follower import check_versions, slice_lengths
from farflung.peer.outer_state import OuterState
from farflung.run.assemble import read_journal
from farflung.run.home import JOURNAL
from farflung.swarm.identity import verify_record
from farflung.swarm.journal import HEADER, Journal
from farflung.swarm.records import Abandon, AnyRecord, Commit, Genesis
from farflung.swarm.replay import genesis_spec

TRIES = 5
"""Snapshots that may be replaced while they are read before reading gives up."""

OnBytes = Callable[[int, int], None]
"""(bytes read, bytes of the snapshot)."""


@dataclass(frozen=True, kw_only=True)
class RunState:
    """A run's state after `state.next_round - 1`, as the journal confirms it."""

    genesis: Genesis
    spec: RunSpec
    state: OuterState
    records: list[AnyRecord]
    """The whole journal, also of rounds that this state does not hold yet."""

    @property
    def round(self) -> int:
        """The last round that it holds; -1: the initial weights."""
        return self.state.next_round - 1


def newest_state(folders: Sequence[Path], on_bytes: OnBytes | None = None) -> RunState:
    """From node folders of one run. The newest snapshot of any of them, and the rounds after it
    whose results any of them keeps.

    Raises UserError (no snapshot yet, a run of another version), CorruptState, StorageError.
    """
    failure: FarflungError = UserError(
        f"there is no snapshot in {' or '.join(map(str, folders))} yet: the run writes the first "
        f"one when it begins, and a peer when it has fetched one; try again, or name another node"
    )
    for _ in range(TRIES):
        places = _by_age(folders)
        for pointer, folder in places:
            try:
                return _read(pointer, folder, folders, on_bytes)
            except (CorruptState, StorageError) as error:
                failure = error
        if _by_age(folders) == places:
            break
    raise failure


def genesis_of_file(path: Path) -> Genesis | None:
    """The first record of a journal, without reading the rest; None while there is none.

    Raises CorruptState, StorageError.
    """
    disk = RealDisk(path.parent)
    if (disk.size(path.name) or 0) < len(HEADER) + 4:
        return None
    (length,) = struct.unpack("<I", disk.read_at(path.name, len(HEADER), 4))
    head = disk.read_at(path.name, 0, len(HEADER) + 8 + length)
    copy = MemoryDisk({path.name: head})
    journal = Journal.open(copy, path.name, verifier=verify_record, sign=None)
    first = next(iter(journal.records()), None)
    return first if isinstance(first, Genesis) else None


def _by_age(folders: Sequence[Path]) -> list[tuple[SnapshotPointer, Path]]:
    """The folders with a snapshot, the newest one first. A damaged pointer counts as none."""
    found: list[tuple[SnapshotPointer, Path]] = []
    for folder in folders:
        try:
            pointer = newest(RealDisk(folder))
        except CorruptState:
            continue
        if pointer is not None:
            found.append((pointer, folder))
    return sorted(found, key=lambda pair: -pair[0].next_round)


def _read(
    pointer: SnapshotPointer, folder: Path, folders: Sequence[Path], on_bytes: OnBytes | None
) -> RunState:
    store = BlobStore(RealDisk(folder))
    data = store.get(bytes.fromhex(pointer.manifest))
    if data is None or digest(data).hex() != pointer.manifest:
        raise CorruptState(f"the snapshot's manifest in {folder} is missing or damaged")
    records = _longest_journal(folders)  # after the manifest: no snapshot is ahead of its journal
    genesis = records[0] if records else None
    if not isinstance(genesis, Genesis):
        raise CorruptState(f"the journal in {folder} does not begin with GENESIS")
    if genesis.arithmetic != ARITHMETIC_VERSION:
        raise UserError(
            f"the run has arithmetic version {genesis.arithmetic}, this farflung "
            f"{ARITHMETIC_VERSION}; use the version that made it"
        )
    spec = genesis_spec(genesis)
    state = OuterState(Layout.from_json(genesis.layout), spec.outer)
    manifest = decode_manifest(data, genesis.run)
    commits = _resolutions(records)
    check_versions(state, manifest, genesis, commits)
    _install(state, manifest, store, on_bytes)
    _replay(state, commits, [RealDisk(f) for f in folders])
    return RunState(genesis=genesis, spec=spec, state=state, records=records)


def _longest_journal(folders: Sequence[Path]) -> list[AnyRecord]:
    """Copies of one journal: the largest file is the longest chain (`verify` finds forks)."""
    path = max((f / JOURNAL for f in folders), key=lambda p: RealDisk(p.parent).size(JOURNAL) or 0)
    return list(read_journal(path).records())


def _resolutions(records: Sequence[AnyRecord]) -> dict[int, Commit | None]:
    """By round; None: abandoned."""
    found: dict[int, Commit | None] = {}
    for record in records:
        if isinstance(record, Commit):
            found[record.round] = record
        elif isinstance(record, Abandon):
            found[record.round] = None
    return found


def _install(
    state: OuterState, manifest: SnapshotManifest, store: BlobStore, on_bytes: OnBytes | None
) -> None:
    """Raises CorruptState, StorageError."""
    sizes = [chunk_bytes(f, i) for f in manifest.fragments for i in range(len(f.leaves))]
    total, done = sum(sizes), 0
    for index, _ in enumerate(installing(state, manifest, store)):
        done += sizes[index]
        if on_bytes is not None:
            on_bytes(done, total)


def _replay(state: OuterState, commits: dict[int, Commit | None], disks: Sequence[Disk]) -> None:
    """Every round after the snapshot whose result is here, in order. Raises CorruptState."""
    while state.next_round in commits:
        commit = commits[state.next_round]
        if commit is not None and state.rounds[commit.fragment] < commit.round:
            results = _results(state, commit, disks)
            if results is None:
                break
            new = state.stepped(commit, results)
            if new.hash != commit.fragment_hash:
                raise CorruptState(f"the result of round {commit.round} is not the journal's")
            state.write(commit.fragment, new)
            state.note(commit.fragment, new.leaves)
            state.rounds[commit.fragment] = commit.round
        state.next_round += 1
        whole = max(state.rounds) < state.next_round
        if commit is not None and whole and state.root != commit.state_root:
            raise CorruptState(f"the state after round {commit.round} is not the journal's")
    if max(state.rounds) >= state.next_round:
        raise CorruptState(
            f"the snapshot was written while rounds went on, and the result of round "
            f"{state.next_round} is not here; try again in a moment, or name another node's folder"
        )


def _results(state: OuterState, commit: Commit, disks: Sequence[Disk]) -> list[bytes] | None:
    lengths, hashes = slice_lengths(state, commit), [s.hash for s in commit.slices]
    for disk in disks:
        found = RoundLog(disk).load(hashes, lengths)
        if found is not None:
            return found
    return None
