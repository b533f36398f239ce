"""Where a run's state can be read from: an archive, or the folder of a node. All of it unchecked:
whoever uses a chunk, a result or a record compares it with its hash first (survey.py, fetch.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from farflung.archive.index import (
    BLOBS,
    INDEX,
    JOURNAL_PIECES,
    RESULTS,
    ArchivedFile,
    ArchivedSnapshot,
    ArchiveIndex,
    blob_name,
    decode_index,
)
from farflung.archive.store import ObjectStore
from farflung.checkpoint.blob_store import FOLDER as BLOB_FOLDER
from farflung.checkpoint.blob_store import BlobStore
from farflung.checkpoint.round_log import result_path
from farflung.checkpoint.snapshot import POINTER, SnapshotPointer, decode_manifest, newest
from farflung.clock import Workers
from farflung.disk import RealDisk
from farflung.errors import CorruptState, StorageError, UserError
from farflung.hashing import digest
from farflung.ids import Hash
from farflung.swarm.journal import HEADER

JOURNAL = "journal.bin"
AGAIN = 3
"""Tries for an object that comes damaged: a cut connection, a cache."""
MANIFEST_HEAD = b'{"fragments"'


@dataclass(frozen=True, kw_only=True)
class SnapshotPlace:
    """A snapshot that a source lists."""

    name: str
    """Hex hash of its manifest."""
    next_round: int
    written_at: float = 0.0
    """Seconds since 1970; 0: not known."""
    tokens: int = -1
    """-1: the journal says."""
    genesis: bool = False


class SnapshotSource(Protocol):
    """Raises StoreError, StorageError, CorruptState."""

    @property
    def address(self) -> str:
        """For people."""

    async def journal(self) -> bytes:
        """The content of a journal file, from its header on."""

    async def snapshots(self) -> list[SnapshotPlace]:
        """Oldest first."""

    async def blob(self, name: bytes) -> bytes | None:
        """None when it is not there."""

    async def blob_size(self, name: bytes) -> int | None: ...

    async def blob_range(self, name: bytes, offset: int, length: int) -> bytes: ...

    async def result(self, bytes_root: bytes) -> bytes | None: ...

    async def has_result(self, bytes_root: bytes) -> bool:
        """Whether it is listed; not whether it is whole."""

    async def data(self) -> list[ArchivedFile]:
        """Files of the data folder that are there, the manifest among them."""


class ArchiveSource:
    """An archive as its index says at the moment of `open`."""

    def __init__(self, store: ObjectStore, index: ArchiveIndex) -> None:
        self._store = store
        self.index = index
        self._sizes: dict[str, int] | None = None
        self._results = {r.name for r in index.results}

    @classmethod
    async def open(cls, store: ObjectStore) -> ArchiveSource:
        """UserError when there is no archive; StoreError, CorruptState."""
        data = await store.get(INDEX)
        if data is None:
            raise UserError(
                f"{store.address} holds no {INDEX}: it is no archive, or its first upload has not "
                f"come to its end"
            )
        return cls(store, decode_index(data, store.address))

    @property
    def address(self) -> str:
        return self._store.address

    async def journal(self) -> bytes:
        parts = [HEADER]
        for piece in self.index.journal:
            parts.append(await self._checked(f"{JOURNAL_PIECES}/{piece.name}", piece.name))
        return b"".join(parts)

    async def _checked(self, name: str, wanted: str) -> bytes:
        for _ in range(AGAIN):
            data = await self._store.get(name)
            if data is not None and digest(data).hex() == wanted:
                return data
        state = "missing" if data is None else "damaged"
        raise CorruptState(f"{self.address}/{name} is {state}")

    async def snapshots(self) -> list[SnapshotPlace]:
        genesis = self.index.genesis
        places = self.index.places
        return [_place(s, genesis is not None and s.name == genesis.name) for s in places]

    async def blob(self, name: bytes) -> bytes | None:
        """Fetched again when it does not match its name; the last answer is the caller's."""
        for _ in range(AGAIN):
            data = await self._store.get(blob_name(name))
            if data is None or digest(data) == name:
                break
        return data

    async def blob_size(self, name: bytes) -> int | None:
        if self._sizes is None:
            self._sizes = await self._store.list(BLOBS)
        return self._sizes.get(blob_name(name))

    async def blob_range(self, name: bytes, offset: int, length: int) -> bytes:
        return await self._store.get_range(blob_name(name), offset, length)

    async def result(self, bytes_root: bytes) -> bytes | None:
        return await self._store.get(f"{RESULTS}/{bytes_root.hex()}")

    async def has_result(self, bytes_root: bytes) -> bool:
        return bytes_root.hex() in self._results

    async def data(self) -> list[ArchivedFile]:
        return list(self.index.data)


