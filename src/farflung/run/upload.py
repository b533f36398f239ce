"""The keeper's archive: uploads beside the run, on the uplink of the host, one object at a time.

Owner: the host's loop. Nothing here ends the run: what fails is told once and tried again, later
each time. A snapshot that is being uploaded is pinned in the keeper, so that it is not collected.
"""

from __future__ import annotations

import asyncio
import math
import random
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from farflung.archive.address import open_store
from farflung.archive.settings import UploadSettings
from farflung.archive.store import ObjectStore, StoreError
from farflung.archive.upload import ArchiveRefused, DataFile, LocalState, SnapshotOvertaken, Upload
from farflung.checkpoint.snapshot import SnapshotPointer, newest
from farflung.clock import InlineWorkers, ThreadWorkers, Workers
from farflung.disk import storage_errors
from farflung.errors import ConfigError, CorruptState, StorageError, UserError
from farflung.events import (
    ArchiveExtended,
    Emit,
    SnapshotUploaded,
    UploadDelayed,
    UploadProgress,
    UploadStopped,
)
from farflung.peer.agent import Agent

LOOK_S = 2.0
"""Between two looks for a new snapshot."""
TAIL_S = 10.0
"""Between two uploads of what came after it."""
AGAIN_S = 5.0
"""Wait after a failure, twice as long after each further one."""
LONGEST_AGAIN_S = 300.0
TELL_AGAIN_S = 1800.0
"""A failure that lasts is told again after this long."""
HOLD_S = 1800.0
"""A snapshot of which nothing moves is let go after this long; a newer one is taken then."""
PROGRESS_S = 5.0
"""Between two progress events."""
LAST_TRIES = 4
"""Failures after which a finished run does not wait for its archive any longer."""


