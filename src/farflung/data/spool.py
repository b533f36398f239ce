"""What the tokenizer made of each batch, kept until the data folder is complete.

A file belongs to the content of its batch and to the tokenizer, so it can be used again after a
kill, whatever was changed in between; a torn or foreign one is made again. None is synced: its
hash says whether it is whole.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from farflung.data.batches import TextBatch, parts_of
from farflung.data.packing import Integers, TokenRun
from farflung.data.tokenizer import Tokenizer
from farflung.disk import storage_errors
from farflung.hashing import digest

SPOOL_FOLDER = ".prepare"
_HASH_BYTES = 32


class _Stored(msgspec.Struct, frozen=True, array_like=True):
    """Of one side: raw little-endian arrays."""

    ids: bytes
    n_bytes: bytes
    wide: bool
    """`n_bytes` has four bytes per token, not one."""


class EncodedBatch(NamedTuple):
    train: TokenRun
    held_out: TokenRun


def encode_batch(batch: TextBatch, tokenizer: Tokenizer) -> EncodedBatch:
    """Ids of both sides, each document or piece of one followed by its end of text.

    In the smallest types that hold them: a shard's worth of it waits in memory.
    """
    parts = parts_of(batch)
    dtype = id_type(tokenizer.vocab_size)
    counted = tokenizer.encode_counted([p.text for p in parts])
    runs = []
    for side in (False, True):
        ids, n_bytes = [np.empty(0, dtype)], [np.empty(0, np.uint32)]
        for part, encoded in zip(parts, counted, strict=True):
            if part.held_out == side:
                ids.append(encoded.ids.astype(dtype))
                n_bytes.append(encoded.n_bytes.astype(np.uint32))
                if not part.more:
                    ids.append(np.array([tokenizer.eos], dtype))
                    n_bytes.append(np.zeros(1, np.uint32))
        runs.append(TokenRun(np.concatenate(ids), _narrow(np.concatenate(n_bytes))))
    return EncodedBatch(*runs)


def id_type(vocab: int) -> np.dtype[Any]:
    """What a token id is stored as."""
    return np.dtype("<u2" if vocab <= 1 << 16 else "<u4")


def _narrow(n_bytes: Integers) -> Integers:
    wide = bool(len(n_bytes)) and int(n_bytes.max()) > 255
    return n_bytes.astype("<u4" if wide else np.uint8)


class Spool:
    """Files of encoded batches in a folder. Raises StorageError."""

    def __init__(self, folder: Path, tokenizer_key: bytes, vocab: int) -> None:
        self.folder = folder
        self._key = tokenizer_key
        self._dtype = id_type(vocab)
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)

    @classmethod
    def of(cls, folder: Path, tokenizer: Tokenizer) -> Spool:
        """What differs in the tokenizer never meets here."""
        key = digest(f"{tokenizer.vocab_size}/{tokenizer.eos}/".encode() + tokenizer.json())
        return cls(folder, key, tokenizer.vocab_size)

    def load(self, batch: TextBatch) -> EncodedBatch | None:
        """What was made of this batch; None when there is no whole file of it."""
        try:
            content = self._path(batch).read_bytes()
        except FileNotFoundError:
            return None
        if digest(content[_HASH_BYTES:]) != content[:_HASH_BYTES]:
            return None
        stored = msgspec.msgpack.decode(content[_HASH_BYTES:], type=tuple[_Stored, _Stored])
        return EncodedBatch(*(self._run(s) for s in stored))

    def save(self, batch: TextBatch, encoded: EncodedBatch) -> None:
        content = msgspec.msgpack.encode(
            [self._stored(encoded.train), self._stored(encoded.held_out)]
        )
        path = self._path(batch)
        temporary = path.with_suffix(".tmp")
        with storage_errors(path):
            temporary.write_bytes(digest(content) + content)
            temporary.replace(path)

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            shutil.rmtree(self.folder)

    def _path(self, batch: TextBatch) -> Path:
        name = digest(self._key + batch.key).hex()[:24]
        return self.folder / f"{batch.number:07d}-{name}.tok"

    def _stored(self, run: TokenRun) -> _Stored:
        wide = run.n_bytes.dtype.itemsize > 1
        return _Stored(run.ids.tobytes(), run.n_bytes.tobytes(), wide)

    def _run(self, stored: _Stored) -> TokenRun:
        n_bytes = np.frombuffer(stored.n_bytes, "<u4" if stored.wide else np.uint8)
        return TokenRun(np.frombuffer(stored.ids, self._dtype), n_bytes)
