"""What a trainer needs and lacks, told to the agent that fetches: one small file.

The trainer knows which rows come next and what of them is here; its agent knows who has the rest.
The file lies beside the data folder, is replaced as a whole, and says everything each time.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from farflung.data.chunks import ChunkId
from farflung.disk import storage_errors

WANTED = "wanted.json"


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about the rows of the lease that is trained."""

    missing: tuple[ChunkId, ...] = ()
    """Not here, or damaged; in the order in which they are needed."""
    kept: tuple[ChunkId, ...] = ()
    """All that the lease needs: a cache may not drop these."""
    waiting: bool = False
    """The trainer stands still until the first missing one comes."""


def write_wanted(path: Path, wanted: Wanted) -> None:
    """Raises StorageError."""
    with storage_errors(path):
        part = path.with_name(f".{path.name}.{os.getpid()}")
        part.write_bytes(msgspec.json.encode(wanted))
        part.replace(path)


def read_wanted(path: Path) -> Wanted:
    """Nothing wanted when there is no file, or none that makes sense."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Wanted)
    except (OSError, msgspec.MsgspecError):
        return Wanted()
