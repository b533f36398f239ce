"""Brings an archive up to what a node's disk holds, one object at a time.

The order makes every moment safe to die in: blobs, results and journal pieces first, which nobody
looks for; then the index, in one put; then what no snapshot of that index needs is removed. So a
reader finds the former snapshot whole or the new one whole. What a killed upload left is found by
the one listing at the start and counts as sent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from farflung.archive.history import CommitAt, History, state_bytes
from farflung.archive.index import (
    BLOBS,
    FOLDERS,
    INDEX,
    JOURNAL_PIECES,
    RESULTS,
    ArchivedFile,
    ArchivedPiece,
    ArchivedResult,
    ArchivedSnapshot,
    ArchiveIndex,
    blob_name,
    decode_index,
    encode_index,
    kept_snapshots,
    listed,
)
from farflung.archive.rules import UploadRules
from farflung.archive.store import PIECE_BYTES, ObjectStore
from farflung.archive.throttle import Throttle
from farflung.checkpoint.blob_store import BlobStore
from farflung.checkpoint.round_log import result_path
from farflung.checkpoint.snapshot import (
    SnapshotManifest,
    SnapshotPointer,
    chunks_of,
    decode_manifest,
    names_of,
)
from farflung.clock import Workers
from farflung.disk import Disk, read_piece
from farflung.errors import CorruptState, StorageError, UserError
from farflung.hashing import digest
from farflung.swarm.journal import Journal

JOURNAL_PIECE = 1 << 20
"""A last piece that is smaller is sent again with what came after it."""

OnBytes = Callable[[int, int], None]
"""(bytes of the snapshot that are in the archive, bytes in all)."""


class ArchiveRefused(UserError):
    """The archive at this address belongs to another run, or to another branch of this one."""


class SnapshotOvertaken(StorageError):
    """A part of the snapshot is not on this disk any more: a newer one is taken."""


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """One file of the data folder."""

    file: str
    name: bytes
    n_bytes: int
    path: Path


@dataclass(frozen=True, kw_only=True)
class LocalState:
    """What is to be archived: the disk of a node that follows the journal."""

    run: str
    run_name: str
    disk: Disk
    journal: Journal
    data: Sequence[DataFile] = ()


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What one snapshot cost."""

    next_round: int
    bytes: int
    reused: int
    """Bytes of it that were in the archive already."""
    removed: int
    """Objects that no kept snapshot needs any more."""