def _place(snapshot: ArchivedSnapshot, genesis: bool) -> SnapshotPlace:
    return SnapshotPlace(
        name=snapshot.name,
        next_round=snapshot.next_round,
        written_at=snapshot.written_at,
        tokens=snapshot.tokens,
        genesis=genesis,
    )


class NodeSource:
    """The folder of a keeper or peer, perhaps of one that runs. Changes nothing in it."""

    def __init__(self, folder: Path, run: str, workers: Workers) -> None:
        self.folder = folder
        self._run_id = run
        self._disk = RealDisk(folder)
        self._blobs = BlobStore(self._disk)
        self._run = workers.run

    @property
    def address(self) -> str:
        return str(self.folder)

    async def journal(self) -> bytes:
        data = await self._run(lambda: self._disk.read(JOURNAL))
        if data is None:
            raise CorruptState(f"{self.folder} holds no {JOURNAL}")
        return data

    async def snapshots(self) -> list[SnapshotPlace]:
        """The one that the pointer names, and older ones that are kept for those who copy them."""
        return await self._run(self._look)

    def _look(self) -> list[SnapshotPlace]:
        try:
            pointer = newest(self._disk)
        except CorruptState as error:
            raise CorruptState(f"{self.folder}/{error}") from None
        names = [n for n in self._disk.names(BLOB_FOLDER) if self._is_manifest(n)]
        places = [p for n in names if (p := self._place(n, pointer)) is not None]
        if pointer is not None and pointer.manifest not in {p.name for p in places}:
            places.append(SnapshotPlace(name=pointer.manifest, next_round=pointer.next_round))
        return sorted(places, key=lambda p: p.next_round)

    def _is_manifest(self, name: str) -> bool:
        head = self._disk.read_at(f"{BLOB_FOLDER}/{name}", 0, len(MANIFEST_HEAD))
        return head == MANIFEST_HEAD

    def _place(self, name: str, pointer: SnapshotPointer | None) -> SnapshotPlace | None:
        """None: it only looks like a manifest, or is of a snapshot that was never finished."""
        data = self._disk.read(f"{BLOB_FOLDER}/{name}")
        try:
            manifest = decode_manifest(data or b"", self._run_id)
        except CorruptState:
            return None
        is_newest = pointer is not None and pointer.manifest == name
        path = self.folder / (POINTER if is_newest else f"{BLOB_FOLDER}/{name}")
        return SnapshotPlace(
            name=name,
            next_round=manifest.next_round,
            written_at=path.stat().st_mtime,
            genesis=all(f.round == -1 for f in manifest.fragments),
        )

    async def blob(self, name: bytes) -> bytes | None:
        return await self._run(lambda: self._blobs.get(name))

    async def blob_size(self, name: bytes) -> int | None:
        return await self._run(lambda: self._disk.size(f"{BLOB_FOLDER}/{name.hex()}"))

    async def blob_range(self, name: bytes, offset: int, length: int) -> bytes:
        data = await self._run(lambda: self._blobs.read(name, offset, length))
        if data is None or len(data) != length:
            raise StorageError(f"{self.folder}: blob {name.hex()[:12]} is gone or cut")
        return data

    async def result(self, bytes_root: bytes) -> bytes | None:
        return await self._run(lambda: self._disk.read(result_path(bytes_root)))

    async def has_result(self, bytes_root: bytes) -> bool:
        return await self._run(lambda: self._disk.size(result_path(bytes_root))) is not None

    async def data(self) -> list[ArchivedFile]:
        """Token shards of a node are in its data folder, which is found there as before."""
        return []


def hash_of(name: str) -> Hash:
    return Hash(bytes.fromhex(name))
