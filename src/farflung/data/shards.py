"""Reads data folders: rows by number from memory-mapped shards; files by hash for serving.

A run with one source has its data folder itself; with several, one folder below it for each, by
name. Imports neither torch nor tokenizers: agents serve and fetch shards too.
legend: T = seq_len, N = rows asked for.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from farflung.config.run import DataSpec, is_remote
from farflung.data.chunks import open_chunks
from farflung.data.manifest import (
    MANIFEST_FILE,
    TOKENIZER_FILE,
    DataManifest,
    File,
    Shard,
    decode_manifest,
    row_bytes,
)
from farflung.errors import ConfigError, CorruptState, StorageError
from farflung.hashing import digest
from farflung.ids import Hash

Place = tuple[Path, Shard]
"""A shard and the folder that holds its files."""


class RowTable:
    """Rows of one side, numbered through its shards. Indexing outside raises IndexError.

    A shard is mapped when its first row is read.
    """

    def __init__(self, shards: Sequence[Place], manifest: DataManifest) -> None:
        self._seq_len = manifest.seq_len
        self._dtype = np.dtype(manifest.dtype).newbyteorder("<")
        self._shards = list(shards)
        self._tokens: list[npt.NDArray[Any] | None] = [None] * len(self._shards)
        self._starts = [0]
        for _, shard in shards:
            self._starts.append(self._starts[-1] + shard.rows)
        self.text_bytes = sum(s.text_bytes for _, s in shards)
        """UTF-8 bytes behind the targets of all rows."""

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, row: int) -> npt.NDArray[np.int64]:
        """int64 [T + 1]: inputs are [:-1], targets [1:]."""
        shard, local = self.find(row)
        return np.asarray(self._mapped(shard)[local], np.int64)

    def gather(self, rows: Sequence[int]) -> npt.NDArray[np.int64]:
        """int64 [N, T + 1], in the order asked for."""
        out = np.empty((len(rows), self._seq_len + 1), np.int64)
        for i, row in enumerate(rows):
            shard, local = self.find(row)
            out[i] = self._mapped(shard)[local]
        return out

    def bytes_of(self, row: int) -> int:
        """UTF-8 bytes behind the T targets of a row."""
        number, local = self.find(row)
        folder, shard = self._shards[number]
        return int(_map(folder / shard.lengths.file, np.dtype("<u4"), (shard.rows,))[local])

    def find(self, row: int) -> tuple[int, int]:
        """(shard, row inside it)."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} is not in 0..{len(self) - 1}")
        shard = bisect_right(self._starts, row) - 1
        return shard, row - self._starts[shard]

    def _mapped(self, number: int) -> npt.NDArray[Any]:
        tokens = self._tokens[number]
        if tokens is None:
            folder, shard = self._shards[number]
            shape = (shard.rows, self._seq_len + 1)
            tokens = self._tokens[number] = _map(folder / shard.tokens.file, self._dtype, shape)
        return tokens


class Rows:
    """An opened data folder, or several of one run: what training and evaluation read."""

    def __init__(self, folders: Sequence[Path], manifests: Sequence[DataManifest]) -> None:
        self.manifest = manifests[0]
        """Of the first source; sources share tokenizer and seq_len."""
        pairs = list(zip(folders, manifests, strict=True))
        self.sources = tuple(RowTable(_places(f, m.train), m) for f, m in pairs)
        """Training rows of each source."""
        self.chunks = tuple(open_chunks(folders, manifests))
        """The same by chunks, of which some may not be here yet."""
        train = [place for f, m in pairs for place in _places(f, m.train)]
        held_out = [place for f, m in pairs for place in _places(f, m.held_out)]
        self.train = RowTable(train, self.manifest)
        """Those of all sources, one after the other."""
        self.held_out = RowTable(held_out, self.manifest)
        listed = self.manifest.tokenizer is not None
        self.tokenizer = (folders[0] / TOKENIZER_FILE).read_bytes() if listed else b""
        """For `tokenizer_from_bytes`; empty when tokens are bytes."""


def open_rows(folder: Path, *, verify: bool = True) -> Rows:
    """Map a folder. `verify` reads every file once and checks its hash; without it shards may be
    missing, as long as their rows are not read.

    Raises ConfigError when it is no data folder, CorruptState for a wrong size or hash.
    """
    return _open([folder], None, verify=verify, partial=not verify)


