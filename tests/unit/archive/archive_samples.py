"""A small run's keeper at several moments, from the simulator: what uploads are tested with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from farflung.archive.memory_store import MemoryStore
from farflung.archive.rules import UploadRules
from farflung.archive.source import ArchiveSource
from farflung.archive.survey import Survey, survey
from farflung.archive.upload import LocalState, Sent, Upload
from farflung.checkpoint.snapshot import newest
from farflung.clock import InlineWorkers
from farflung.config.load import from_table
from farflung.config.run import RunSpec
from farflung.disk import MemoryDisk
from farflung.sim.loop import run_virtual
from farflung.sim.world import JOURNAL, KEEPER, RUN, SimSwarm, verify_record
from farflung.swarm.journal import Journal

T = TypeVar("T")
WORKERS = InlineWorkers()
ROUNDS = 12
MOMENTS = (1, 4, 7, 10)
"""Committed rounds at which the keeper's disk is copied."""


def spec(rounds: int = ROUNDS) -> RunSpec:
    return from_table(
        {
            "name": "archived",
            "model": {"preset": "quadratic", "parameters": 4096},
            "data": {"source": "synthetic", "rows": 100_000, "seq_len": 16},
            "inner": {"batch_rows": 4, "optimizer": "adamw", "lr": 0.1},
            "outer": {"inner_steps": 5, "rounds": rounds, "chunk_elements": 256},
            "swarm": {"start_peers": 3, "snapshot_every": 3, "keep_rounds": 4},
        }
    )


@lru_cache(maxsize=1)
def moments() -> tuple[dict[str, bytes], ...]:
    """The keeper's files at each of MOMENTS, and at the end."""

    async def main() -> tuple[dict[str, bytes], ...]:
        swarm = await SimSwarm.start(spec(), peers=3)
        disk, found = swarm.nodes[KEEPER].disk, []
        try:
            for rounds in MOMENTS:
                await swarm.committed(rounds)
                found.append(files_of(disk))
            await swarm.finished()
            found.append(files_of(disk))
        finally:
            await swarm.stop()
        return tuple(found)

    return run_virtual(main())


def files_of(disk: MemoryDisk) -> dict[str, bytes]:
    paths = [JOURNAL, "snapshot.json"]
    paths += [f"{f}/{n}" for f in ("blobs", "results") for n in disk.names(f)]
    return {path: data for path in paths if (data := disk.read(path)) is not None}


def run(work: Coroutine[Any, Any, T]) -> T:
    """In virtual time: waits and limits cost nothing."""

    async def main() -> T:
        return await work

    return run_virtual(main())


@dataclass
class Keeper:
    """One moment's disk, opened like a process would."""

    disk: MemoryDisk
    journal: Journal

    @classmethod
    def at(cls, moment: int) -> Keeper:
        disk = MemoryDisk(dict(moments()[moment]))
        return cls(disk, Journal.open(disk, JOURNAL, verifier=verify_record, sign=None))

    def upload(self, store: Any, on_bytes: Callable[[int, int], None] | None = None,
               **rules: Any) -> Upload:  # fmt: skip
        return Upload(
            store,
            LocalState(run=RUN, run_name="archived", disk=self.disk, journal=self.journal),
            WORKERS,
            UploadRules(**rules),
            wall_now=lambda: 1000.0 + self.journal.length,
            on_bytes=on_bytes,
        )

    async def send(self, store: Any, **rules: Any) -> Sent:
        """Open the archive, send the newest snapshot."""
        upload = self.upload(store, **rules)
        assert await upload.open()
        pointer = newest(self.disk)
        assert pointer is not None
        return await upload.snapshot(pointer)


async def surveyed(store: MemoryStore) -> Survey:
    """All that a reader can check."""
    await asyncio.sleep(0)
    return await survey(await ArchiveSource.open(store), WORKERS, verify=True)
