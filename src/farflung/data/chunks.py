"""The chunks of a run's token files: what is hashed, fetched and read as one piece.

A chunk is named by source, shard and number; its bytes by their BLAKE3, which the shard's `.b3`
file lists, whose own hash the manifest lists, whose hash GENESIS lists.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from farflung.data.manifest import HASH_BYTES, DataManifest, Shard, row_bytes
from farflung.errors import CorruptState
from farflung.hashing import digest
from farflung.ids import Hash


class ChunkId(NamedTuple):
    source: int
    shard: int
    """Of the training side."""
    number: int


class Extent(NamedTuple):
    """Where the bytes of a chunk lie in its token file."""

    offset: int
    n_bytes: int


class SourceChunks:
    """The training chunks of one data folder. Needs its manifest and its `.b3` files only."""

    def __init__(self, folder: Path, manifest: DataManifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._starts = [0, *accumulate(shard.rows for shard in manifest.train)]
        self._hashes: dict[int, bytes] = {}

    @property
    def rows(self) -> int:
        return self._starts[-1]

    @property
    def chunk_bytes(self) -> int:
        """Of a whole chunk."""
        return self.manifest.chunk_rows * row_bytes(self.manifest)

    def shard(self, number: int) -> Shard:
        return self.manifest.train[number]

    def path(self, shard: int) -> Path:
        """Of its token file, which may not be here."""
        return self.folder / self.shard(shard).tokens.file

    def find(self, row: int) -> tuple[int, int, int]:
        """(shard, chunk, row inside the chunk). Raises IndexError."""
        if not 0 <= row < self.rows:
            raise IndexError(f"row {row} is not in 0..{self.rows - 1}")
        shard = bisect_right(self._starts, row) - 1
        return (shard, *divmod(row - self._starts[shard], self.manifest.chunk_rows))

    def count(self, shard: int) -> int:
        """Chunks of a shard."""
        return -(-self.shard(shard).rows // self.manifest.chunk_rows)

    def extent(self, shard: int, number: int) -> Extent:
        offset = number * self.chunk_bytes
        return Extent(offset, min(self.chunk_bytes, self.shard(shard).tokens.n_bytes - offset))

    def hash(self, shard: int, number: int) -> Hash:
        """Raises CorruptState when the `.b3` file is not here or damaged, IndexError for a chunk
        that the shard has not."""
        if not 0 <= number < self.count(shard):
            raise IndexError(f"chunk {number} is not in 0..{self.count(shard) - 1}")
        if shard not in self._hashes:
            self._hashes[shard] = self._read_hashes(shard)
        return Hash(self._hashes[shard][number * HASH_BYTES :][:HASH_BYTES])

    def label(self, shard: int, number: int) -> str:
        """For people."""
        return f"chunk {number} of {self.path(shard)}"

    def _read_hashes(self, shard: int) -> bytes:
        file = self.shard(shard).chunks
        path = self.folder / file.file
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CorruptState(f"{path} is listed in the manifest: {error.strerror}") from None
        if digest(data) != file.digest:
            raise CorruptState(f"{path} has hash {digest(data).hex()}, not {file.hash}")
        return data


def open_chunks(folders: Sequence[Path], manifests: Sequence[DataManifest]) -> list[SourceChunks]:
    return [SourceChunks(f, m) for f, m in zip(folders, manifests, strict=True)]
