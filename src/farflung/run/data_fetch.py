"""What a trainer needs of the run's data, from whoever has it, checked by hash.

`provide` fetches manifests, tokenizers and the hashes of chunks, and a run may start. `serve` goes
on beside it: first the chunks that the trainer says it lacks (data/wanted.py), then the rest. Of a
source that nodes hold everything is fetched, so that this node can serve it too; of one in a store
only what is trained, into a bounded cache. A program of its own maps whole files: for it everything
is fetched first.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from blake3 import blake3

from farflung.config.run import is_remote
from farflung.data.chunk_cache import CHUNKS, ChunkCache
from farflung.data.chunks import ChunkId, SourceChunks
from farflung.data.manifest import MANIFEST_FILE, File, decode_manifest
from farflung.data.shards import blobs, source_folders
from farflung.data.wanted import WANTED, Wanted, read_wanted
from farflung.disk import storage_errors
from farflung.errors import CorruptState, LinkDown, StorageError
from farflung.events import FetchDelayed
from farflung.hashing import digest
from farflung.ids import Hash
from farflung.peer.bootstrap import GRACE_S
from farflung.peer.node import LocalNode
from farflung.peer.patience import Patience
from farflung.run.data_origin import NodesOrigin, Origin, StoreOrigin, read_any
from farflung.run.host_data import forget_broken_link
from farflung.swarm.records import DataPart, Genesis
from farflung.tasks import first_ended
from farflung.transfer.download_plan import PIECE_BYTES

RETRY_S = 0.5
MOST_RETRY_S = 8.0
LOOK_S = 0.1
"""Between two looks at what the trainer wants."""
DISK_S = 5.0
SHOW_S = 10.0
"""Between two figures of a download beside training."""
READ_AHEAD = 8
"""Pieces of a file, or chunks, that are asked at a time."""
CACHE_BYTES = 20 << 30
CACHE_SHARE = 0.25
"""Of the free disk: the cache's limit unless a smaller one is given."""

OnBytes = Callable[[int, int], None]
"""(bytes here, bytes in all)."""


@dataclass(frozen=True, kw_only=True)
class _Source:
    name: str
    chunks: SourceChunks
    origins: tuple[Origin, ...]
    """The nearest first."""
    wholly: bool
    """Token files are fetched as files, and served to others."""
    linked: bool
    """Its files are this machine's own, and not this node's to change."""


