"""Where a node's state comes from: its own snapshot, or a newer one from several peers at once.

Owner: the agent's loop. Manifests and chunks are read, checked and put in place in the pool, chunk
by chunk. An interrupted download goes on where it stopped: its manifest is remembered in
`fetching.json`, its chunks are blobs of this node already.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Literal

import msgspec
import numpy as np

from farflung.checkpoint.blob_store import BlobStore
from farflung.checkpoint.snapshot import (
    POINTER,
    SnapshotManifest,
    SnapshotPointer,
    chunks_of,
    decode_manifest,
    newest,
    read_chunk,
)
from farflung.clock import Clock
from farflung.errors import CorruptState, LinkDown, StorageError
from farflung.events import Emit, FetchDelayed, SnapshotFetched, SnapshotUnusable, StateProgress
from farflung.failpoints import hit
from farflung.hashing import digest
from farflung.ids import Hash
from farflung.network.messages import CatalogueReply
from farflung.outer.fragments import scatter
from farflung.peer.follower import Check
from farflung.peer.node import LocalNode
from farflung.peer.outer_state import OuterState
from farflung.peer.patience import Patience
from farflung.tasks import first_ended
from farflung.transfer.download import Downloader, DownloadProgress
from farflung.transfer.download_plan import Item, Unservable

FETCHING = "fetching.json"
GRACE_S = 10.0
"""Donors are known a moment after a node has connected, and a host's keeper starts with its host:
what nobody offers before that is no trouble."""
PROGRESS_S = 0.5
"""Between two progress events."""
OFFERS_S = 2.0
"""After the first offer: how long the others may take to make theirs."""
RATE_S = 5.0
"""The shown rate is that of about the last five seconds."""


class Bootstrap:
    """Fills an OuterState. One call at a time."""

    def __init__(self, node: LocalNode, downloader: Downloader) -> None:
        self._disk = node.world.disk
        self._blobs = node.follower.blobs
        self._sync_journal = node.follower.journal.sync
        self._workers = node.world.workers
        self._clock = node.world.clock
        self._emit = node.world.emit
        self._exchange = node.mesh.blobs
        self._fetcher = downloader
        self._donors = node.donors

    async def fill(
        self, state: OuterState, run: str, check: Check, *, trust_disk: bool, at_least: int
    ) -> None:
        """From my own disk or from donors, whose snapshot must reach `at_least` that round.

        Tries until it is done; cancel to give up.
        """
        interrupted = self._disk.size(FETCHING) is not None
        if trust_disk and not interrupted and await self._from_disk(state, run, check):
            return
        patience = Patience(self._clock, grace_s=GRACE_S)
        while True:
            try:
                await self._from_donors(state, run, check, at_least)
                return
            except Unservable as error:
                self._forget_interrupted()
                self._fetcher.forgive()
                if patience.failed(told_at_once=True):
                    self._emit(SnapshotUnusable(own=False, reason=str(error)))
            except (LinkDown, CorruptState, StorageError) as error:
                if patience.failed(told_at_once=not isinstance(error, LinkDown)):
                    self._emit(FetchDelayed(what="a snapshot", reason=str(error)))
            await patience.pause()

    async def newest_offer(self) -> int:
        """The newest round that a donor's snapshot reaches; -1 when none answers."""
        offers = await self._offers()
        return max((o.next_round for o in offers.values()), default=-1)

    # ---- my own disk -----------------------------------------------------------------------

    async def _from_disk(self, state: OuterState, run: str, check: Check) -> bool:
        def look() -> SnapshotManifest | None:
            pointer = newest(self._disk)
            return None if pointer is None else self._read(pointer, state, run, check)

        try:
            manifest = await self._workers.run(look)
            if manifest is None:
                return False
            await self._install(state, manifest)
        except (CorruptState, StorageError) as error:
            self._emit(SnapshotUnusable(own=True, reason=str(error)))
            return False
        return True

    def _read(
        self, pointer: SnapshotPointer, state: OuterState, run: str, check: Check
    ) -> SnapshotManifest | None:
        """In the pool: a manifest that is here and that the journal confirms. CorruptState."""
        data = self._blobs.get(bytes.fromhex(pointer.manifest))
        return None if data is None else _checked(data, state, run, check)

    async def _install(self, state: OuterState, manifest: SnapshotManifest) -> None:
        """Raises CorruptState, StorageError."""
        chunks = installing(state, manifest, self._blobs)
        while await self._workers.run(lambda: next(chunks, False)):
            pass

    # ---- donors ----------------------------------------------------------------------------

    async def _from_donors(self, state: OuterState, run: str, check: Check, at_least: int) -> None:
        started_s = self._clock.now()
        pointer, manifest = await self._choose(state, run, check, at_least)
        missing, here = await self._workers.run(lambda: self._missing(manifest))
        total = here + sum(item.n_bytes for item in missing)
        show = _Show(self._emit, self._clock, here, total)
        done = await self._fetcher.fetch(missing, self._keep, on_progress=show.see)
        try:
            await self._install(state, manifest)
        except CorruptState:
            await self._workers.run(lambda: self._drop_damaged(manifest))
            raise
        await self._workers.run(lambda: self._count(pointer))
        self._emit(
            SnapshotFetched(
                next_round=manifest.next_round,
                bytes=done.bytes,
                took_s=self._clock.now() - started_s,
                reused=here,
                sources=len(done.sources),
            )
        )

    def _count(self, pointer: SnapshotPointer) -> None:
        """In the pool: the fetched snapshot is mine from now on."""
        # First: a snapshot that is ahead of its journal could not be used after a power cut.
        self._sync_journal()
        self._disk.replace(POINTER, msgspec.json.encode(pointer))
        self._disk.remove(FETCHING)

    async def _choose(
        self, state: OuterState, run: str, check: Check, at_least: int
    ) -> tuple[SnapshotPointer, SnapshotManifest]:
        """The interrupted download if it is nearer to its end than a new one, else the newest
        offer that the journal confirms. Raises LinkDown, CorruptState."""
        old = await self._workers.run(lambda: self._interrupted(state, run, check, at_least))
        try:
            new = await self._newest(state, run, check, at_least)
        except (LinkDown, CorruptState):
            if old is None:
                raise
            return old

        def choose() -> tuple[SnapshotPointer, SnapshotManifest]:
            if old is not None and self._left(old[1]) < self._left(new[1]):
                return old
            self._disk.replace(FETCHING, msgspec.json.encode(new[0]))
            return new

        return await self._workers.run(choose)

    def _interrupted(
        self, state: OuterState, run: str, check: Check, at_least: int
    ) -> tuple[SnapshotPointer, SnapshotManifest] | None:
        raw = self._disk.read(FETCHING)
        if raw is None:
            return None
        try:
            pointer = msgspec.json.decode(raw, type=SnapshotPointer)
            manifest = self._read(pointer, state, run, check)
        except (msgspec.DecodeError, ValueError, CorruptState, StorageError):
            return None  # a newer one replaces it
        if manifest is None or pointer.next_round < at_least:
            return None
        return pointer, manifest

    def _forget_interrupted(self) -> None:
        self._disk.remove(FETCHING)

    async def _newest(
        self, state: OuterState, run: str, check: Check, at_least: int
    ) -> tuple[SnapshotPointer, SnapshotManifest]:
        offers = await self._offers()
        failure: Exception = LinkDown(_nothing_offered(len(offers), at_least))
        new_enough = [(d, o) for d, o in offers.items() if o.next_round >= at_least]
        for donor, offer in sorted(new_enough, key=lambda pair: -pair[1].next_round):
            name = Hash(offer.manifest)
            others = [d for d in self._donors() if d != donor]
            try:
                data = await self._exchange.fetch([donor, *others], name, offer.manifest_bytes)
                manifest = await self._workers.run(partial(_checked, data, state, run, check))
            except (LinkDown, CorruptState) as error:
                failure = error
                continue
            await self._workers.run(partial(self._blobs.put, data))
            pointer = SnapshotPointer(
                manifest=name.hex(), n_bytes=len(data), next_round=manifest.next_round
            )
            return pointer, manifest
        raise failure

    async def _offers(self) -> dict[str, CatalogueReply]:
        """What donors have, by donor: all who answer soon after the first one."""
        donors = self._donors()
        found: dict[str, CatalogueReply] = {}
        first = asyncio.Event()

        async def ask(donor: str) -> None:
            with contextlib.suppress(LinkDown):
                reply = await self._exchange.catalogue(donor)
                if reply.manifest:
                    found[donor] = reply
                    first.set()

        async def ask_all() -> None:
            async with asyncio.TaskGroup() as group:
                for donor in donors:
                    group.create_task(ask(donor))

        async def long_enough() -> None:
            await first.wait()
            await asyncio.sleep(OFFERS_S)

        await first_ended(ask_all(), long_enough())
        return {d: found[d] for d in donors if d in found}

    # ---- chunks ----------------------------------------------------------------------------

    def _missing(self, manifest: SnapshotManifest) -> tuple[list[Item], int]:
        """(chunks to fetch, bytes that are here already)."""
        items: dict[bytes, Item] = {}
        for name, n_bytes in chunks_of(manifest).items():
            items[name] = Item(name, n_bytes, f"chunk {len(items)}")
        missing = [i for i in items.values() if not self._blobs.has(i.name)]
        here = sum(i.n_bytes for i in items.values()) - sum(i.n_bytes for i in missing)
        return missing, here

    def _left(self, manifest: SnapshotManifest) -> int:
        return sum(item.n_bytes for item in self._missing(manifest)[0])

    async def _keep(self, item: Item, data: bytes) -> bool:
        def work() -> bool:
            if digest(data) != item.name:
                return False
            self._blobs.put(data)
            return True

        return await self._workers.run(work)

    def _drop_damaged(self, manifest: SnapshotManifest) -> None:
        """A chunk on this disk is not what its name says: the next try fetches it."""
        for name in chunks_of(manifest):
            data = self._blobs.get(name)
            if data is not None and digest(data) != name:
                self._blobs.drop(name)


