"""Rows for a training loop, by long reads, ahead of need.

A chunk is read once, checked, kept in memory while its window lasts, and serves all rows of the
window. Threads read ahead of what `expect` announced, so that the optimizer finds its rows in
memory. A chunk may lie in its whole token file, or by itself in the cache of the node; where it is
in neither, the node's agent is told (`Wanted`), and whoever needs it waits.

Threads: `gather` and `expect` belong to one caller; everything shared is under `_lock`.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from farflung.data.chunk_cache import CHUNKS, ChunkCache
from farflung.data.chunks import ChunkId, SourceChunks
from farflung.data.wanted import WANTED, Wanted, write_wanted
from farflung.disk import storage_errors
from farflung.errors import CorruptState, FarflungError
from farflung.hashing import digest

READERS = 4
"""Threads: one read at a time leaves a disk idle while its bytes are checked."""
POLL_S = 0.02
"""Between two looks for a chunk that somebody fetches."""
ASK_AGAIN_S = 2.0
LEAST_MEMORY = 64 << 20
MOST_MEMORY = 1 << 30

Place = tuple[int, int]
"""(source, row)."""
ChunkRows = npt.NDArray[Any]
"""uint16 or uint32 [rows of the chunk, T + 1]"""
Alive = Callable[[], None]
"""Raises when nobody will fetch what is missing."""


def nobody_fetches() -> None:
    """For programs that run without an agent: all data must be here."""
    raise CorruptState("it is not on this machine, and no agent runs that would fetch it")


class RowReader:
    """Reads training rows of all sources of a run."""

    def __init__(
        self,
        data_folder: Path,
        sources: Sequence[SourceChunks],
        *,
        window_blocks: int,
        alive: Alive = nobody_fetches,
    ) -> None:
        """`data_folder`: of the node; cache and wishes lie beside it."""
        self._sources = sources
        self._seq_len = sources[0].manifest.seq_len
        self._cache = ChunkCache(data_folder.with_name(CHUNKS))
        self._wanted_path = data_folder.with_name(WANTED)
        self._alive = alive
        if alive is not nobody_fetches:
            self._wanted_path.unlink(missing_ok=True)  # of a trainer before this one
        largest = max(s.chunk_bytes for s in sources)
        two_windows = 2 * window_blocks * largest * len(sources)
        self._memory = min(max(LEAST_MEMORY, two_windows), MOST_MEMORY)
        self._ahead = max(1, self._memory // largest // 2)
        """Rows that may be read ahead: even if each needs a chunk of its own, all stay."""
        self._lock = threading.Condition()
        self._chunks: OrderedDict[ChunkId, ChunkRows] = OrderedDict()
        """Oldest use first."""
        self._held = 0
        self._reading: set[ChunkId] = set()
        self._expected: Sequence[Place] = ()
        self._fresh = False
        """Nobody has looked yet what of the expected is missing."""
        self._done = 0
        """Expected places that were gathered."""
        self._looked = 0
        """All expected places below it are in memory, or were when a thread looked."""
        self._names: dict[int, ChunkId] = {}
        """Of the places from there on that were looked at."""
        self._absent: dict[ChunkId, float] = {}
        """Not here when a thread last looked, and when that was."""
        self._asking = threading.Lock()
        self._complete = False
        """All token files are here."""
        self._threads: list[threading.Thread] = []
        self._closed = False
        self._asked = Wanted()
        self.reads = 0
        """Chunks read so far, from disk or cache."""

    # ---- for the training loop -------------------------------------------------------------

    def expect(self, places: Sequence[Place]) -> None:
        """What will be gathered next, in order: it is read ahead from now on."""
        with self._lock:
            self._expected, self._done, self._fresh = places, 0, True
            self._looked = 0
            self._names.clear()
            self._lock.notify_all()
        while places and len(self._threads) < READERS:
            self._threads.append(
                threading.Thread(target=self._read_ahead, name="rows", daemon=True)
            )
            self._threads[-1].start()

    def gather(self, places: Sequence[Place]) -> npt.NDArray[np.int64]:
        """int64 [N, T + 1], in the order asked for. Waits for chunks that are fetched.

        Raises CorruptState when a chunk is not here and nobody fetches it, StorageError.
        """
        out = np.empty((len(places), self._seq_len + 1), np.int64)
        for i, (source, row) in enumerate(places):
            shard, number, local = self._sources[source].find(row)
            out[i] = self._chunk(ChunkId(source, shard, number))[local]
        with self._lock:
            self._done += len(places)
            self._lock.notify_all()
        return out

    def close(self) -> None:
        """End the threads."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        for thread in self._threads:
            thread.join()

    # ---- chunks ----------------------------------------------------------------------------

    def _chunk(self, name: ChunkId) -> ChunkRows:
        """From memory, or read now."""
        while True:
            with self._lock:
                while name in self._reading:
                    self._lock.wait()
                if name in self._chunks:
                    self._chunks.move_to_end(name)
                    return self._chunks[name]
                self._reading.add(name)
            rows = self._read_for(name)
            if rows is not None:
                return rows
            self._wait_for(name)

    def _read_for(self, name: ChunkId) -> ChunkRows | None:
        """Read a chunk that this thread has entered in `_reading`; None: it is not here."""
        rows: ChunkRows | None = None
        try:
            rows = self._load(name)
        finally:
            with self._lock:
                self._reading.discard(name)
                if rows is not None:
                    self._keep(name, rows)
                self._lock.notify_all()
        return rows

    def _keep(self, name: ChunkId, rows: ChunkRows) -> None:
        self.reads += 1
        self._chunks[name] = rows
        self._held += rows.nbytes
        while self._held > self._memory and len(self._chunks) > 1:
            _, old = self._chunks.popitem(last=False)
            self._held -= old.nbytes

    def _load(self, name: ChunkId) -> ChunkRows | None:
        """Its checked bytes, from the whole file or from the cache."""
        source = self._sources[name.source]
        expected = source.hash(name.shard, name.number)
        data = self._from_file(name)
        if data is None or digest(data) != expected:
            data = self._cache.get(expected)
        if data is None:
            return None
        dtype = np.dtype(source.manifest.dtype).newbyteorder("<")
        return np.frombuffer(data, dtype).reshape(-1, self._seq_len + 1)

    def _from_file(self, name: ChunkId) -> bytes | None:
        """One long read; None when the file is not here."""
        source = self._sources[name.source]
        path = source.path(name.shard)
        offset, n_bytes = source.extent(name.shard, name.number)
        with storage_errors(path):
            try:
                with path.open("rb", buffering=0) as file:
                    file.seek(offset)
                    return file.read(n_bytes)
            except FileNotFoundError:
                return None

    # ---- what is missing -------------------------------------------------------------------

    def _lacking(self, places: Sequence[Place]) -> Wanted:
        """By a look at the names only: what is here and damaged is found when it is read."""
        if self._complete or all(
            s.path(i).exists() for s in self._sources for i in range(len(s.manifest.train))
        ):
            self._complete = True
            return Wanted()
        kept = dict.fromkeys(self._name(place) for place in places)
        whole: dict[tuple[int, int], bool] = {}
        missing = []
        for name in kept:
            source, file = self._sources[name.source], (name.source, name.shard)
            if file not in whole:
                whole[file] = source.path(name.shard).exists()
            if whole[file] or name in self._chunks:
                continue
            if not self._cache.has(source.hash(name.shard, name.number)):
                missing.append(name)
        return Wanted(missing=tuple(missing), kept=tuple(kept))

    def _name(self, place: Place) -> ChunkId:
        shard, number, _ = self._sources[place[0]].find(place[1])
        return ChunkId(place[0], shard, number)

    def _ask(self, lacking: Wanted, *, waiting: bool) -> None:
        wanted = Wanted(missing=lacking.missing, kept=lacking.kept, waiting=waiting)
        with self._asking:
            if not wanted.missing and not self._asked.missing:
                return  # everything is here, and nobody was told otherwise
            write_wanted(self._wanted_path, wanted)
            self._asked = wanted

    def _wait_for(self, name: ChunkId) -> None:
        """Until a chunk that could not be read is in the cache. Raises CorruptState."""
        source = self._sources[name.source]
        expected = source.hash(name.shard, name.number)
        with self._lock:
            left = self._expected[self._done :]
        lacking = self._lacking(left)
        missing = dict.fromkeys((name, *lacking.missing))  # it too, if it is here and damaged
        kept = dict.fromkeys((name, *lacking.kept))
        asked_s = -ASK_AGAIN_S
        while not self._cache.has(expected) and not self._repaired(name):
            if time.monotonic() - asked_s >= ASK_AGAIN_S:  # another rank may have asked since
                self._ask(Wanted(missing=tuple(missing), kept=tuple(kept)), waiting=True)
                asked_s = time.monotonic()
            try:
                self._alive()
            except CorruptState as error:
                raise CorruptState(f"{source.label(name.shard, name.number)}: {error}") from None
            time.sleep(POLL_S)
        self._ask(self._lacking(left), waiting=False)

    def _repaired(self, name: ChunkId) -> bool:
        """The whole file has come meanwhile."""
        data = self._from_file(name)
        source = self._sources[name.source]
        return data is not None and digest(data) == source.hash(name.shard, name.number)

    # ---- the threads -----------------------------------------------------------------------

    def _read_ahead(self) -> None:
        """Read what comes next while it stays close to what was gathered. What is missing or
        fails is left to `gather`, which waits or raises where somebody listens."""
        while (name := self._next_ahead()) is not None:
            rows: ChunkRows | None = None
            with contextlib.suppress(FarflungError, OSError):
                rows = self._read_for(name)
            if rows is None:
                with self._lock:
                    self._absent[name] = time.monotonic()

    def _next_ahead(self) -> ChunkId | None:
        """The next chunk that is not in memory; entered in `_reading`. None: closed."""
        while True:
            with self._lock:
                if self._closed:
                    return None
                places, fresh, self._fresh = self._expected, self._fresh, False
                if fresh:
                    self._absent.clear()
                name = self._coming()
                if name is not None:
                    self._reading.add(name)
                elif not fresh:
                    self._lock.wait(10 * POLL_S if self._absent else None)
            if fresh:
                with contextlib.suppress(FarflungError):
                    self._ask(self._lacking(places), waiting=False)
            if name is not None:
                return name

    def _coming(self) -> ChunkId | None:
        """The first chunk of the coming rows that is neither in memory nor being read."""
        now_s = time.monotonic()
        last = min(len(self._expected), self._done + self._ahead)
        self._looked = max(self._looked, self._done)
        for index in range(self._looked, last):
            name = self._names.get(index) or self._names.setdefault(
                index, self._name(self._expected[index])
            )
            if name in self._chunks:
                if index == self._looked:
                    self._looked += 1
                    self._names.pop(index)
                continue
            lately = now_s - self._absent.get(name, -1.0) < 5 * POLL_S
            if name not in self._reading and not lately:
                return name
        return None
