"""Reads a data folder: rows by number from memory-mapped shards; files by hash for serving.

Imports neither torch nor tokenizers: agents serve and fetch shards too.
legend: T = seq_len, N = rows asked for.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from farflung.data.manifest import (
    MANIFEST_FILE,
    TOKENIZER_FILE,
    DataManifest,
    File,
    Shard,
    decode_manifest,
)
from farflung.errors import ConfigError, CorruptState, StorageError
from farflung.hashing import digest
from farflung.ids import Hash


class RowTable:
    """Rows of one side, numbered through its shards. Indexing outside raises IndexError."""

    def __init__(self, folder: Path, manifest: DataManifest, shards: Sequence[Shard]) -> None:
        T = manifest.seq_len
        dtype = np.dtype(manifest.dtype).newbyteorder("<")
        self._seq_len = T
        self._tokens = [_map(folder / s.tokens.file, dtype, (s.rows, T + 1)) for s in shards]
        self._lengths = [_map(folder / s.lengths.file, np.dtype("<u4"), (s.rows,)) for s in shards]
        self._starts = [0]
        for shard in shards:
            self._starts.append(self._starts[-1] + shard.rows)
        self.text_bytes = sum(s.text_bytes for s in shards)
        """UTF-8 bytes behind the targets of all rows."""

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, row: int) -> npt.NDArray[np.int64]:
        """int64 [T + 1]: inputs are [:-1], targets [1:]."""
        shard, local = self._find(row)
        return np.asarray(self._tokens[shard][local], np.int64)

    def gather(self, rows: Sequence[int]) -> npt.NDArray[np.int64]:
        """int64 [N, T + 1], in the order asked for."""
        out = np.empty((len(rows), self._seq_len + 1), np.int64)
        for i, row in enumerate(rows):
            shard, local = self._find(row)
            out[i] = self._tokens[shard][local]
        return out

    def bytes_of(self, row: int) -> int:
        """UTF-8 bytes behind the T targets of a row."""
        shard, local = self._find(row)
        return int(self._lengths[shard][local])

    def _find(self, row: int) -> tuple[int, int]:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} is not in 0..{len(self) - 1}")
        shard = bisect_right(self._starts, row) - 1
        return shard, row - self._starts[shard]


class Rows:
    """An opened folder: `manifest`, `train`, `held_out`, and the tokenizer's content."""

    def __init__(self, folder: Path, manifest: DataManifest) -> None:
        self.manifest = manifest
        self.train = RowTable(folder, manifest, manifest.train)
        self.held_out = RowTable(folder, manifest, manifest.held_out)
        listed = manifest.tokenizer is not None
        self.tokenizer = (folder / TOKENIZER_FILE).read_bytes() if listed else b""
        """For `tokenizer_from_bytes`; empty when tokens are bytes."""


def open_rows(folder: Path, *, verify: bool = True) -> Rows:
    """Map a folder. `verify` reads every file once and checks its hash.

    Raises ConfigError when it is no data folder, CorruptState for a wrong size or hash.
    """
    manifest = decode_manifest(_read_manifest(folder))
    for file in manifest.files:
        _check(folder, file, verify)
    return Rows(folder, manifest)


def blobs(folder: Path) -> dict[Hash, Path]:
    """Every file of a folder by BLAKE3, the manifest included: what a node can serve."""
    content = _read_manifest(folder)
    listed = {f.digest: folder / f.file for f in decode_manifest(content).files}
    return {digest(content): folder / MANIFEST_FILE} | listed


def needed(manifest_bytes: bytes) -> list[tuple[str, Hash, int]]:
    """(file name, hash, bytes) of all files that a manifest lists; names are safe to join.

    Raises CorruptState for a manifest that breaks a rule.
    """
    return [(f.file, f.digest, f.n_bytes) for f in decode_manifest(manifest_bytes).files]


def _read_manifest(folder: Path) -> bytes:
    try:
        return (folder / MANIFEST_FILE).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(
            f"{folder} has no {MANIFEST_FILE}; make one with `farflung data prepare`"
        ) from None
    except OSError as error:
        raise StorageError(f"{folder / MANIFEST_FILE}: {error.strerror}") from None


def _check(folder: Path, file: File, verify: bool) -> None:
    path = folder / file.file
    try:
        size = path.stat().st_size
        if size != file.n_bytes:
            raise CorruptState(f"{path} has {size} bytes, the manifest says {file.n_bytes}")
        if verify:
            found = _hash(path)
            if found != file.hash:
                raise CorruptState(f"{path} has hash {found}, the manifest says {file.hash}")
    except OSError as error:
        raise CorruptState(f"{path} is listed in the manifest: {error.strerror}") from None


def _hash(path: Path) -> str:
    hasher = blake3()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            hasher.update(block)
    return hasher.hexdigest()


def _map(path: Path, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """A read-only view of a file."""
    return np.memmap(path, dtype, "r", shape=shape)