class _Show:
    """Turns a download's progress into events, about two in a second."""

    def __init__(self, emit: Emit, clock: Clock, here: int, total: int) -> None:
        self._emit = emit
        self._clock = clock
        self._here = here
        self._total = total
        self._last_s = clock.now()
        self._marks: list[tuple[float, int]] = [(clock.now(), 0)]

    def see(self, progress: DownloadProgress) -> None:
        now_s = self._clock.now()
        if now_s - self._last_s < PROGRESS_S:
            return
        self._last_s = now_s
        moved = progress.bytes + progress.partial
        self._marks.append((now_s, moved))
        while len(self._marks) > 2 and self._marks[0][0] < now_s - RATE_S:
            self._marks.pop(0)
        (from_s, before), here = self._marks[0], self._here + moved
        rate = max(0.0, (moved - before) / (now_s - from_s))
        self._emit(
            StateProgress(
                here=here,
                total=self._total,
                bytes_per_s=rate,
                eta_s=(self._total - here) / rate if rate else -1.0,
                sources=progress.active,
            )
        )


def _nothing_offered(offers: int, at_least: int) -> str:
    if offers:
        return f"the snapshots that are offered end before round {at_least}"
    return "no donor offers a snapshot"


def _checked(data: bytes, state: OuterState, run: str, check: Check) -> SnapshotManifest:
    """Raises CorruptState."""
    manifest = decode_manifest(data, run)
    check(state, manifest)
    return manifest


def install(state: OuterState, manifest: SnapshotManifest, blobs: BlobStore) -> None:
    """Every fragment of a snapshot into the state. Raises CorruptState, StorageError."""
    for _ in installing(state, manifest, blobs):
        pass


def installing(
    state: OuterState, manifest: SnapshotManifest, blobs: BlobStore
) -> Iterator[Literal[True]]:
    """`install`, with a yield after every chunk: none but the present one is held in memory."""
    for index, version in enumerate(manifest.fragments):
        if version.elements != state.elements(index):
            raise CorruptState(f"fragment {index} has another size than the layout says")
        leaves = [Hash(bytes.fromhex(leaf)) for leaf in version.leaves]
        for at, leaf in enumerate(leaves):
            data = read_chunk(version, at, blobs.get)
            if digest(data) != leaf:
                raise CorruptState(f"fragment {index} does not match its manifest")
            vector_N, ranges = state.chunk(index, at)
            scatter(np.frombuffer(data, np.float32), vector_N, ranges)
            yield True
        state.note(index, leaves)
        state.rounds[index] = version.round
    hit("state.installed")
    state.next_round = manifest.next_round
