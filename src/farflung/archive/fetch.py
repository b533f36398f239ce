"""Makes a node's folder again from a source: the journal, its newest whole snapshot, the results
that lead on from it. Every byte is compared with its hash before it is written under its name, so
a fetch that was cut off goes on where it stopped; the snapshot's pointer is written last.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec
from blake3 import blake3

from farflung.archive.history import CommitAt, History
from farflung.archive.index import ArchivedFile
from farflung.archive.source import AGAIN, JOURNAL, SnapshotPlace, SnapshotSource, hash_of
from farflung.archive.store import PIECE_BYTES
from farflung.checkpoint.blob_store import BlobStore
from farflung.checkpoint.round_log import result_path
from farflung.checkpoint.snapshot import (
    POINTER,
    SnapshotManifest,
    SnapshotPointer,
    chunks_of,
    decode_manifest,
)
from farflung.clock import Workers
from farflung.disk import Disk, storage_errors
from farflung.errors import CorruptState
from farflung.hashing import digest

OnBytes = Callable[[int, int], None]
"""(bytes here, bytes in all)."""


@dataclass(kw_only=True)
class Fetched:
    """What came of it."""

    next_round: int = -1
    """Of the snapshot."""
    reaches: int = -1
    """Last round whose state the folder leads to."""
    bytes: int = 0
    """Moved; what was here already is not."""
    reused: int = 0
    skipped: list[str] = field(default_factory=list)
    """Newer snapshots that are damaged, and why."""


class StateFetch:
    """One source, one folder."""

    def __init__(
        self,
        source: SnapshotSource,
        history: History,
        disk: Disk,
        workers: Workers,
        on_bytes: OnBytes | None = None,
    ) -> None:
        """`history`: of the journal that the folder is to continue, checked record by record."""
        self._source = source
        self._history = history
        self._disk = disk
        self._blobs = BlobStore(disk)
        self._run = workers.run
        self._on_bytes = on_bytes or (lambda _here, _total: None)
        self._done = Fetched()
        self._here = self._total = 0

    async def fetch(self, journal: bytes | None, *, genesis: bool = True) -> Fetched:
        """Fill the folder; `journal` is what `history` was read from, None: a longer one is here.

        The newest snapshot that is whole is taken. Raises CorruptState when none is, StoreError,
        StorageError.
        """
        for place in reversed(await self._source.snapshots()):
            try:
                manifest = await self._manifest(place)
                await self._chunks(manifest)
            except CorruptState as error:
                self._done.skipped.append(str(error))
                continue
            await self._finish(place, manifest, journal, genesis=genesis)
            return self._done
        reason = self._done.skipped[0] if self._done.skipped else "it lists none"
        raise CorruptState(f"{self._source.address} has no whole snapshot: {reason}")

    async def _finish(
        self,
        place: SnapshotPlace,
        manifest: SnapshotManifest,
        journal: bytes | None,
        *,
        genesis: bool,
    ) -> None:
        await self._results(manifest)
        if genesis:
            await self._initial_weights()
        # The journal before the pointer: a snapshot that is ahead of its journal is of no use.
        if journal is not None:
            await self._run(partial(self._disk.replace, JOURNAL, journal))
        raw = await self._run(lambda: self._blobs.get(hash_of(place.name)))
        pointer = SnapshotPointer(
            manifest=place.name, n_bytes=len(raw or b""), next_round=manifest.next_round
        )
        await self._run(lambda: self._disk.replace(POINTER, msgspec.json.encode(pointer)))
        self._done.next_round = manifest.next_round

    # ---- blobs -----------------------------------------------------------------------------

    async def _manifest(self, place: SnapshotPlace) -> SnapshotManifest:
        data = await self._blob(hash_of(place.name))
        manifest = decode_manifest(data, self._history.genesis.run)
        await self._run(partial(self._history.check_snapshot, manifest))
        return manifest

    async def _chunks(self, manifest: SnapshotManifest) -> None:
        sizes = chunks_of(manifest)
        self._here, self._total = 0, sum(sizes.values())
        for name, n_bytes in sizes.items():
            await self._blob(name)
            self._here += n_bytes
            self._on_bytes(self._here, self._total)

    async def _blob(self, name: bytes) -> bytes:
        """From this disk when it is intact, else from the source. Raises CorruptState."""
        here = await self._run(lambda: self._intact(name))
        if here is not None:
            self._done.reused += len(here)
            return here
        data = await self._source.blob(name)
        if data is None or await self._run(lambda: digest(data)) != name:
            state = "missing" if data is None else "damaged"
            raise CorruptState(f"{self._source.address}/blobs/{name.hex()} is {state}")
        self._done.bytes += len(data)
        await self._run(lambda: self._blobs.put_as(hash_of(name.hex()), data))
        return data

    def _intact(self, name: bytes) -> bytes | None:
        data = self._blobs.get(name)
        return data if data is not None and digest(data) == name else None

    async def _initial_weights(self) -> None:
        """So that the new keeper has what `verify` begins with; a source may lack them."""
        name = self._history.genesis.snapshot
        with contextlib.suppress(CorruptState):
            data = await self._blob(name)
            for chunk in chunks_of(decode_manifest(data, self._history.genesis.run)):
                await self._blob(chunk)

    # ---- results ---------------------------------------------------------------------------

    async def _results(self, manifest: SnapshotManifest) -> None:
        """As far as they lead without a gap; peers may have what follows."""
        self._done.reaches = max([manifest.next_round - 1, *(f.round for f in manifest.fragments)])
        for commit in self._history.needed_after(manifest):
            if not await self._result(commit):
                return
            self._done.reaches = max(self._done.reaches, commit.round)

    async def _result(self, commit: CommitAt) -> bool:
        path = result_path(commit.bytes_root)
        here = await self._run(lambda: self._disk.read(path))
        if here is not None and await self._matches(commit, here):
            self._done.reused += len(here)
            return True
        for _ in range(AGAIN):
            data = await self._source.result(commit.bytes_root)
            if data is None:
                return False
            if await self._matches(commit, data):
                self._done.bytes += len(data)
                await self._run(partial(self._disk.replace, path, data))
                return True
        return False

    async def _matches(self, commit: CommitAt, data: bytes) -> bool:
        try:
            await self._run(lambda: self._history.check_result(commit, data))
        except CorruptState:
            return False
        return True


async def fetch_data(
    source: SnapshotSource, folder: Path, workers: Workers, on_bytes: OnBytes | None = None
) -> bool:
    """The archived token shards into a data folder; a part that is here is gone on with.

    False when the source has none. Raises CorruptState, StoreError, StorageError.
    """
    files = await source.data()
    if not files:
        return False
    total, here = sum(f.n_bytes for f in files), 0
    for file in sorted(files, key=lambda f: f.file.endswith("manifest.json")):  # manifests last
        await _file(source, folder, file, workers)
        here += file.n_bytes
        if on_bytes is not None:
            on_bytes(here, total)
    return True


async def _file(source: SnapshotSource, folder: Path, file: ArchivedFile, workers: Workers) -> None:
    path = folder / file.file
    part = path.with_name(f"{path.name}.part")
    wanted = hash_of(file.name)
    if await workers.run(lambda: _hash(path)) == wanted:
        return
    for _ in range(AGAIN):
        at = await workers.run(lambda: _begin(part, file.n_bytes))
        while at < file.n_bytes:
            length = min(PIECE_BYTES, file.n_bytes - at)
            piece = await source.blob_range(wanted, at, length)
            await workers.run(partial(_append, part, piece))
            at += length
        if await workers.run(lambda: _hash(part)) == wanted:
            await workers.run(lambda: _put(part, path))
            return
        part.unlink()
    raise CorruptState(f"{source.address}/blobs/{file.name} ({file.file}) is damaged")


def _begin(part: Path, n_bytes: int) -> int:
    """Bytes that an earlier try left."""
    with storage_errors(part):
        part.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        if part.stat().st_size > n_bytes:
            part.write_bytes(b"")
        return part.stat().st_size


def _append(part: Path, piece: bytes) -> None:
    with storage_errors(part), part.open("ab") as file:
        file.write(piece)


def _put(part: Path, path: Path) -> None:
    with storage_errors(path):
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)


def _hash(path: Path) -> bytes | None:
    """None when there is no such file."""
    hasher = blake3()
    with storage_errors(path):
        if not path.exists():
            return None
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                hasher.update(block)
    return hasher.digest()
