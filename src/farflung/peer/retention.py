"""A node's own snapshots, how long results and inputs are kept, and the limit on its disk.

Owner: the apply loop. Snapshots are written, read and removed in the worker pool. A disk that
refuses a snapshot costs that snapshot only.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from farflung.checkpoint.snapshot import (
    SnapshotPointer,
    decode_manifest,
    finish_snapshot,
    names_of,
    newest,
)
from farflung.errors import CorruptState, StorageError
from farflung.events import LogTrimmedByLimit, SnapshotSkipped
from farflung.ids import GUESTS
from farflung.peer.disk_budget import (
    KEEP_ALL,
    Need,
    check_limit,
    need_of,
    show_size,
    usual_limit,
)
from farflung.peer.node import LocalNode
from farflung.peer.outer_state import OuterState
from farflung.peer.pins import LONGEST_LOG, Pins
from farflung.peer.snapshot_writer import SnapshotWriter
from farflung.tasks import Tasks, nothing_else


class Retention:
    """Everything that one node keeps on its disk beside journal and keys."""

    def __init__(
        self,
        node: LocalNode,
        pins: Pins,
        beside: Callable[[], int],
        data: Callable[[], int] = lambda: 0,
    ) -> None:
        """`beside`: bytes that others keep on this disk and that count: the inner optimizer's
        state. `data`: bytes of the run's data when all that belongs here has come."""
        self._guest = node.config.role in GUESTS
        self._run = node.config.run
        self._disk = node.world.disk
        self._blobs = node.follower.blobs
        self._follower = node.follower
        self._inputs = node.inputs
        self._pins = pins
        self._beside = beside
        self._data = data
        self._workers = node.world.workers
        self._emit = node.world.emit
        self._asked_limit = node.config.max_disk_bytes
        self._limit = 0
        self._keep = node.config.keep
        self._clock = node.world.clock
        self._ages: deque[tuple[int, float]] = deque()
        """(round, when it was resolved), oldest first; older rounds count from this start on."""
        self._started_s = node.world.clock.now()
        self._blob_bytes = 0
        self._need: Need | None = None
        self._snapshots: list[SnapshotPointer] = []
        """Complete snapshots on this disk, oldest first."""
        self._saving: asyncio.Task[None] | None = None
        self._tasks = Tasks(self._emit, nothing_else)  # a fault costs that snapshot
        self._writer: SnapshotWriter | None = None
        self._writing_bytes = 0
        """Room that the snapshot which is being written was given."""
        self._blob_files = asyncio.Lock()
        """Held while blobs are written or collected: what a snapshot needs must not go."""
        self._leftovers_until: int | None = None
        """-1: they are gone."""
        self._warned_trim = False

    # ---- the limit -------------------------------------------------------------------------

    async def open(self, state: OuterState) -> None:
        """Before a state is fetched. Raises ConfigError when --max-disk is below the need."""
        cached, self._blob_bytes = await self._workers.run(
            lambda: (self._blobs.file_bytes(), self._blobs.stored_bytes())
        )
        cache = max(cached, self._data()) if self._guest else 0
        self._need = need_of(
            state.layout,
            state.outer,
            keeps_genesis=not self._guest,
            cache=cache,
        )
        check_limit(self._asked_limit, self._need)
        free = self._disk.free_bytes() - max(0, cache - cached)  # what comes will take it
        usual = usual_limit(self.used, free, self._need)
        self._limit = self._asked_limit or usual
        await self._learn()

    @property
    def limit(self) -> int:
        """Bytes; 0 before `open`."""
        return self._limit

    @property
    def used(self) -> int:
        """Bytes of log, snapshots, inputs, cache and what stands beside them."""
        cache = 0 if self._need is None else self._need.cache
        logs = self._follower.log.n_bytes + self._inputs.n_bytes
        return logs + self._blob_bytes + self._writing_bytes + cache + self._beside()

    async def admit(self, wanted: int) -> None:
        """Make room for something that a node can do without. Raises StorageError."""
        if self._need is not None:
            await self._make_room(max(0, wanted))
            self._check_room(wanted)

    def _check_room(self, wanted: int) -> None:
        if self.used + max(0, wanted) > self._limit:
            raise StorageError(
                f"{show_size(wanted)} more would be above the limit of {show_size(self._limit)}"
            )

    async def _make_room(self, wanted: int) -> None:
        """Drop the oldest rounds, then the older snapshot, until `wanted` bytes fit."""
        self._trim_log(wanted)
        # Not while one is written: it has made its room, and may build on chunks of the older one.
        if self.used + wanted > self._limit and not self._blob_files.locked():
            async with self._blob_files:
                await self._drop_older()

    async def _drop_older(self) -> None:
        if self._snapshots:
            await self._collect(self._snapshots[-1:], self._pins.uploading())

    def _trim_log(self, wanted: int) -> None:
        hard_floor = self._follower.state.next_round - self._follower.state.outer.window
        log = self._follower.log
        while self.used + wanted > self._limit:
            oldest = min([*log.rounds()[:1], *self._inputs.rounds()[:1]], default=hard_floor)
            if oldest >= hard_floor:
                break
            self._say_trimmed(oldest)
            log.trim(oldest + 1)
            self._inputs.trim(oldest + 1)

    def _say_trimmed(self, round_: int) -> None:
        """Once: an operator who wants to verify the whole run should know."""
        if not self._guest and not self._warned_trim:
            self._warned_trim = True
            self._emit(LogTrimmedByLimit(limit_bytes=self._limit, from_round=round_))

    # ---- after each round ------------------------------------------------------------------

    async def after_round(
        self, round_: int, *, committed: tuple[int, int] | None, behind: bool
    ) -> None:
        """Drop what is not needed any more; begin a snapshot when one is due."""
        rules = self._follower.spec.swarm
        self._inputs.resolved(round_, committed)
        floor = self._floor(round_)
        if floor is not None:
            self._follower.log.trim(floor)
            if not self._guest and self._keep != KEEP_ALL:
                self._inputs.trim(floor)  # else until the disk's limit
        self._drop_leftovers(round_)
        if self.used > self._limit:
            await self._make_room(0)
        due = (round_ + 1) % rules.snapshot_every == 0 and not behind
        idle = self._saving is None or self._saving.done()  # else the disk is slower than that
        if due and idle:
            self._begin()

    def _drop_leftovers(self, round_: int) -> None:
        """Results that a former process voted for and that were not committed: gone as soon as
        every round that it can have voted for is resolved."""
        state = self._follower.state
        if self._leftovers_until is None:
            self._leftovers_until = self._follower.resolved + len(state.fragments)
        due = self._leftovers_until >= 0 and round_ >= self._leftovers_until
        if due and not self._follower.log.busy:  # else with the next round
            self._leftovers_until = -1
            self._follower.log.drop_unknown()

    def _floor(self, round_: int) -> int | None:
        """Results of rounds below may go; None: all stay. Inputs stay until the disk's limit."""
        kept = self._follower.spec.swarm.keep_rounds
        floor = round_ + 1 - kept
        if not self._guest:
            if self._follower.spec.record != "none":
                wanted = self._wanted(round_)
                if wanted is None:
                    return None  # `verify` wants them all
                floor = min(floor, wanted)
            floor = min([floor, *(p.next_round for p in self._snapshots)])
        if self._snapshots:  # my snapshot and my log must reach my state, for me and for others
            floor = min(floor, self._snapshots[-1].next_round)
        pinned = self._pins.floor()
        if pinned is None:
            return floor
        return min(floor, max(pinned, round_ + 1 - LONGEST_LOG * kept))

    def _wanted(self, round_: int) -> int | None:
        """The first round that a keeper is to keep for `verify`; None: all."""
        if self._keep.rounds:
            return round_ + 1 - self._keep.rounds
        if not self._keep.age_s:
            return None
        now_s = self._clock.now()
        self._ages.append((round_, now_s))
        while self._ages[0][1] < now_s - self._keep.age_s:
            self._ages.popleft()
        started_s = self._started_s
        return self._ages[0][0] if now_s - started_s > self._keep.age_s else 0

    # ---- snapshots -------------------------------------------------------------------------

    def before_write(self, fragment: int) -> None:
        """In the pool: a commit is about to change this fragment."""
        writer = self._writer
        if writer is not None:
            writer.keep(fragment)

    def _begin(self) -> asyncio.Task[None]:
        writer = self._writer = SnapshotWriter(self._follower, self._blobs, self._workers)
        self._saving = self._tasks.start(self._snapshot(writer), "write a snapshot")
        return self._saving

    async def _snapshot(self, writer: SnapshotWriter) -> None:
        """Write the state while commits go on; a full disk skips this snapshot and says so."""
        try:
            async with self._blob_files:
                await self._write(writer)
        except (StorageError, CorruptState) as error:
            self._emit(SnapshotSkipped(reason=str(error)))
        finally:
            self._writer = None

    async def _written(self) -> None:
        """Return when no snapshot is being written: from then up to the caller's next await none
        is begun. Two at a time would lose each other's `before_write`."""
        while self._saving is not None and not self._saving.done():
            await asyncio.wait({self._saving})

    async def _write(self, writer: SnapshotWriter) -> None:
        need = self._need.snapshot if self._need is not None else 0
        if self._need is not None:
            self._trim_log(need)
            if self.used + need > self._limit:
                await self._drop_older()
            self._check_room(need)
        self._writing_bytes = need
        try:
            versions = await writer.write()
            pointer = await self._workers.run(
                lambda: finish_snapshot(
                    self._disk, self._blobs, self._run, writer.next_round, versions
                )
            )
        finally:
            self._writing_bytes = 0
        self._snapshots = [p for p in self._snapshots if p.manifest != pointer.manifest]
        self._snapshots.append(pointer)
        await self._collect(self._snapshots[-2:], self._pins.held())

    async def _learn(self) -> None:
        """The snapshot that a former process left: it is served, so it may be pinned."""

        def look() -> tuple[SnapshotPointer, set[bytes]] | None:
            pointer = newest(self._disk)
            return None if pointer is None else (pointer, self._names(pointer))

        try:
            found = await self._workers.run(look)
        except (CorruptState, StorageError):
            return  # whoever reads the state says so
        if found is not None and found[0] not in self._snapshots:
            pointer, names = found
            self._snapshots.append(pointer)
            self._pins.know(pointer.manifest, pointer.next_round, names)

    async def fetched(self) -> None:
        """A donor's snapshot is now mine."""
        self._blob_bytes = await self._workers.run(self._blobs.stored_bytes)
        await self._learn()

    async def before_fetch(self) -> None:
        """The state goes and another snapshot comes: no more is written of the one that is being
        written, and there is room beside the last whole one."""
        if self._writer is not None:
            self._writer.abandon()
        await self._written()
        if self._need is not None:
            await self._make_room(self._need.snapshot)

    async def _collect(self, kept: list[SnapshotPointer], pinned: set[str]) -> None:
        """Keep these snapshots (the newest and, so that a joiner in mid-copy can end, the one
        before) and those that somebody copies. Within `_blob_files`."""
        held = [p for p in self._snapshots if p in kept or p.manifest in pinned]
        genesis = self._follower.genesis
        first = genesis.snapshot if genesis is not None and not self._guest else None

        def collect() -> tuple[list[set[bytes]], int]:
            names = [self._names(pointer) for pointer in held]
            others = [] if first is None else [self._names_in(first)]
            self._blobs.keep_only({name for group in [*names, *others] for name in group})
            return names, self._blobs.stored_bytes()

        names, self._blob_bytes = await self._workers.run(collect)
        self._snapshots = held
        for pointer, of_this in zip(held, names, strict=True):
            self._pins.know(pointer.manifest, pointer.next_round, of_this)
        self._pins.forget_all_but({p.manifest for p in held})

    def _names(self, pointer: SnapshotPointer) -> set[bytes]:
        """In the pool: every blob that a snapshot needs. Raises CorruptState, StorageError."""
        return self._names_in(bytes.fromhex(pointer.manifest))

    def _names_in(self, manifest: bytes) -> set[bytes]:
        data = self._blobs.get(manifest)
        return set() if data is None else names_of(manifest, decode_manifest(data, self._run))

    async def keep(self) -> bool:
        """A snapshot of the state as it is now is on this disk, written if need be. Safe to cancel:
        what is being written comes to its end."""
        await self._written()
        if not self._newest_is_now():
            saving = self._begin()
            await asyncio.wait({saving})
            saving.result()
        return self._newest_is_now()

    async def snapshot_since(self, round_: int) -> SnapshotPointer | None:
        """The newest whole snapshot on this disk; one is written if it lacks rounds below `round_`
        and there is room. None: there is none at all."""
        await self._written()
        if not self._snapshots or self._snapshots[-1].next_round < round_:
            await self.keep()
        return self._snapshots[-1] if self._snapshots else None

    def _newest_is_now(self) -> bool:
        now = self._follower.state.next_round
        return bool(self._snapshots) and self._snapshots[-1].next_round == now

    async def close(self, last: Callable[[], bool]) -> None:
        """Let a snapshot that is being written come to its end; write the last one."""
        await self._written()
        if last():
            await self.keep()
