"""A node's own snapshots, how long results and inputs are kept, and the limit on its disk.

Owner: the apply loop. Files are written and removed in the worker pool. A disk that refuses a
snapshot costs that snapshot only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from farflung.checkpoint.blob_store import BlobStore
from farflung.checkpoint.input_log import InputLog
from farflung.checkpoint.snapshot import (
    SnapshotPointer,
    decode_manifest,
    names_of,
    newest,
    write_snapshot,
)
from farflung.clock import Workers
from farflung.disk import Disk
from farflung.errors import CorruptState, StorageError
from farflung.events import Emit, Warned
from farflung.peer.disk_budget import (
    DEFAULT_SHARE,
    Need,
    check_limit,
    need_of,
    show_size,
)
from farflung.peer.follower import Follower
from farflung.peer.outer_state import OuterState
from farflung.peer.pins import LONGEST_LOG, Pins


class Retention:
    """Everything that one node keeps on its disk beside journal and keys."""

    def __init__(
        self,
        *,
        role: str,
        run: str,
        disk: Disk,
        blobs: BlobStore,
        follower: Follower,
        inputs: InputLog,
        pins: Pins,
        workers: Workers,
        emit: Emit,
        max_bytes: int,
    ) -> None:
        self._role = role
        self._run = run
        self._disk = disk
        self._blobs = blobs
        self._follower = follower
        self._inputs = inputs
        self._pins = pins
        self._workers = workers
        self._emit = emit
        self._asked_limit = max_bytes
        self._limit = 0
        self._blob_bytes = 0
        self._need: Need | None = None
        self._snapshots: list[SnapshotPointer] = []
        """Complete snapshots on this disk, oldest first."""
        self._saving: asyncio.Task[None] | None = None
        self._leftovers_until: int | None = None
        """-1: they are gone."""
        self._warned_trim = False
        self.beside: Callable[[], int] = lambda: 0
        """Bytes that others keep on this disk and that count: the inner optimizer's state."""

    # ---- the limit -------------------------------------------------------------------------

    def open(self, state: OuterState) -> None:
        """Before a state is fetched. Raises ConfigError when --max-disk is below the need."""
        cache = self._blobs.file_bytes() if self._role == "trainer" else 0
        self._need = need_of(state, keeps_genesis=self._role != "trainer", cache=cache)
        check_limit(self._asked_limit, self._need)
        self._blob_bytes = self._blobs.stored_bytes()
        usual = self.used + round(DEFAULT_SHARE * self._disk.free_bytes())
        self._limit = self._asked_limit or max(usual, self._need.total)
        self._learn()

    @property
    def used(self) -> int:
        """Bytes of log, snapshots, inputs, cache and what stands beside them."""
        cache = 0 if self._need is None else self._need.cache
        logs = self._follower.log.n_bytes + self._inputs.n_bytes
        return logs + self._blob_bytes + cache + self.beside()

    def admit(self, wanted: int) -> None:
        """Make room for something that a node can do without. Raises StorageError."""
        if self._need is not None and not self._make_room(max(0, wanted)):
            raise StorageError(
                f"{show_size(wanted)} more would be above the limit of {show_size(self._limit)}"
            )

    def _make_room(self, wanted: int) -> bool:
        """Drop the oldest rounds, then the older snapshot, until `wanted` bytes fit."""
        hard_floor = self._follower.state.next_round - self._follower.state.outer.window
        log = self._follower.log
        while self.used + wanted > self._limit:
            oldest = min([*log.rounds()[:1], *self._inputs.rounds()[:1]], default=hard_floor)
            if oldest >= hard_floor:
                break
            self._say_trimmed(oldest)
            log.trim(oldest + 1)
            self._inputs.trim(oldest + 1)
        if self.used + wanted > self._limit and self._snapshots:
            self._collect(self._snapshots[-1:], set())
        return self.used + wanted <= self._limit

    def _say_trimmed(self, round_: int) -> None:
        """Once: an operator who wants to verify the whole run should know."""
        if self._role != "trainer" and not self._warned_trim:
            self._warned_trim = True
            self._emit(
                Warned(
                    sentence=f"the limit of {show_size(self._limit)} on this disk drops results "
                    f"from round {round_} on; `verify` cannot recompute the run from its start: "
                    f"give --max-disk more, or record = 'none' to expect it"
                )
            )

    # ---- after each round ------------------------------------------------------------------

    def after_round(self, round_: int, *, committed: tuple[int, int] | None, behind: bool) -> None:
        """Drop what is not needed any more; begin a snapshot when one is due."""
        rules = self._follower.spec.swarm
        self._inputs.resolved(round_, committed)
        floor = self._floor(round_)
        if floor is not None:
            self._follower.log.trim(floor)
        self._drop_leftovers(round_)
        if self.used > self._limit:
            self._make_room(0)
        due = (round_ + 1) % rules.snapshot_every == 0 and not behind
        idle = self._saving is None or self._saving.done()  # else the disk is slower than that
        if due and idle:
            self._saving = asyncio.create_task(self.snapshot())

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
        if self._role != "trainer":
            if self._follower.spec.record != "none":
                return None  # `verify` wants them all
            floor = min([floor, *(p.next_round for p in self._snapshots)])
        if self._snapshots:  # my snapshot and my log must reach my state, for me and for others
            floor = min(floor, self._snapshots[-1].next_round)
        pinned = self._pins.floor()
        if pinned is None:
            return floor
        return min(floor, max(pinned, round_ + 1 - LONGEST_LOG * kept))

    # ---- snapshots -------------------------------------------------------------------------

    async def snapshot(self) -> None:
        """Write the state; a full disk skips this snapshot and says so."""
        state = self._follower.state
        async with self._follower.lock:  # only the copy is made under the lock
            next_round, rounds = state.next_round, list(state.rounds)
            copies = await self._workers.run(
                lambda: [
                    (r, state.anchor_of(f), state.momentum_of(f)) for f, r in enumerate(rounds)
                ]
            )
        need = self._need.snapshot if self._need is not None else 0
        try:
            self.admit(need)
            pointer = await self._workers.run(
                lambda: write_snapshot(self._disk, self._blobs, self._run, next_round, copies)
            )
            self._snapshots = [p for p in self._snapshots if p.manifest != pointer.manifest]
            self._snapshots.append(pointer)
            self._collect(self._snapshots[-2:], self._pins.held())
        except (StorageError, CorruptState) as error:
            self._emit(Warned(sentence=f"snapshot skipped: {error}"))

    def _learn(self) -> None:
        """The snapshot that a former process left: it is served, so it may be pinned."""
        try:
            pointer = newest(self._disk)
            names = set() if pointer is None else self._names(pointer)
        except (CorruptState, StorageError):
            return  # whoever reads the state says so
        if pointer is not None and pointer not in self._snapshots:
            self._snapshots.append(pointer)
            self._pins.know(pointer.manifest, pointer.next_round, names)

    def fetched(self) -> None:
        """A donor's snapshot is now mine."""
        self._blob_bytes = self._blobs.stored_bytes()
        self._learn()

    def before_fetch(self) -> None:
        """Another snapshot comes: make room for it beside mine."""
        if self._need is not None:
            self._make_room(self._need.snapshot)

    def _collect(self, kept: list[SnapshotPointer], pinned: set[str]) -> None:
        """Keep these snapshots (the newest and, so that a joiner in mid-copy can end, the one
        before) and those that somebody copies."""
        held = [p for p in self._snapshots if p in kept or p.manifest in pinned]
        names: set[bytes] = set()
        for pointer in held:
            of_this = self._names(pointer)
            self._pins.know(pointer.manifest, pointer.next_round, of_this)
            names |= of_this
        genesis = self._follower.genesis
        if self._role != "trainer" and genesis is not None:
            names |= self._names(
                SnapshotPointer(manifest=genesis.snapshot.hex(), n_bytes=0, next_round=0)
            )
        self._blobs.keep_only(names)
        self._snapshots = held
        self._pins.forget_all_but({p.manifest for p in held})
        self._blob_bytes = self._blobs.stored_bytes()

    def _names(self, pointer: SnapshotPointer) -> set[bytes]:
        data = self._blobs.get(bytes.fromhex(pointer.manifest))
        return set() if data is None else names_of(pointer, decode_manifest(data, self._run))

    async def keep(self) -> bool:
        """A snapshot of the state as it is now is on this disk, written if need be. Safe to cancel:
        what is being written comes to its end."""
        if self._saving is not None:
            await asyncio.wait({self._saving})
        if not self._newest_is_now():
            self._saving = asyncio.create_task(self.snapshot())
            await asyncio.wait({self._saving})
            self._saving.result()
        return self._newest_is_now()

    def _newest_is_now(self) -> bool:
        now = self._follower.state.next_round
        return bool(self._snapshots) and self._snapshots[-1].next_round == now

    async def close(self, last: Callable[[], bool]) -> None:
        """Let a snapshot that is being written come to its end; write the last one."""
        if self._saving is not None:
            await asyncio.wait({self._saving})
        if last():
            await self.keep()
