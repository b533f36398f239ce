"""Writes a data folder: text in; token shards, tokenizer and manifest out.

The same documents, tokenizer and settings give the same bytes. Every file is written atomically
and the manifest last, so a folder with a manifest is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from farflung.config.run import rows_of_block
from farflung.data.manifest import (
    MANIFEST_FILE,
    TOKENIZER_FILE,
    DataManifest,
    File,
    Shard,
    encode_manifest,
)
from farflung.data.packing import PackedRows, Packer
from farflung.data.split import Document, Piece, split
from farflung.data.tokenizer import Tokenizer
from farflung.disk import Disk, RealDisk
from farflung.errors import ConfigError
from farflung.hashing import digest

SHARD_BYTES = 64 << 20
"""Target size of a token shard: one piece of work for a fetch, one buffer while writing."""
BATCH_CHARS = 1 << 20
"""Text handed to the tokenizer at a time."""

Progress = Callable[[int], None]
"""Called with the UTF-8 bytes of text done so far."""


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
    if seq_len < 2:
        raise ConfigError(f"seq_len={seq_len} must be at least 2; try 128")
    if (out / MANIFEST_FILE).exists():
        raise ConfigError(f"{out} already holds prepared data; remove it or choose another folder")
    writer = _Writer(RealDisk(out), tokenizer, seq_len, shard_rows)
    done = 0
    for batch in _batches(split(documents, held_out_fraction)):
        writer.add(batch)
        done += sum(len(p.text.encode("utf-8")) for p in batch)
        if progress is not None:
            progress(done)
    return writer.finish(held_out_fraction, provenance)


def _batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece.text)
        if size >= BATCH_CHARS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _Writer:
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
        size = _Size(self._dtype, rows, self._chunk_rows)
        self._train = _Side(disk, "train", Packer(seq_len, tokenizer.eos), size)
        self._held_out = _Side(disk, "heldout", Packer(seq_len, tokenizer.eos), size)

    def add(self, pieces: list[Piece]) -> None:
        counted = self._tokenizer.encode_counted([p.text for p in pieces])
        for piece, encoded in zip(pieces, counted, strict=True):
            side = self._held_out if piece.held_out else self._train
            side.packer.add(encoded)
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
        self._disk.replace(MANIFEST_FILE, encode_manifest(manifest))
        return manifest


class _Size(NamedTuple):
    """Of the files of a side."""

    dtype: str
    shard_rows: int
    chunk_rows: int


def _whole_chunks(row_bytes: int, chunk_rows: int) -> int:
    """Rows of a shard of about SHARD_BYTES: a multiple of a chunk's, so that chunks of one shard
    go on where those of the last one ended."""
    return max(1, SHARD_BYTES // row_bytes // chunk_rows) * chunk_rows


class _Side:
    """Shards of one side, written as soon as they are full."""

    def __init__(self, disk: Disk, name: str, packer: Packer, size: _Size) -> None:
        self.packer = packer
        self._disk = disk
        self._name = name
        self._dtype = np.dtype(size.dtype).newbyteorder("<")
        self._shard_rows = size.shard_rows
        self._chunk_rows = size.chunk_rows
        self._waiting: list[PackedRows] = []
        self._shards: list[Shard] = []

    def drain(self) -> None:
        tokens, n_bytes = self.packer.take()
        if len(tokens):
            self._waiting.append(PackedRows(tokens.astype(self._dtype), n_bytes))
        if sum(len(w.n_bytes) for w in self._waiting) >= self._shard_rows:
            self._flush(only_full=True)

    def finish(self) -> tuple[Shard, ...]:
        self._flush(only_full=False)
        return tuple(self._shards)

    def _flush(self, *, only_full: bool) -> None:
        if not self._waiting:
            return
        tokens = np.concatenate([w.tokens for w in self._waiting])
        n_bytes = np.concatenate([w.n_bytes for w in self._waiting])
        size, start = self._shard_rows, 0
        while len(tokens) - start >= (size if only_full else 1):
            self._shard(PackedRows(tokens[start : start + size], n_bytes[start : start + size]))
            start += size
        rest = PackedRows(tokens[start:].copy(), n_bytes[start:].copy())
        self._waiting = [rest] if len(rest.n_bytes) else []

    def _shard(self, rows: PackedRows) -> None:
        tokens, rows_of_chunk = rows.tokens, self._chunk_rows
        chunks = [
            digest(tokens[i : i + rows_of_chunk].tobytes())
            for i in range(0, len(tokens), rows_of_chunk)
        ]
        stem = f"{self._name}-{len(self._shards):05d}"
        shard = Shard(
            rows=len(rows.n_bytes),
            text_bytes=int(rows.n_bytes.sum()),
            tokens=_write(self._disk, f"{stem}.bin", tokens.tobytes()),
            lengths=_write(self._disk, f"{stem}.len", rows.n_bytes.astype("<u4").tobytes()),
            chunks=_write(self._disk, f"{stem}.b3", b"".join(chunks)),
        )
        self._shards.append(shard)


def _write(disk: Disk, name: str, content: bytes) -> File:
    disk.replace(name, content)
    return File(file=name, hash=digest(content).hex(), n_bytes=len(content))
