"""What `farflung data prepare` wrote: the files of a folder, their hashes and their shape.

The manifest is canonical JSON (sorted keys), so that equal data has one hash, which GENESIS names.
A shard's rows are hashed in chunks too, so that a part of it can be fetched and checked by itself.
It may come from a stranger: `decode_manifest` checks every name, size and count before use.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from farflung.errors import CorruptState
from farflung.ids import Hash

MANIFEST_VERSION = 2
"""2: hashes of chunks."""
MANIFEST_FILE = "manifest.json"
TOKENIZER_FILE = "tokenizer.json"
LENGTH_BYTES = 4
"""Bytes of one entry of a `.len` file: little-endian uint32."""
HASH_BYTES = 32
"""Bytes of one entry of a `.b3` file: BLAKE3."""

_SHARD_NAME = re.compile(r"(train|heldout)-[0-9]{5}")
_HEX_HASH = re.compile(r"[0-9a-f]{64}")
_MAX_SEQ_LEN = 1 << 24


class File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    file: str
    hash: str
    """BLAKE3 in hex."""
    n_bytes: int

    @property
    def digest(self) -> Hash:
        return Hash(bytes.fromhex(self.hash))


class Shard(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    rows: int
    text_bytes: int
    """UTF-8 bytes behind all target tokens of the shard."""
    tokens: File
    """`.bin`: rows x (seq_len + 1) token ids, contiguous, of the manifest's dtype."""
    lengths: File
    """`.len`: UTF-8 bytes of the seq_len target tokens of each row, little-endian uint32."""
    chunks: File
    """`.b3`: BLAKE3 of every `chunk_rows` rows of `tokens`; the last chunk may be shorter."""

    @property
    def files(self) -> tuple[File, ...]:
        return self.tokens, self.lengths, self.chunks


class DataManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: int = MANIFEST_VERSION
    seq_len: int
    """T. Row i holds tokens i*T .. i*T+T of its side: T inputs, T targets, one shared token."""
    vocab: int
    """Largest token id + 1."""
    eos: int
    dtype: Literal["uint16", "uint32"]
    """Of the token files, little-endian."""
    chunk_rows: int
    """Rows of a token file that are hashed, fetched and read as one piece."""
    train: tuple[Shard, ...]
    held_out: tuple[Shard, ...]
    tokenizer: File | None
    """tokenizer.json; None when tokens are bytes."""
    held_out_fraction: float
    provenance: str

    @property
    def train_rows(self) -> int:
        return sum(s.rows for s in self.train)

    @property
    def held_out_rows(self) -> int:
        return sum(s.rows for s in self.held_out)

    @property
    def files(self) -> list[File]:
        """Every file but the manifest itself: tokenizer, training shards, held-out shards."""
        shards = [f for s in (*self.train, *self.held_out) for f in s.files]
        return [*([self.tokenizer] if self.tokenizer else []), *shards]


def encode_manifest(manifest: DataManifest) -> bytes:
    return msgspec.json.encode(manifest, order="sorted")


def decode_manifest(data: bytes) -> DataManifest:
    """A checked manifest; CorruptState with the rule that it breaks."""
    try:
        _check_version(data)
        manifest = msgspec.json.decode(data, type=DataManifest, strict=True)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CorruptState(f"the data manifest is malformed: {error}") from None
    for holds, sentence in _rules(manifest):
        if not holds:
            raise CorruptState(f"the data manifest is malformed: {sentence}")
    return manifest


class _Versioned(msgspec.Struct):
    version: int = MANIFEST_VERSION


def _check_version(data: bytes) -> None:
    """Before anything else: another version has other fields."""
    found = msgspec.json.decode(data, type=_Versioned).version
    if found != MANIFEST_VERSION:
        raise CorruptState(
            f"the data manifest has version {found}, this farflung reads {MANIFEST_VERSION}; "
            "prepare the data again"
        )


def _rules(m: DataManifest) -> list[tuple[bool, str]]:
    names = [f.file for f in m.files]
    limit = 1 << (8 * item_bytes(m))
    return [
        (2 <= m.seq_len <= _MAX_SEQ_LEN, f"seq_len={m.seq_len} is out of range"),
        (m.chunk_rows >= 1, f"chunk_rows={m.chunk_rows} is below 1"),
        (2 <= m.vocab <= limit, f"vocab={m.vocab} does not fit {m.dtype}"),
        (0 <= m.eos < m.vocab, f"eos={m.eos} is not in the vocabulary of {m.vocab}"),
        (m.tokenizer is None or m.tokenizer.file == TOKENIZER_FILE, "a foreign tokenizer file"),
        (len(set(names)) == len(names), "a file is listed twice"),
        (all(_HEX_HASH.fullmatch(f.hash) for f in m.files), "a hash is not 64 hex digits"),
        (all(f.n_bytes > 0 for f in m.files), "a file has no bytes"),
        (
            m.chunk_rows >= 1 and all(_shard_ok(m, s, "train") for s in m.train),
            "a training shard's name or size",
        ),
        (
            m.chunk_rows >= 1 and all(_shard_ok(m, s, "heldout") for s in m.held_out),
            "a held-out shard's name or size",
        ),
    ]


def _shard_ok(m: DataManifest, shard: Shard, side: str) -> bool:
    stem = shard.tokens.file.removesuffix(".bin")
    named = _SHARD_NAME.fullmatch(stem)
    return (
        named is not None
        and named[1] == side
        and shard.tokens.file == f"{stem}.bin"
        and shard.lengths.file == f"{stem}.len"
        and shard.chunks.file == f"{stem}.b3"
        and shard.rows > 0
        and shard.text_bytes >= 0
        and shard.tokens.n_bytes == shard.rows * (m.seq_len + 1) * item_bytes(m)
        and shard.lengths.n_bytes == shard.rows * LENGTH_BYTES
        and shard.chunks.n_bytes == -(-shard.rows // m.chunk_rows) * HASH_BYTES
    )


def row_bytes(manifest: DataManifest) -> int:
    """Bytes of one stored row."""
    return (manifest.seq_len + 1) * item_bytes(manifest)


def item_bytes(manifest: DataManifest) -> int:
    """Bytes of one stored token id."""
    return 2 if manifest.dtype == "uint16" else 4
