"""Writes a state to the disk chunk by chunk, while commits go on changing it.

One fragment after the other, in the order in which coming rounds will change them: on a disk that
writes a fragment in less than a round, no commit ever meets the fragment that is being written. One
that does first copies what is not written yet, in the pool: so a snapshot holds a part of one
fragment at most, and a commit never waits for the disk. A fragment that a commit changes before its
turn is written as that commit left it (checkpoint/snapshot.py says what that means for replay).
"""

from __future__ import annotations

import threading

import numpy as np

from farflung.checkpoint.blob_store import BlobStore
from farflung.checkpoint.snapshot import FragmentVersion, version_of
from farflung.clock import Workers
from farflung.errors import StorageError
from farflung.outer.fragments import gather, size
from farflung.peer.follower import Follower
from farflung.peer.outer_state import Float32, OuterState


class SnapshotGone(StorageError):
    """The state that was being written is not of use any more."""


class Capture:
    """One fragment in the version that it had when this was made; chunk by chunk, each once.

    Made by the loop under `Follower.lock`, so that the version is a committed one. Its methods
    belong to the pool and may meet: `keep` comes from the job of a commit.
    """

    def __init__(self, state: OuterState, fragment: int) -> None:
        self.fragment = fragment
        self.leaves = state.leaves[fragment]
        self.version: FragmentVersion = version_of(
            state.rounds[fragment], state.elements(fragment), self.leaves
        )
        self.gone = False
        """The vectors belong to another state now."""
        self._state = state
        self._lock = threading.Lock()
        self._next = 0
        self._kept: dict[int, Float32] = {}

    @property
    def kept_bytes(self) -> int:
        """What a commit had to copy and the disk has not taken yet."""
        return sum(chunk.nbytes for chunk in self._kept.values())

    def write_next(self, store: BlobStore) -> bool:
        """Store the next chunk that is not stored yet; False when there is none.

        Raises StorageError, SnapshotGone.
        """
        while self._next < len(self.leaves):
            name = self.leaves[self._next]
            if store.has(name):  # it did not change since a former snapshot
                self._skip()
            else:
                store.put_as(name, self._take().view(np.uint8).data)
                return True
        return False

    def keep(self) -> None:
        """The fragment is about to change: copy the chunks that are not written yet."""
        with self._lock:
            for index in range(self._next, len(self.leaves)):
                if index not in self._kept:
                    self._kept[index] = self._copy(index)

    def _skip(self) -> None:
        with self._lock:
            self._kept.pop(self._next, None)
            self._next += 1

    def _take(self) -> Float32:
        """A copy of the next chunk: the disk may be slower than the next commit."""
        with self._lock:
            kept = self._kept.pop(self._next, None)
            chunk = self._copy(self._next) if kept is None else kept
            self._next += 1
        if self.gone:  # looked at after copying: what came before the change is whole
            raise SnapshotGone("its state is replaced")
        return chunk

    def _copy(self, index: int) -> Float32:
        vector_N, ranges = self._state.chunk(self.fragment, index)
        return gather(vector_N, ranges, np.empty(size(ranges), np.float32))


class SnapshotWriter:
    """One snapshot. Owned by the loop, but for `keep`."""

    def __init__(self, follower: Follower, blobs: BlobStore, workers: Workers) -> None:
        self._follower = follower
        self._blobs = blobs
        self._workers = workers
        self._capture: Capture | None = None
        self._gone = False
        self.next_round = 0
        """Replay starts here; known when `write` has begun."""

    async def write(self) -> list[FragmentVersion]:
        """Store the chunks of every fragment. Raises StorageError, SnapshotGone."""
        state = self._follower.state
        count = len(state.fragments)
        async with self._follower.lock:
            self.next_round = state.next_round
        versions: dict[int, FragmentVersion] = {}
        for fragment in ((self.next_round + i) % count for i in range(count)):
            versions[fragment] = await self._write(state, fragment)
        return [versions[fragment] for fragment in range(count)]

    async def _write(self, state: OuterState, fragment: int) -> FragmentVersion:
        async with self._follower.lock:
            if self._gone:
                raise SnapshotGone("its state is replaced")
            capture = self._capture = Capture(state, fragment)
        try:
            while await self._workers.run(lambda: capture.write_next(self._blobs)):
                pass
        finally:
            self._capture = None
        return capture.version

    def keep(self, fragment: int) -> None:
        """In the pool, before a commit changes the fragment, under `Follower.lock`."""
        capture = self._capture
        if capture is not None and capture.fragment == fragment:
            capture.keep()

    def abandon(self) -> None:
        """The state's vectors will hold another state: nothing more of them is written."""
        self._gone = True
        if self._capture is not None:
            self._capture.gone = True