def open_sources(folder: Path, data: DataSpec, *, verify: bool = True) -> Rows:
    """Map all sources of a run; shards of a store need not be here. Raises as `open_rows`, and
    ConfigError for sources that do not go together."""
    remote = any(is_remote(part.source) for part in data.parts)
    folders = source_folders(folder, data)
    return _open(folders, data.seq_len, verify=verify, partial=remote or not verify)


def source_folders(folder: Path, data: DataSpec) -> list[Path]:
    """Where the sources of a run lie in a node's data folder, in the order of the spec."""
    return [folder / source.name for source in data.sources] or [folder]


def check_alike(named: Iterable[tuple[str, DataManifest]], seq_len: int) -> None:
    """Sources of one run have one seq_len, the spec's, and one tokenizer. Raises ConfigError."""
    first: tuple[str, DataManifest] | None = None
    for name, manifest in named:
        if manifest.seq_len != seq_len:
            raise ConfigError(
                f"data.seq_len={seq_len}, but {name} holds rows of {manifest.seq_len} tokens; set "
                f"data.seq_len = {manifest.seq_len}, or prepare it again with --seq-len {seq_len}"
            )
        if first is None:
            first = name, manifest
        elif _vocabulary(manifest) != _vocabulary(first[1]):
            raise ConfigError(
                f"{name} was prepared with another tokenizer than {first[0]}; prepare all sources "
                "of a run with the same one"
            )


def _vocabulary(manifest: DataManifest) -> tuple[object, ...]:
    tokenizer = manifest.tokenizer
    return (None if tokenizer is None else tokenizer.hash, manifest.vocab, manifest.eos)


def _open(folders: Sequence[Path], seq_len: int | None, *, verify: bool, partial: bool) -> Rows:
    manifests = [decode_manifest(read_manifest(folder)) for folder in folders]
    names = map(str, folders)
    check_alike(zip(names, manifests, strict=True), seq_len or manifests[0].seq_len)
    for folder, manifest in zip(folders, manifests, strict=True):
        for file in manifest.files:
            if not partial or (folder / file.file).exists():
                _check(folder, file, verify)
        for shard in (*manifest.train, *manifest.held_out) if verify else ():
            if not partial or (folder / shard.tokens.file).exists():
                _check_chunks(folder, shard, manifest)
    return Rows(folders, manifests)


def _places(folder: Path, shards: Iterable[Shard]) -> list[Place]:
    return [(folder, shard) for shard in shards]


def blobs(folder: Path) -> dict[Hash, Path]:
    """The files of a folder that are here by BLAKE3, the manifest included: what a node can
    serve."""
    content = read_manifest(folder)
    listed = {f.digest: folder / f.file for f in decode_manifest(content).files}
    here = {name: path for name, path in listed.items() if path.exists()}
    return {digest(content): folder / MANIFEST_FILE} | here


def needed(manifest_bytes: bytes) -> list[tuple[str, Hash, int]]:
    """(file name, hash, bytes) of all files that a manifest lists; names are safe to join.

    Raises CorruptState for a manifest that breaks a rule.
    """
    return [(f.file, f.digest, f.n_bytes) for f in decode_manifest(manifest_bytes).files]


def read_manifest(folder: Path) -> bytes:
    """Raises ConfigError when the folder has none, StorageError."""
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


def _check_chunks(folder: Path, shard: Shard, manifest: DataManifest) -> None:
    """The hashes of the chunks are those of the rows: else nobody could fetch a part."""
    listed = (folder / shard.chunks.file).read_bytes()
    size = manifest.chunk_rows * row_bytes(manifest)
    found = b"".join(digest(block) for block in _blocks(folder / shard.tokens.file, size))
    if found != listed:
        raise CorruptState(
            f"{folder / shard.chunks.file} does not hold the hashes of {shard.tokens.file}; "
            "prepare the data again"
        )


def _hash(path: Path) -> str:
    hasher = blake3()
    for block in _blocks(path, 1 << 20):
        hasher.update(block)
    return hasher.hexdigest()


def _blocks(path: Path, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(size):
            yield block


def _map(path: Path, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """A read-only view of a file. Raises CorruptState when it is not here."""
    try:
        return np.memmap(path, dtype, "r", shape=shape)
    except FileNotFoundError:
        raise CorruptState(f"{path} is not on this machine (yet)") from None