class KeeperUpload:
    """Follows one host's keeper, whichever agent that is at the moment."""

    def __init__(
        self,
        settings: UploadSettings,
        keeper: Callable[[], Agent],
        *,
        run_name: str,
        data: Path,
        folders: Sequence[Path],
        emit: Emit,
        store: ObjectStore | None = None,
        workers: Workers | None = None,
    ) -> None:
        """Raises UserError: an unknown address, or a library that is missing.

        `folders`: of the run's sources in the host's folder `data`; none: synthetic data.
        """
        self._settings = settings
        self._keeper = keeper
        self._run_name = run_name
        self._data, self._folders = data, folders
        self._emit = emit
        self._workers = workers or ThreadWorkers(1)
        rng = random.Random(secrets.randbits(64))
        self._store = store or open_store(settings.address, self._workers, rng)
        self._agent: Agent | None = None
        self._upload: Upload | None = None
        self._target: SnapshotPointer | None = None
        """What is being uploaded, pinned."""
        self._moved_s = 0.0
        """When something of it went through last."""
        self._shown: tuple[float, int] = (0.0, 0)
        self._told_s: float | None = None
        self._tail_s = -math.inf
        self._refused = False

    # ---- life ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until it is cancelled, or the archive turns out to be somebody else's."""
        wait_s = AGAIN_S
        while not self._refused:
            if await self._try():
                wait_s = AGAIN_S
                await asyncio.sleep(LOOK_S)
            else:
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, LONGEST_AGAIN_S)

    async def finish(self) -> None:
        """The run is over: bring the archive to its end, unless the store does not want it."""
        failures = 0
        while failures < LAST_TRIES and not self._refused:
            self._tail_s = -math.inf
            before = self._place
            if not await self._try() or self._place is None:  # this keeper will learn no more
                failures += 1
                await asyncio.sleep(AGAIN_S * 2**failures)
            elif self._place == before:
                return

    @property
    def _place(self) -> tuple[int, int] | None:
        """How far the archive is; None: it has not been looked at."""
        upload = self._upload
        return None if upload is None else (upload.newest_round, upload.reaches)

    async def _try(self) -> bool:
        """One look; False when something failed, which has been told."""
        try:
            await self._look()
        except ArchiveRefused as error:
            self._refused = True
            self._emit(UploadStopped(reason=str(error)))
        except (StoreError, StorageError, CorruptState) as error:
            self._tell(str(error))
            return False
        except ConfigError as error:  # the data folder changed under the run
            self._tell(str(error))
            return False
        else:
            self._told_s = None
        return True

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _tell(self, reason: str) -> None:
        now_s = self._now()
        if self._told_s is None or now_s - self._told_s >= TELL_AGAIN_S:
            self._told_s = now_s
            self._emit(UploadDelayed(address=self._settings.address, reason=reason))

    # ---- one look --------------------------------------------------------------------------

    async def _look(self) -> None:
        agent = self._keeper()
        if agent is not self._agent:
            self._agent, self._upload, self._target = agent, None, None
        if agent.node.follower.genesis is None:
            return
        upload = self._upload or await self._opened(agent)
        if upload is None:
            return
        self._upload = upload
        await self._snapshot(agent, upload)
        now_s = self._now()
        if now_s - self._tail_s >= TAIL_S:
            self._tail_s = now_s
            if await upload.tail():
                self._emit(ArchiveExtended(round=upload.reaches))

    async def _opened(self, agent: Agent) -> Upload | None:
        """None while the keeper's journal is shorter than the archive's."""
        data = await self._workers.run(self._files)
        local = LocalState(
            run=agent.config.run,
            run_name=self._run_name,
            disk=agent.node.world.disk,
            journal=agent.node.follower.journal,
            data=data,
        )
        upload = Upload(
            self._store, local, self._workers, self._settings.rules, time.time, self._see
        )
        return upload if await upload.open() else None

    def _files(self) -> list[DataFile]:
        """The sources' manifests and tokenizer; with `data` every file that is here."""
        return [file for folder in self._folders for file in self._files_in(folder)]

    def _files_in(self, folder: Path) -> list[DataFile]:
        from farflung.data.shards import blobs, needed

        manifest = folder / "manifest.json"
        if not manifest.exists():
            return []
        with storage_errors(manifest):
            content = manifest.read_bytes()
        sizes = {name: n_bytes for _, name, n_bytes in needed(content)}
        return [
            DataFile(
                file=path.relative_to(self._data).as_posix(),
                name=bytes(name),
                n_bytes=sizes.get(name, len(content)),
                path=path,
            )
            for name, path in blobs(folder).items()
            if path.exists() and (self._settings.data or path.name in _SMALL)
        ]

    async def _snapshot(self, agent: Agent, upload: Upload) -> None:
        """Bring the newest snapshot of the keeper's disk to the archive, if it is newer."""
        target = self._target or await self._workers.run(lambda: newest(agent.node.world.disk))
        if target is None or target.next_round <= upload.newest_round:
            return
        if self._target is None:
            agent.pins.hold(target.manifest)
            self._target, self._moved_s = target, self._now()
        started_s = self._now()
        self._shown = (started_s, 0)
        try:
            sent = await upload.snapshot(target)
        except StoreError:
            if self._now() - self._moved_s > HOLD_S:
                self._release(agent)
            raise
        except (SnapshotOvertaken, StorageError, CorruptState):
            self._release(agent)
            raise
        self._release(agent)
        self._emit(
            SnapshotUploaded(
                next_round=sent.next_round,
                bytes=sent.bytes,
                reused=sent.reused,
                took_s=self._now() - started_s,
                removed=sent.removed,
                address=self._settings.address,
            )
        )

    def _release(self, agent: Agent) -> None:
        if self._target is not None:
            agent.pins.release(self._target.manifest)
            self._target = None

    def _see(self, here: int, total: int) -> None:
        """Something went through."""
        now_s = self._moved_s = self._now()
        last_s, before = self._shown
        if now_s - last_s < PROGRESS_S or self._target is None:
            return
        self._shown = (now_s, here)
        rate = max(0.0, (here - before) / (now_s - last_s)) if before else 0.0
        self._emit(
            UploadProgress(
                next_round=self._target.next_round,
                here=here,
                total=total,
                bytes_per_s=rate,
                eta_s=(total - here) / rate if rate else -1.0,
            )
        )


def check_upload(settings: UploadSettings | None, *, keeper: bool) -> None:
    """Before a start remembers them. UserError: an unusable address, a missing library, or no
    keeper to upload from."""
    if settings is None:
        return
    if not keeper:
        raise UserError("--upload archives the keeper's snapshots: leave --no-keeper out")
    open_store(settings.address, InlineWorkers(), random.Random(0))


_SMALL = frozenset({"manifest.json", "tokenizer.json"})