class DataFetch:
    """The data of one run in a folder of this node; fetched once, resumed, checked."""

    def __init__(
        self, folder: Path, on_bytes: OnBytes | None = None, *, cache_bytes: int = 0
    ) -> None:
        """`cache_bytes`: limit of the cache of chunks; 0: a share of the free disk."""
        self.folder = folder
        self.waiting = False
        """The trainer stands still because of missing data."""
        self.own_bytes = 0
        """Of the files that are this node's when everything is here; the cache has its own limit.
        """
        self._on_bytes = on_bytes
        self._cache_bytes = cache_bytes
        self._sources: list[_Source] = []
        self._complete = False
        """All that belongs here is here."""
        self._idle = asyncio.Event()
        self._idle.set()
        self._here = self._total = 0
        self._patience: dict[str, Patience] = {}
        self._started = False
        """A trainer runs beside the fetching."""
        self._shown_s = 0.0

    # ---- before the first round ------------------------------------------------------------

    async def provide(self, node: LocalNode, genesis: Genesis) -> None:
        """Return when a run can start. Tries until somebody delivers.

        Raises StorageError when the disk refuses, ConfigError without a library that it takes.
        """
        if not any(part.manifest for part in genesis.data):
            return
        with storage_errors(self.folder):
            forget_broken_link(self.folder)
            folders = source_folders(self.folder, node.follower.spec.data)
            self._sources = [
                await self._source(node, number, part, folder)
                for number, (part, folder) in enumerate(zip(genesis.data, folders, strict=True))
            ]
            self._total = sum(_bytes_of(source) for source in self._sources)
            self.own_bytes = sum(_bytes_of(s) for s in self._sources if not s.linked)
            for source in self._sources:
                for file in _small_files(source):
                    await self._file(node, source, file)
            self._serve_files(node)
            # Wishes of a trainer that ended; a new one says itself what it lacks.
            self.folder.with_name(WANTED).unlink(missing_ok=True)
            if node.follower.spec.model.program:
                await self._rest(node)

    async def _source(self, node: LocalNode, number: int, part: DataPart, folder: Path) -> _Source:
        """Its manifest, and where its files will come from."""
        address = node.follower.spec.data.parts[number].source
        nodes = NodesOrigin(node)
        linked = _link_local(address, folder, Hash(part.manifest))
        folder.mkdir(parents=True, exist_ok=True)
        manifest = self._own_manifest(folder, Hash(part.manifest))
        if manifest is None:
            manifest = await self._blob(node, Hash(part.manifest), part.manifest_bytes)
            (folder / MANIFEST_FILE).write_bytes(manifest)
        remote = is_remote(address)
        return _Source(
            name=part.name,
            chunks=SourceChunks(folder, decode_manifest(manifest)),
            origins=(StoreOrigin(address), nodes) if remote else (nodes,),
            linked=linked,
            wholly=not linked and (not remote or bool(node.follower.spec.model.program)),
        )

    def _own_manifest(self, folder: Path, name: Hash) -> bytes | None:
        """A node that has fetched everything before needs nobody to go on."""
        path = folder / MANIFEST_FILE
        manifest = path.read_bytes() if path.exists() else b""
        return manifest if digest(manifest) == name else None

    async def _blob(self, node: LocalNode, name: Hash, n_bytes: int) -> bytes:
        while True:
            try:
                return await node.mesh.blobs.fetch(node.donors(), name, n_bytes)
            except (LinkDown, CorruptState) as error:
                unheard = "manifest" if isinstance(error, LinkDown) else ""
                self._complain(node, "the data manifest", str(error), unheard)
                await asyncio.sleep(RETRY_S)

    def _serve_files(self, node: LocalNode) -> None:
        """What is whole here can be had from this node."""
        for source in self._sources:
            for name, path in blobs(source.chunks.folder).items():
                node.follower.blobs.add_file(name, path)

    # ---- beside the rounds -----------------------------------------------------------------

    async def serve(self, node: LocalNode) -> None:
        """What the trainer wants, then the rest; until cancelled. After `provide`."""
        if not self._sources:
            return
        self._started = True
        limit = self._cache_bytes or _default_cache(self.folder)
        cache = ChunkCache(self.folder.with_name(CHUNKS), limit)
        await first_ended(
            self._patiently(node, partial(self._wishes, node, cache)),
            self._patiently(node, partial(self._rest_and_wait, node, cache)),
        )

    async def _patiently(self, node: LocalNode, work: Callable[[], Awaitable[None]]) -> None:
        """A full disk delays the data; it ends nothing."""
        while True:
            try:
                return await work()
            except StorageError as error:
                self._complain(node, "the run's data", str(error))
                await asyncio.sleep(DISK_S)

    async def _wishes(self, node: LocalNode, cache: ChunkCache) -> None:
        path = self.folder.with_name(WANTED)
        seen = 0
        while True:
            changed = _changed_ns(path)
            if changed != seen:
                seen = changed
                wanted = await node.world.workers.run(partial(read_wanted, path))
                self.waiting = wanted.waiting
                await self._fetch_wanted(node, cache, wanted, path, seen)
            await asyncio.sleep(LOOK_S)

    async def _fetch_wanted(
        self, node: LocalNode, cache: ChunkCache, wanted: Wanted, path: Path, seen: int
    ) -> None:
        """In order, some at a time; what is wanted may change meanwhile."""
        keep = {h for name in wanted.kept if (h := self._hash(name)) is not None}
        self._idle.clear()
        try:
            for first in range(0, len(wanted.missing), READ_AHEAD):
                names = wanted.missing[first : first + READ_AHEAD]
                await asyncio.gather(*(self._wish(node, cache, name, keep) for name in names))
                if _changed_ns(path) != seen:
                    return
        finally:
            self._idle.set()

    def _hash(self, name: ChunkId) -> Hash | None:
        """None for a chunk that no source has."""
        if not 0 <= name.source < len(self._sources):
            return None
        chunks = self._sources[name.source].chunks
        known = 0 <= name.shard < len(chunks.manifest.train) and (
            0 <= name.number < chunks.count(name.shard)
        )
        return chunks.hash(name.shard, name.number) if known else None

    async def _wish(
        self, node: LocalNode, cache: ChunkCache, name: ChunkId, keep: set[Hash]
    ) -> None:
        expected = self._hash(name)
        if expected is None or cache.has(expected):
            return
        data = await self._chunk(node, self._sources[name.source], name.shard, name.number)
        await node.world.workers.run(partial(cache.put, expected, data, keep))

    async def _rest_and_wait(self, node: LocalNode, cache: ChunkCache) -> None:
        if not self._complete:
            await self._rest(node, cache)
        await asyncio.Event().wait()

    async def _rest(self, node: LocalNode, cache: ChunkCache | None = None) -> None:
        """All files that belong here, one after the other; what the trainer wants goes first."""
        self._here = 0
        for source in self._sources:
            for file in _all_files(source):
                await self._file(node, source, file)
                self._here += file.n_bytes
            if source.wholly:
                for number in range(len(source.chunks.manifest.train)):
                    await self._shard(node, source, number, cache)
                    self._here += source.chunks.shard(number).tokens.n_bytes
            self._serve_files(node)
        self._complete = True
        if cache is not None and all(source.wholly for source in self._sources):
            await node.world.workers.run(cache.clear)

    # ---- chunks ----------------------------------------------------------------------------

    async def _chunk(self, node: LocalNode, source: _Source, shard: int, number: int) -> bytes:
        """Checked bytes. Tries until somebody delivers them."""
        chunks = source.chunks
        expected, extent = chunks.hash(shard, number), chunks.extent(shard, number)
        file, what = chunks.shard(shard).tokens, f"{source.name}: {chunks.label(shard, number)}"
        delay_s, origins = RETRY_S, source.origins
        while True:
            try:
                data = await read_any(origins, file, extent.offset, extent.n_bytes)
                if digest(data) == expected:
                    return data
                self._complain(node, what, f"it came damaged from {origins[0].name}")
            except LinkDown as error:
                self._complain(node, what, str(error), unheard=source.name)
            origins = (*origins[1:], origins[0])  # perhaps another has it intact
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, MOST_RETRY_S)

    async def _shard(
        self, node: LocalNode, source: _Source, shard: int, cache: ChunkCache | None
    ) -> None:
        """One token file, chunk by chunk; a part that is already here is kept."""
        path, file = source.chunks.path(shard), source.chunks.shard(shard).tokens
        if await self._intact(node, source, path, file):
            return
        part = path.with_name(f"{path.name}.part")
        count, size = source.chunks.count(shard), source.chunks.chunk_bytes
        while True:
            done = part.stat().st_size // size if part.exists() else 0
            part.touch()
            os.truncate(part, done * size)  # a torn chunk, or one that the last write cut
            for first in range(done, count, READ_AHEAD):
                await self._idle.wait()
                numbers = range(first, min(first + READ_AHEAD, count))
                pieces = await asyncio.gather(
                    *(self._cached(node, source, shard, n, cache) for n in numbers)
                )
                await node.world.workers.run(partial(_append, part, pieces))
                self._progress(part.stat().st_size)
            if await node.world.workers.run(lambda: _hash_file(part)) == file.digest:
                await node.world.workers.run(lambda: _put(part, path))
                return
            self._complain(node, f"{source.name}: {path.name}", "the disk changed it")
            part.unlink()

    async def _cached(
        self, node: LocalNode, source: _Source, shard: int, number: int, cache: ChunkCache | None
    ) -> bytes:
        """From the cache if it was wanted before."""
        expected = source.chunks.hash(shard, number)
        if cache is not None and cache.has(expected):
            data = await node.world.workers.run(partial(cache.get, expected))
            if data is not None:
                return data
        return await self._chunk(node, source, shard, number)

    # ---- other files -----------------------------------------------------------------------

    async def _file(self, node: LocalNode, source: _Source, file: File) -> None:
        """A file without chunks; a part that is already here is kept."""
        path = source.chunks.folder / file.file
        if await self._intact(node, source, path, file):
            return
        part = path.with_name(f"{path.name}.part")
        delay_s = RETRY_S
        while True:
            try:
                await self._pieces(node, source, file, part)
                if await node.world.workers.run(lambda: _hash_file(part)) == file.digest:
                    await node.world.workers.run(lambda: _put(part, path))
                    return
                self._complain(node, f"{source.name}: {path.name}", "it came damaged")
                part.unlink()
            except LinkDown as error:
                self._complain(node, f"{source.name}: {path.name}", str(error), unheard=source.name)
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, MOST_RETRY_S)

    async def _pieces(self, node: LocalNode, source: _Source, file: File, part: Path) -> None:
        part.touch()
        offset = part.stat().st_size
        while offset < file.n_bytes:
            starts = range(offset, file.n_bytes, PIECE_BYTES)[:READ_AHEAD]
            pieces = await asyncio.gather(
                *(
                    read_any(source.origins, file, at, min(PIECE_BYTES, file.n_bytes - at))
                    for at in starts
                )
            )
            await node.world.workers.run(partial(_append, part, pieces))
            offset += sum(len(p) for p in pieces)
            self._progress(offset)

    async def _intact(self, node: LocalNode, source: _Source, path: Path, file: File) -> bool:
        """It is here. A damaged one is removed: nobody may read or serve it.

        Raises CorruptState for a damaged file that is not this node's own.
        """
        whole = path.exists() and path.stat().st_size == file.n_bytes
        if whole and await node.world.workers.run(lambda: _hash_file(path)) == file.digest:
            return True
        if source.linked:
            raise CorruptState(f"{path} is damaged or missing; restore it, or remove its folder")
        if path.exists():
            self._complain(node, str(path), "it is damaged")
            path.unlink()
        return False

    def _progress(self, of_this: int) -> None:
        """Beside training now and then only: the rounds have the screen."""
        now_s = time.monotonic()
        if self._on_bytes is not None and (not self._started or now_s - self._shown_s >= SHOW_S):
            self._shown_s = now_s
            self._on_bytes(self._here + of_this, self._total)

    def _complain(self, node: LocalNode, what: str, reason: str, unheard: str = "") -> None:
        """Not again and again. `unheard`: a source that cannot be reached, perhaps because this
        node has just come; its many chunks are one trouble. Else bad bytes, told at once."""
        key = unheard or what
        if key not in self._patience:
            self._patience[key] = Patience(node.world.clock, grace_s=GRACE_S)
        if self._patience[key].failed(told_at_once=not unheard):
            node.world.emit(FetchDelayed(what=what, reason=reason))


