"""What a source holds, and whether it is whole: for `farflung snapshots`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from farflung.archive.history import CommitAt, History, state_bytes
from farflung.archive.index import RESULTS, blob_name
from farflung.archive.source import JOURNAL, SnapshotPlace, SnapshotSource, hash_of
from farflung.checkpoint.snapshot import SnapshotManifest, chunks_of, decode_manifest
from farflung.clock import Workers
from farflung.disk import MemoryDisk
from farflung.errors import CorruptState
from farflung.hashing import digest
from farflung.swarm.identity import verify_record
from farflung.swarm.journal import Journal
from farflung.swarm.replay import genesis_spec

OnBytes = Callable[[int, int], None]
"""(bytes read, bytes in all)."""


@dataclass(frozen=True, kw_only=True)
class SnapshotRow:
    """One line of the list."""

    place: SnapshotPlace
    n_bytes: int = 0
    tokens: int = 0
    damage: str = ""
    """What is missing or wrong; empty: nothing that was looked at."""
    reaches: int = -1
    """The round up to which the results after it lead; -1: not looked for."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """A source's snapshots, oldest first."""

    address: str
    run: str
    run_name: str
    records: int
    rows: list[SnapshotRow] = field(default_factory=list)
    checked_bytes: int = 0


async def read_history(source: SnapshotSource, workers: Workers) -> History:
    """The source's journal, every record checked, in memory. Raises CorruptState, StoreError."""
    data = await source.journal()

    def read() -> History:
        disk = MemoryDisk({JOURNAL: data})
        history = History(Journal.open(disk, JOURNAL, verifier=verify_record, sign=None))
        history.read()
        return history

    try:
        return await workers.run(read)
    except CorruptState as error:
        raise CorruptState(f"{source.address}: {error}") from None


async def survey(
    source: SnapshotSource,
    workers: Workers,
    *,
    verify: bool = False,
    on_bytes: OnBytes | None = None,
) -> Survey:
    """List the snapshots: every chunk must be there with its size; `verify`: with its hash, and
    every result that leads on from the newest one. Raises StoreError, CorruptState (the journal).
    """
    history = await read_history(source, workers)
    check = _Check(source, history, workers, on_bytes or (lambda _here, _total: None))
    rows = [await check.row(place) for place in await source.snapshots()]
    if verify:
        check.total = sum(row.n_bytes for row in rows)
        rows = [await check.hashes(row) for row in rows]
    rows = [*rows[:-1], *[await check.reach(row, verify=verify) for row in rows[-1:]]]
    return Survey(
        address=source.address,
        run=history.genesis.run,
        run_name=genesis_spec(history.genesis).name,
        records=history.journal.length,
        rows=rows,
        checked_bytes=check.read_bytes,
    )


class _Check:
    """Looks at one source's snapshots; a chunk that several share is read once."""

    def __init__(
        self, source: SnapshotSource, history: History, workers: Workers, on_bytes: OnBytes
    ) -> None:
        self._source = source
        self._history = history
        self._run = workers.run
        self._on_bytes = on_bytes
        self._good: set[bytes] = set()
        self._manifests: dict[str, SnapshotManifest] = {}
        self.total = 0
        self.read_bytes = 0

    async def row(self, place: SnapshotPlace) -> SnapshotRow:
        tokens = place.tokens
        if tokens < 0:
            tokens = self._history.tokens_before(place.next_round)
        try:
            manifest = await self._manifest(place)
        except CorruptState as error:
            return SnapshotRow(place=place, tokens=tokens, damage=str(error))
        row = SnapshotRow(place=place, n_bytes=state_bytes(manifest), tokens=tokens)
        for name, n_bytes in chunks_of(manifest).items():
            found = await self._source.blob_size(name)
            if found != n_bytes:
                reason = "missing" if found is None else f"{found} of {n_bytes} bytes long"
                return replace(row, damage=f"{self._where(name)} is {reason}")
        return row

    async def _manifest(self, place: SnapshotPlace) -> SnapshotManifest:
        name = hash_of(place.name)
        data = await self._source.blob(name)
        if data is None:
            raise CorruptState(f"{self._where(name)} is missing")
        if digest(data) != name:
            raise CorruptState(f"{self._where(name)} is damaged")
        manifest = decode_manifest(data, self._history.genesis.run)
        await self._run(partial(self._history.check_snapshot, manifest))
        self._manifests[place.name] = manifest
        return manifest

    async def hashes(self, row: SnapshotRow) -> SnapshotRow:
        """The row with the first chunk that is not what its name says."""
        manifest = self._manifests.get(row.place.name)
        if row.damage or manifest is None:
            return row
        for name, n_bytes in chunks_of(manifest).items():
            if name not in self._good:
                damage = await self._damage(name, n_bytes)
                if damage:
                    return replace(row, damage=damage)
                self._good.add(name)
            self._on_bytes(self.read_bytes, self.total)
        return row

    async def _damage(self, name: bytes, n_bytes: int) -> str:
        data = await self._source.blob(name)
        if data is None:
            return f"{self._where(name)} is missing"
        self.read_bytes += len(data)
        same = len(data) == n_bytes and await self._run(lambda: digest(data) == name)
        return "" if same else f"{self._where(name)} is damaged"

    async def reach(self, row: SnapshotRow, *, verify: bool) -> SnapshotRow:
        """How far the results lead that follow the newest snapshot."""
        manifest = self._manifests.get(row.place.name)
        if manifest is None:
            return row
        reached = max(manifest.next_round - 1, -1)
        for commit in self._history.needed_after(manifest):
            if not await self._source.has_result(commit.bytes_root):
                break
            damage = await self._result_damage(commit) if verify else ""
            if damage:
                return replace(row, reaches=reached, damage=row.damage or damage)
            reached = commit.round
        return replace(row, reaches=reached)

    async def _result_damage(self, commit: CommitAt) -> str:
        where = f"{self._source.address}/{RESULTS}/{commit.bytes_root.hex()}"
        data = await self._source.result(commit.bytes_root)
        if data is None:
            return f"{where} is missing"
        self.read_bytes += len(data)
        try:
            await self._run(partial(self._history.check_result, commit, data))
        except CorruptState as error:
            return f"{where} is damaged: {error}"
        return ""

    def _where(self, name: bytes) -> str:
        return f"{self._source.address}/{blob_name(name)}"
