"""A shard that is damaged on this node's own disk is fetched anew, by whoever finds it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from farflung.clock import InlineWorkers, LoopClock
from farflung.hashing import digest
from farflung.run.data_fetch import DataFetch

WHOLE = b"tokens " * 100


class Blobs:
    """A donor that has the shard."""

    def __init__(self) -> None:
        self.asked = 0

    async def piece(self, _: list[str], name: bytes, offset: int, length: int) -> bytes:
        assert name == digest(WHOLE)
        self.asked += 1
        return WHOLE[offset : offset + length]


def fetch(folder: Path, blobs: Blobs) -> bytes:
    node: Any = SimpleNamespace(
        world=SimpleNamespace(workers=InlineWorkers(), emit=print, clock=LoopClock()),
        mesh=SimpleNamespace(blobs=blobs),
        donors=lambda: ["donor"],
    )
    path = folder / "shard.bin"
    asyncio.run(DataFetch(folder)._file(node, path, digest(WHOLE), len(WHOLE), (0, len(WHOLE))))
    return path.read_bytes()


def test_a_damaged_file_is_fetched_again_and_an_intact_one_is_not(tmp_path: Path) -> None:
    blobs = Blobs()
    assert fetch(tmp_path, blobs) == WHOLE and blobs.asked == 1
    assert fetch(tmp_path, blobs) == WHOLE and blobs.asked == 1
    for damaged in (WHOLE[:-1], b"x" + WHOLE[1:], b""):
        (tmp_path / "shard.bin").write_bytes(damaged)
        assert fetch(tmp_path, blobs) == WHOLE
    assert blobs.asked == 4
