"""What a prepared folder holds, and whether its files are what its manifest says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from farflung.data.manifest import MANIFEST_FILE, DataManifest, File
from farflung.data.shards import Rows, read_manifest
from farflung.data.tokenizer import Tokenizer, tokenizer_from_bytes
from farflung.hashing import digest, digest_file


class FileCheck(NamedTuple):
    file: File
    fault: str
    """Empty when it is whole."""


class Side(NamedTuple):
    """Sums over the shards of one side."""

    shards: int
    rows: int
    text_bytes: int


def sides(manifest: DataManifest) -> dict[str, Side]:
    return {
        name: Side(len(found), sum(s.rows for s in found), sum(s.text_bytes for s in found))
        for name, found in (("training", manifest.train), ("held-out", manifest.held_out))
    }


def check_files(folder: Path, manifest: DataManifest) -> Iterator[FileCheck]:
    """Every listed file, read once."""
    for file in manifest.files:
        yield FileCheck(file, _fault(folder / file.file, file))


def _fault(path: Path, file: File) -> str:
    try:
        size = path.stat().st_size
        if size != file.n_bytes:
            return f"damaged: {size:,} bytes, not {file.n_bytes:,}"
        found = digest_file(path).hex()
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"unreadable: {error.strerror}"
    return "" if found == file.hash else f"damaged: hash {found}, not {file.hash}"


def manifest_hash(folder: Path) -> str:
    """In hex: what GENESIS names."""
    return digest((folder / MANIFEST_FILE).read_bytes()).hex()
