"""What a prepared folder holds, and whether its files are what its manifest says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from blake3 import blake3

from farflung.data.manifest import DataManifest, File, Shard
from farflung.data.shards import open_rows
from farflung.data.tokenizer import Tokenizer, tokenizer_from_bytes

BLOCK = 1 << 20
ROWS_READ = 256
"""Rows that are decoded at most, to show the first documents."""


class FileCheck(NamedTuple):
    file: File
    fault: str
    """Empty when it is whole."""


class SideSums(NamedTuple):
    """Over the shards of one side."""

    shards: int
    rows: int
    text_bytes: int

    @classmethod
    def of(cls, shards: tuple[Shard, ...]) -> SideSums:
        return cls(len(shards), sum(s.rows for s in shards), sum(s.text_bytes for s in shards))


def first_documents(folder: Path, count: int) -> list[str]:
    """The beginnings of the training text, as the tokenizer gives it back; the files' hashes are
    not checked. Raises ConfigError, CorruptState."""
    rows = open_rows(folder, verify=False)
    manifest = rows.manifest
    tokenizer = tokenizer_from_bytes(rows.tokenizer, eos=manifest.eos)
    documents: list[list[int]] = [[]]
    for number in range(min(len(rows.train), ROWS_READ)):
        for token in rows.train[number][:-1].tolist():  # the last one begins the next row
            if token != manifest.eos:
                documents[-1].append(token)
                continue
            if len(documents) == count:
                return _decoded(tokenizer, documents)
            documents.append([])
    return _decoded(tokenizer, documents)


def _decoded(tokenizer: Tokenizer, documents: list[list[int]]) -> list[str]:
    return [tokenizer.decode(d) for d in documents if d]


def check_files(folder: Path, manifest: DataManifest) -> Iterator[FileCheck]:
    """Every listed file, read once."""
    for file in manifest.files:
        yield FileCheck(file, _fault(folder / file.file, file))


def _fault(path: Path, file: File) -> str:
    try:
        size = path.stat().st_size
        if size != file.n_bytes:
            return f"damaged: {size:,} bytes, not {file.n_bytes:,}"
        found = _hash(path)
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"unreadable: {error.strerror}"
    return "" if found == file.hash else f"damaged: hash {found}, not {file.hash}"


def _hash(path: Path) -> str:
    hasher = blake3()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            hasher.update(block)
    return hasher.hexdigest()
