"""Chunks that were fetched one by one: files named by their hash, bounded, oldest use out first.

One process writes (the node's agent), others read (its trainer). A chunk appears whole or not at
all, reading one moves it to the end of the queue, and its bytes are checked by whoever reads.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from pathlib import Path

from farflung.disk import storage_errors
from farflung.hashing import digest
from farflung.ids import Hash

CHUNKS = "chunks"
"""Folder beside a node's data folder."""


class ChunkCache:
    """A folder of chunks of at most `limit` bytes, unless more are needed at once."""

    def __init__(self, folder: Path, limit: int = 0) -> None:
        """`limit`: for `put`; whoever reads only needs none."""
        self.folder = folder
        self._limit = limit
        self._sizes: dict[str, int] | None = None
        """What is here, oldest use first; known to the writer."""

    def has(self, name: Hash) -> bool:
        return self._path(name.hex()).exists()

    def get(self, name: Hash) -> bytes | None:
        """The chunk; None when it is not here. A damaged one is removed. Raises StorageError."""
        path = self._path(name.hex())
        with storage_errors(path):
            try:
                data = path.read_bytes()
                os.utime(path)  # for the order of eviction, also after a restart
            except FileNotFoundError:  # perhaps evicted just now
                return None
            if digest(data) == name:
                return data
            path.unlink(missing_ok=True)
        return None

    def put(self, name: Hash, data: bytes, keep: Collection[Hash] = ()) -> None:
        """Store a checked chunk; others leave when there are too many, those of `keep` never.

        Raises StorageError.
        """
        path = self._path(name.hex())
        with storage_errors(path):
            known = self._known()
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            part.write_bytes(data)  # not synced: a torn one has another hash
            part.replace(path)
            known[name.hex()] = len(data)
            self._trim({one.hex() for one in keep} | {name.hex()})

    def clear(self) -> None:
        """Remove everything. Raises StorageError."""
        with storage_errors(self.folder):
            for name in list(self._known()):
                self._remove(name)

    @property
    def stored_bytes(self) -> int:
        return sum(self._known().values())

    def _known(self) -> dict[str, int]:
        if self._sizes is None:
            found = []
            for path in self.folder.glob("??/*"):
                if path.suffix == ".part":
                    path.unlink(missing_ok=True)
                    continue
                state = path.stat()
                found.append((state.st_mtime_ns, path.name, state.st_size))
            self._sizes = {name: size for _, name, size in sorted(found)}
        return self._sizes

    def _trim(self, keep: set[str]) -> None:
        total = self.stored_bytes
        if total <= self._limit:
            return
        for name in sorted(set(self._known()) - keep, key=self._used_at):
            total -= self._known()[name]
            self._remove(name)
            if total <= self._limit * 0.9:  # some at a time: each look costs a walk
                return

    def _used_at(self, name: str) -> int:
        try:
            return self._path(name).stat().st_mtime_ns
        except FileNotFoundError:  # a reader found it damaged
            return 0

    def _remove(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)
        self._known().pop(name)
        with contextlib.suppress(OSError):
            self._path(name).parent.rmdir()  # when it is empty

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / name
