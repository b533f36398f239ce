"""Content-addressed bytes of one node: what it can serve by hash.

Snapshot chunks and manifests live under `blobs/` (named by hash, never by what a peer says);
token shards and tokenizers are served from where they are.
"""

from __future__ import annotations

from pathlib import Path

from farflung.disk import Disk, read_piece, storage_errors
from farflung.hashing import digest
from farflung.ids import Hash

FOLDER = "blobs"
HASH_BYTES = 32


class BlobStore:
    """Blobs of one node. Writes are atomic; reading never trusts a name from the wire.

    Whatever the disk refuses is a StorageError, a file that has vanished included. Called from
    the worker pool: every method may wait for the disk.
    """

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._files: dict[bytes, Path] = {}

    def put(self, data: bytes | memoryview) -> Hash:
        name = digest(data)
        if not self.has(name):
            self.put_as(name, data)
        return name

    def put_as(self, name: Hash, data: bytes | memoryview) -> None:
        """Bytes whose hash is known already. Raises StorageError."""
        self._disk.replace(_path(name), data)

    def has(self, name: bytes) -> bool:
        if len(name) != HASH_BYTES:
            return False
        return name in self._files or self._disk.size(_path(name)) is not None

    def add_file(self, name: bytes, path: Path) -> None:
        """Serve an existing file under its hash."""
        self._files[bytes(name)] = path

    def get(self, name: bytes) -> bytes | None:
        """All of a blob; None when it is not here. Raises StorageError."""
        if len(name) != HASH_BYTES:
            return None
        if name in self._files:
            with storage_errors(self._files[name]):
                return self._files[name].read_bytes()
        return self._disk.read(_path(name))

    def read(self, name: bytes, offset: int, length: int) -> bytes | None:
        """A piece; None when the blob is not here. Raises StorageError."""
        if len(name) != HASH_BYTES or offset < 0 or length < 0:
            return None
        if name in self._files:
            return read_piece(self._files[name], offset, length)
        if self._disk.size(_path(name)) is None:
            return None
        return self._disk.read_at(_path(name), offset, length)

    def stored_bytes(self) -> int:
        """Bytes under `blobs/`; reads the folder."""
        names = self._disk.names(FOLDER)
        return sum(self._disk.size(f"{FOLDER}/{name}") or 0 for name in names)

    def file_bytes(self) -> int:
        """Bytes of files that are served from where they are."""
        return sum(_size(path) for path in set(self._files.values()))

    def drop(self, name: bytes) -> None:
        """Remove a stored blob that turned out to be damaged."""
        self._disk.remove(_path(name))

    def keep_only(self, names: set[bytes]) -> int:
        """Remove every stored file that is not one of these blobs; returns how many went."""
        kept = {name.hex() for name in names}
        gone = [n for n in self._disk.names(FOLDER) if n not in kept]
        for name in gone:
            self._disk.remove(f"{FOLDER}/{name}")
        return len(gone)


def _size(path: Path) -> int:
    with storage_errors(path):
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return 0


def _path(name: bytes) -> str:
    return f"{FOLDER}/{name.hex()}"
