"""Genesis mode: the trainer's own program makes the initial weights, once, and ends."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from farflung.errors import StorageError
from farflung.inner.flat import FlatParameters
from farflung.outer.layout import Layout

LAYOUT_FILE = "layout.json"
ANCHOR_FILE = "anchor.f32"


def write_genesis(flat: FlatParameters, folder: Path) -> None:
    """`layout.json` (outer/layout.py) and `anchor.f32` (little-endian fp32), atomically.

    The weights come last: their presence says that both are whole. Raises StorageError.
    """
    anchor = np.empty(flat.size, "<f4")
    flat.read([(0, flat.size)], anchor)
    _replace(folder / LAYOUT_FILE, Layout.from_entries(flat.entries, flat.frozen).to_json())
    _replace(folder / ANCHOR_FILE, anchor.data)


def _replace(path: Path, data: bytes | memoryview) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error