def _small_files(source: _Source) -> Iterable[File]:
    """What every node needs before anything can be read and checked."""
    manifest = source.chunks.manifest
    return [
        *([manifest.tokenizer] if manifest.tokenizer else []),
        *(shard.chunks for shard in (*manifest.train, *manifest.held_out)),
    ]


def _all_files(source: _Source) -> Iterable[File]:
    """What belongs on this node besides token files for training."""
    manifest = source.chunks.manifest
    held_out = [f for s in manifest.held_out for f in (s.tokens, s.lengths)]
    lengths = [s.lengths for s in manifest.train] if source.wholly else []
    return [*_small_files(source), *held_out, *lengths]


def _bytes_of(source: _Source) -> int:
    tokens = sum(s.tokens.n_bytes for s in source.chunks.manifest.train) if source.wholly else 0
    return tokens + sum(file.n_bytes for file in _all_files(source))


def _link_local(address: str, folder: Path, manifest: Hash) -> bool:
    """Use the spec's folder itself where this machine has it: a disk that several share.

    True when `folder` is such a link, whose files are not this node's to change.
    """
    if folder.is_symlink():
        return True
    there = Path(address)
    path = there / MANIFEST_FILE
    if is_remote(address) or folder.exists() or not path.is_file():
        return False
    if digest(path.read_bytes()) != manifest:
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.symlink_to(there.resolve(), target_is_directory=True)
    return True


def _default_cache(folder: Path) -> int:
    return min(CACHE_BYTES, int(CACHE_SHARE * shutil.disk_usage(folder).free))


def _changed_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _append(path: Path, pieces: list[bytes]) -> None:
    with storage_errors(path), path.open("ab") as file:
        file.writelines(pieces)


def _put(part: Path, path: Path) -> None:
    """Durably: after a power cut the file is whole or not there."""
    with storage_errors(path):
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)


def _hash_file(path: Path) -> Hash:
    hasher = blake3()
    with storage_errors(path), path.open("rb") as file:
        while block := file.read(1 << 20):
            hasher.update(block)
    return Hash(hasher.digest())
