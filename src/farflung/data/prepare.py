"""Writes a data folder: text in; token shards, tokenizer and manifest out.

The same documents, tokenizer and settings give the same bytes, whatever the number of processes
and however often it was killed. Every file is written atomically and the manifest last, so a
folder with a manifest is complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from farflung.config.run import rows_of_block
from farflung.data.batches import batches
from farflung.data.formats import Say
from farflung.data.manifest import (
    MANIFEST_FILE,
    TOKENIZER_FILE,
    DataManifest,
    File,
    Shard,
    encode_manifest,
)
from farflung.data.packing import Integers, PackedRows, Packer
from farflung.data.parallel import encoded_apart, encoded_here
from farflung.data.reading import ReadEnd, Reading, ReadNote
from farflung.data.split import Document, split
from farflung.data.spool import SPOOL_FOLDER, EncodedBatch, Spool, encode_batch
from farflung.data.tokenizer import Tokenizer
from farflung.disk import Disk, RealDisk, storage_errors
from farflung.errors import ConfigError
from farflung.hashing import digest

SHARD_BYTES = 64 << 20
"""Target size of a token shard: one piece of work for a fetch, one buffer while writing."""

_SHARD_FILE = re.compile(r"(train|heldout)-[0-9]{5,}\.(bin|len|b3)")

Progress = Callable[[int], None]
"""Called with the UTF-8 bytes of text done so far."""


class PrepareStep(NamedTuple):
    """How far it has come."""

    read_bytes: int
    """Of the files on disk."""
    text_bytes: int
    """UTF-8."""


def prepare(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    seq_len: int,
    out: Path,
    *,
    held_out_fraction: float = 0.02,
    shard_rows: int | None = None,
    provenance: str = "",
    progress: Progress | None = None,
) -> DataManifest:
    """Split, tokenize, pack and write. Streams: memory holds one shard and one batch of text.

    Raises ConfigError for a bad setting, a folder in use or too little text; StorageError from
    the disk.
    """
    writer = _new_writer(out, tokenizer, seq_len, shard_rows)
    done = 0
    for batch in batches(split(documents, held_out_fraction)):
        writer.add(encode_batch(batch, tokenizer))
        done += batch.text_bytes
        if progress is not None:
            progress(done)
    return writer.finish(held_out_fraction, provenance)


def prepare_inputs(
    reading: Reading,
    tokenizer: Tokenizer,
    seq_len: int,
    out: Path,
    *,
    jobs: int = 1,
    shard_rows: int | None = None,
    say: Say,
    progress: Callable[[PrepareStep], None],
) -> tuple[DataManifest, ReadEnd]:
    """The same from files and datasets; `jobs` above 1: by that many processes.

    Encoded text is kept in `out` until the end: after a kill, the same call takes it from there.
    Raises ConfigError (the first bad record is named) and StorageError.
    """
    writer = _new_writer(out, tokenizer, seq_len, shard_rows)
    with _locked(out):
        RealDisk(out).sweep()  # half a shard of a process that was killed
        spool = Spool.of(out / SPOOL_FOLDER, tokenizer)
        steps = (
            encoded_here(reading, tokenizer, spool)
            if jobs == 1
            else encoded_apart(reading, tokenizer, spool, jobs)
        )
        done, end = 0, ReadEnd({})
        with contextlib.closing(steps):
            for step in steps:
                if isinstance(step, ReadNote):
                    say(step.text)
                elif isinstance(step, ReadEnd):
                    end = step
                else:
                    event, encoded = step
                    writer.add(encoded)
                    done += event.batch.text_bytes
                    progress(PrepareStep(event.read_bytes, done))
        manifest = writer.finish(reading.held_out_fraction, reading.provenance)
        spool.remove()
    return manifest, end


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """One process at a time writes to a folder."""
    with storage_errors(out):
        (out / SPOOL_FOLDER).mkdir(parents=True, exist_ok=True)
        lock = (out / SPOOL_FOLDER / "lock").open("wb")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another process prepares data in {out}; wait for it or choose another folder"
            ) from None
        yield


def check_target(out: Path, seq_len: int) -> None:
    """ConfigError when no data folder of such rows can be made there; reads no text."""
    if seq_len < 2:
        raise ConfigError(f"--seq-len {seq_len} must be at least 2; try 128")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; give --out a new folder")
    if (out / MANIFEST_FILE).exists():
        raise ConfigError(f"{out} already holds prepared data; remove it or choose another folder")


def _new_writer(
    out: Path, tokenizer: Tokenizer, seq_len: int, shard_rows: int | None
) -> _FolderWriter:
    check_target(out, seq_len)
    return _FolderWriter(RealDisk(out), tokenizer, seq_len, shard_rows)


class _FolderWriter:
    """Both sides of the split; owns the folder while it is written."""

    def __init__(
        self, disk: Disk, tokenizer: Tokenizer, seq_len: int, shard_rows: int | None
    ) -> None:
        self._disk = disk
        self._tokenizer = tokenizer
        self._seq_len = seq_len
        self._dtype: Literal["uint16", "uint32"] = (
            "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"
        )
        row_bytes = (seq_len + 1) * np.dtype(self._dtype).itemsize
        self._chunk_rows = rows_of_block(seq_len)
        rows = _whole_chunks(row_bytes, self._chunk_rows) if shard_rows is None else shard_rows
        if rows < 1:
            raise ConfigError(f"shard_rows={rows} must be at least 1")
        size = _FileSize(self._dtype, rows, self._chunk_rows)
        self._train = _ShardSide(disk, "train", Packer(seq_len, tokenizer.eos, self._dtype), size)
        self._held_out = _ShardSide(
            disk, "heldout", Packer(seq_len, tokenizer.eos, self._dtype), size
        )

    def add(self, encoded: EncodedBatch) -> None:
        self._train.packer.add_run(encoded.train)
        self._held_out.packer.add_run(encoded.held_out)
        for side in (self._train, self._held_out):
            side.drain()

    def finish(self, held_out_fraction: float, provenance: str) -> DataManifest:
        train, held_out = self._train.finish(), self._held_out.finish()
        if not train:
            raise ConfigError(
                f"the text has {self._train.packer.tokens} training tokens, fewer than one row of "
                f"{self._seq_len + 1}; give more text or a smaller seq_len"
            )
        content = self._tokenizer.json()
        manifest = DataManifest(
            seq_len=self._seq_len,
            vocab=self._tokenizer.vocab_size,
            eos=self._tokenizer.eos,
            dtype=self._dtype,
            chunk_rows=self._chunk_rows,
            train=train,
            held_out=held_out,
            tokenizer=_write(self._disk, TOKENIZER_FILE, content) if content else None,
            held_out_fraction=held_out_fraction,
            provenance=provenance,
        )
        self._forget_strangers({f.file for f in manifest.files})
        self._disk.replace(MANIFEST_FILE, encode_manifest(manifest))
        return manifest

    def _forget_strangers(self, listed: set[str]) -> None:
        """Shards of an attempt with other settings, which was killed."""
        for name in self._disk.names(""):
            if name not in listed and _SHARD_FILE.fullmatch(name):
                self._disk.remove(name)


class _FileSize(NamedTuple):
    """Of the files of a side."""

    dtype: str
    shard_rows: int
    chunk_rows: int


def _whole_chunks(row_bytes: int, chunk_rows: int) -> int:
    """Rows of a shard of about SHARD_BYTES: a multiple of a chunk's, so that chunks of one shard
    go on where those of the last one ended."""
    return max(1, SHARD_BYTES // row_bytes // chunk_rows) * chunk_rows


class _ShardSide:
    """Shards of one side, written as soon as they are full."""

    def __init__(self, disk: Disk, name: str, packer: Packer, size: _FileSize) -> None:
        self.packer = packer
        self._disk = disk
        self._name = name
        self._dtype = np.dtype(size.dtype).newbyteorder("<")
        self._shard_rows = size.shard_rows
        self._chunk_rows = size.chunk_rows
        self._shards: list[Shard] = []

    def drain(self) -> None:
        """Write what is full; less than one shard and one batch stay in memory."""
        if self.packer.rows_ready >= self._shard_rows:
            self._flush(only_full=True)

    def finish(self) -> tuple[Shard, ...]:
        self._flush(only_full=False)
        return tuple(self._shards)

    def _flush(self, *, only_full: bool) -> None:
        size, start = self._shard_rows, 0
        tokens, n_bytes = self.packer.take(size if only_full else 1)
        while start < len(n_bytes):
            self._shard(PackedRows(tokens[start : start + size], n_bytes[start : start + size]))
            start += size

    def _shard(self, rows: PackedRows) -> None:
        tokens, rows_of_chunk = rows.tokens.astype(self._dtype, copy=False), self._chunk_rows
        chunks = [
            digest(_raw(tokens[i : i + rows_of_chunk]))
            for i in range(0, len(tokens), rows_of_chunk)
        ]
        stem = f"{self._name}-{len(self._shards):05d}"
        shard = Shard(
            rows=len(rows.n_bytes),
            text_bytes=int(rows.n_bytes.sum()),
            tokens=_write(self._disk, f"{stem}.bin", _raw(tokens)),
            lengths=_write(self._disk, f"{stem}.len", _raw(rows.n_bytes.astype("<u4"))),
            chunks=_write(self._disk, f"{stem}.b3", b"".join(chunks)),
        )
        self._shards.append(shard)


def _raw(array: Integers) -> memoryview:
    """The bytes of an array without a copy of them."""
    return np.ascontiguousarray(array).data.cast("B")


def _write(disk: Disk, name: str, content: bytes | memoryview) -> File:
    disk.replace(name, content)
    return File(file=name, hash=digest(content).hex(), n_bytes=len(content))