class Upload:
    """One archive and one node's disk. One call at a time; owned by one loop."""

    def __init__(
        self,
        store: ObjectStore,
        local: LocalState,
        workers: Workers,
        rules: UploadRules,
        wall_now: Callable[[], float],
        on_bytes: OnBytes | None = None,
    ) -> None:
        self._store = store
        self._local = local
        self._run = workers.run
        self._rules = rules
        self._wall_now = wall_now
        self._on_bytes = on_bytes or (lambda _here, _total: None)
        self._blobs = BlobStore(local.disk)
        self._history = History(local.journal)
        self._throttle = Throttle(rules.bytes_per_s)
        self._index: ArchiveIndex | None = None
        self._there: dict[str, int] = {}
        """Name -> bytes of every object but the index."""
        self._manifests: dict[str, SnapshotManifest] = {}
        """Of the index's snapshots, by name."""
        self._genesis_sent = False
        self._progress = (0, 0)
        """Bytes of the present snapshot that are there, and in all."""
        self._sure: set[str] = set()
        """Results whose object this process has sent or compared with the disk."""
        self.sent_bytes = 0

    @property
    def newest_round(self) -> int:
        """Where replay from the archive's newest snapshot starts; -1: it has none yet."""
        index = self._index
        return index.snapshots[-1].next_round if index is not None and index.snapshots else -1

    @property
    def reaches(self) -> int:
        """The last round that the archive leads to; -1: none."""
        results = () if self._index is None else self._index.results
        return max([self.newest_round - 1, *(r.round for r in results)])

    # ---- opening ---------------------------------------------------------------------------

    async def open(self) -> bool:
        """Look at what is there. False while this node's journal is shorter than the archive's.

        Raises StoreError, CorruptState, ArchiveRefused.
        """
        data = await self._store.get(INDEX)
        index = None if data is None else decode_index(data, self._store.address)
        if index is not None:
            self._refuse_foreign(index)
            if index.records > self._local.journal.length:
                return False
            await self._learn_manifests(index)
        there: dict[str, int] = {}
        for folder in FOLDERS:
            there |= await self._store.list(folder)
        self._there, self._index = there, index
        return True

    def _refuse_foreign(self, index: ArchiveIndex) -> None:
        where, mine = self._store.address, self._local
        if index.run != mine.run:
            raise ArchiveRefused(
                f"{where} is the archive of run {index.run_name} ({index.run}), not of "
                f"{mine.run_name} ({mine.run}); give another address with --upload"
            )
        length = index.records
        if length <= mine.journal.length and mine.journal.hash_at(length).hex() != index.head:
            raise ArchiveRefused(
                f"{where} holds other records of this run than this host: two coordinators have "
                f"continued it; give another address with --upload"
            )

    async def _learn_manifests(self, index: ArchiveIndex) -> None:
        for place in index.places:
            if place.name not in self._manifests:
                data = await self._store.get(f"{BLOBS}/{place.name}")
                if data is None or digest(data).hex() != place.name:
                    raise CorruptState(
                        f"{self._store.address}/{BLOBS}/{place.name} is damaged or gone; give "
                        f"another address with --upload, or remove the archive"
                    )
                self._manifests[place.name] = decode_manifest(data, index.run)

    # ---- a snapshot ------------------------------------------------------------------------

    async def snapshot(self, pointer: SnapshotPointer) -> Sent:
        """Archive one snapshot of this disk, the results after it and the journal.

        Raises StoreError, StorageError (SnapshotOvertaken among them), CorruptState.
        """
        before = self.sent_bytes
        manifest = await self._manifest(pointer.manifest)
        await self._send_genesis()
        reused = await self._send_chunks(pointer.manifest, manifest)
        await self._send_data()
        place = await self._place(pointer, manifest)
        old = () if self._index is None else self._index.snapshots
        snapshots = kept_snapshots(
            [*(s for s in old if s.next_round < place.next_round), place],
            keep=self._rules.keep,
            max_age_s=self._rules.max_age_s,
            now=place.written_at,
        )
        await self._publish(snapshots)
        removed = await self._remove_unlisted()
        return Sent(
            next_round=pointer.next_round,
            bytes=self.sent_bytes - before,
            reused=reused,
            removed=removed,
        )

    async def _manifest(self, name: str) -> SnapshotManifest:
        data = await self._run(lambda: self._blobs.get(bytes.fromhex(name)))
        if data is None:
            raise SnapshotOvertaken(f"the snapshot {name[:12]} is not on this disk any more")
        self._manifests[name] = decode_manifest(data, self._local.run)
        return self._manifests[name]

    async def _place(
        self, pointer: SnapshotPointer, manifest: SnapshotManifest
    ) -> ArchivedSnapshot:
        await self._run(self._history.read)
        tokens = await self._run(lambda: self._history.tokens_before(pointer.next_round))
        return ArchivedSnapshot(
            name=pointer.manifest,
            n_bytes=pointer.n_bytes,
            next_round=pointer.next_round,
            state_bytes=state_bytes(manifest),
            tokens=tokens,
            written_at=self._wall_now(),
        )

    async def _send_chunks(self, name: str, manifest: SnapshotManifest) -> int:
        """Returns the bytes that were there already."""
        sizes = chunks_of(manifest)
        lacking = [n for n, size in sizes.items() if self._there.get(blob_name(n)) != size]
        total = sum(sizes.values())
        reused = total - sum(sizes[n] for n in lacking)
        self._progress = (reused, total)
        for blob in [*lacking, bytes.fromhex(name)]:  # the manifest last
            await self._send_blob(blob)
            self._progress = (self._progress[0] + sizes.get(blob, 0), total)
        self._on_bytes(*self._progress)
        return reused

    async def _send_blob(self, name: bytes) -> None:
        """A damaged chunk is not archived. Raises CorruptState, SnapshotOvertaken, StoreError."""

        def read() -> bytes:
            data = self._blobs.get(name)
            if data is None:
                raise SnapshotOvertaken(f"chunk {name.hex()[:12]} is not on this disk any more")
            if digest(data) != name:
                raise CorruptState(f"chunk {name.hex()[:12]} on this disk is damaged")
            return data

        data = await self._run(read)
        if self._there.get(blob_name(name)) != len(data):
            await self._put(blob_name(name), data)

    async def _send_genesis(self) -> None:
        """The initial weights, while this disk has them."""
        await self._run(self._history.read)
        name = self._history.genesis.snapshot
        if not self._genesis_sent and await self._run(lambda: self._blobs.has(name)):
            await self._send_chunks(name.hex(), await self._manifest(name.hex()))
            self._genesis_sent = True

    async def _send_data(self) -> None:
        for file in self._local.data:
            name = blob_name(file.name)
            if self._there.get(name) == file.n_bytes:
                continue
            if file.n_bytes <= PIECE_BYTES:
                await self._put(name, await self._run(partial(_read, file.path, file.n_bytes)))
            else:
                await self._store.put_pieces(name, file.n_bytes, partial(self._pieces, file))
                self._there[name] = file.n_bytes

    async def _pieces(self, file: DataFile) -> AsyncIterator[bytes]:
        for at in range(0, file.n_bytes, PIECE_BYTES):
            piece = await self._run(partial(read_piece, file.path, at, PIECE_BYTES))
            await self._throttle.spend(len(piece))
            self.sent_bytes += len(piece)
            yield piece

    # ---- what comes after it ---------------------------------------------------------------

    async def tail(self) -> bool:
        """Archive results and records that came after the newest snapshot; False: nothing new.

        Raises StoreError, StorageError.
        """
        index = self._index
        if index is None or not index.snapshots:
            return False
        if self._local.journal.length == index.records:
            return False
        await self._publish(index.snapshots)
        return self._index is not None and self._index.records > index.records

    async def _publish(self, snapshots: tuple[ArchivedSnapshot, ...]) -> None:
        """Results and journal for these snapshots; then the index that names them all."""
        await self._run(self._history.read)
        results, stop = await self._send_results(snapshots)
        old = self._index
        if old is not None and old.snapshots == snapshots and stop <= old.records:
            return
        pieces = await self._send_journal(stop)
        index = ArchiveIndex(
            run=self._local.run,
            run_name=self._local.run_name,
            records=stop,
            head=self._local.journal.hash_at(stop).hex(),
            journal=pieces,
            snapshots=snapshots,
            genesis=self._genesis_place(),
            results=results,
            data=tuple(
                ArchivedFile(name=f.name.hex(), n_bytes=f.n_bytes, file=f.file)
                for f in self._local.data
            ),
        )
        await self._store.put(INDEX, encode_index(index))
        self._index = index
        await self._remove(set(self._there) & self._stale_pieces(pieces))

    def _genesis_place(self) -> ArchivedSnapshot | None:
        """Kept for as long as the archive lives, once it is there."""
        name = self._history.genesis.snapshot.hex()
        manifest = self._manifests.get(name)
        if manifest is None:
            return None
        return ArchivedSnapshot(
            name=name,
            n_bytes=self._history.genesis.snapshot_bytes,
            next_round=0,
            state_bytes=state_bytes(manifest),
            tokens=0,
            written_at=0.0,
        )

    async def _send_results(
        self, snapshots: tuple[ArchivedSnapshot, ...]
    ) -> tuple[tuple[ArchivedResult, ...], int]:
        """(results since the oldest snapshot, records up to which the newest one can go on).

        The archive's journal ends before the first commit that could not be replayed from it:
        otherwise nobody could resume from it alone.
        """
        newest = self._manifests[snapshots[-1].name]
        needed = self._history.needed_after(newest)
        stop, first = self._history.journal.length, snapshots[0].next_round
        needed_rounds = {commit.round for commit in needed}
        for commit in self._history.since(first):  # the older snapshots lead on as well
            if not await self._send_result(commit) and commit.round in needed_rounds:
                stop = commit.record
                break
        reached = max((f.round for f in newest.fragments), default=-1)
        held = self._history.commits.get(reached)
        if held is not None and held.record >= stop:
            raise SnapshotOvertaken(f"a result before round {reached} is not on this disk any more")
        results = [
            ArchivedResult(round=c.round, name=c.bytes_root.hex(), n_bytes=self._there[name])
            for c in self._history.since(first)
            if (name := _result_name(c)) in self._there and c.record < stop
        ]
        return tuple(results), stop

    async def _send_result(self, commit: CommitAt) -> bool:
        """Whether the archive has it."""
        name, path = _result_name(commit), result_path(commit.bytes_root)
        if name in self._sure:
            return True
        size = await self._run(lambda: self._local.disk.size(path))
        if name in self._there and size in (None, self._there[name]):
            self._sure.add(name)
            return True
        data = await self._run(lambda: self._local.disk.read(path))
        if data is None:
            return False
        try:
            await self._run(lambda: self._history.check_result(commit, data))
        except CorruptState:
            return False
        await self._put(name, data)
        self._sure.add(name)
        return True

    async def _send_journal(self, stop: int) -> tuple[ArchivedPiece, ...]:
        """Pieces up to record `stop`: the old ones, but for a small last one."""
        pieces = [] if self._index is None else list(self._index.journal)
        if pieces and pieces[-1].n_bytes < JOURNAL_PIECE and pieces[-1].stop < stop:
            pieces.pop()
        at = pieces[-1].stop if pieces else 0
        while at < stop:
            frames = await self._run(partial(self._frames, at, stop))
            data = b"".join(frames)
            piece = ArchivedPiece(
                name=digest(data).hex(), n_bytes=len(data), first=at, stop=at + len(frames)
            )
            if self._there.get(f"{JOURNAL_PIECES}/{piece.name}") != len(data):
                await self._put(f"{JOURNAL_PIECES}/{piece.name}", data)
            pieces.append(piece)
            at = piece.stop
        return tuple(pieces)

    def _frames(self, first: int, stop: int) -> list[bytes]:
        return self._local.journal.frames(first, JOURNAL_PIECE)[: stop - first]

    # ---- removing --------------------------------------------------------------------------

    def _stale_pieces(self, pieces: Sequence[ArchivedPiece]) -> set[str]:
        kept = {f"{JOURNAL_PIECES}/{p.name}" for p in pieces}
        return {n for n in self._there if n.startswith(f"{JOURNAL_PIECES}/") and n not in kept}

    async def _remove_unlisted(self) -> int:
        """Only after a snapshot: before, a half-sent one is what nothing lists yet."""
        index = self._index
        assert index is not None
        blobs = {
            blob
            for place in index.places
            for blob in names_of(bytes.fromhex(place.name), self._manifests[place.name])
        }
        kept = {place.name for place in index.places}
        self._manifests = {n: m for n, m in self._manifests.items() if n in kept}
        return await self._remove(set(self._there) - listed(index, blobs))

    async def _remove(self, names: set[str]) -> int:
        for name in sorted(names):
            await self._store.delete(name)
            del self._there[name]
            self._sure.discard(name)
        return len(names)

    async def _put(self, name: str, data: bytes) -> None:
        await self._throttle.spend(len(data))
        await self._store.put(name, data)
        self._there[name] = len(data)
        self.sent_bytes += len(data)
        self._on_bytes(*self._progress)


def _result_name(commit: CommitAt) -> str:
    return f"{RESULTS}/{commit.bytes_root.hex()}"


def _read(path: Path, n_bytes: int) -> bytes:
    data = read_piece(path, 0, n_bytes)
    if len(data) != n_bytes:
        raise StorageError(f"{path} has {len(data)} bytes, its manifest says {n_bytes}")
    return data
