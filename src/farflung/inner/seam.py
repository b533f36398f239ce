"""The flat vector that agent and trainer share: anchor, departing and landing fragments. No torch.

One block of memory, little-endian, each part on a page of its own:

    versions  uint64[P]              seqlock per fragment: odd while the agent writes it
    anchor    float32[n]             the agent writes, the trainer reads
    sent      float32[slots][m]      local parameters of a departing fragment; trainer to agent
    land      float32[slots][m]      addends of a landing; agent to trainer

m is the size of the largest fragment; a slot is one round in flight. Who may touch a slot when is
said by the messages of inner/channel.py; only the anchor can be read while it is written, hence
its versions. Every message passes through the kernel, which orders the memory of both processes.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from farflung.errors import LinkDown, MismatchError, StorageError

Float32 = npt.NDArray[np.float32]
FragmentRanges = tuple[tuple[tuple[int, int], ...], ...]
"""Per fragment its half-open ranges of the flat vector."""

Pieces = Sequence[tuple[int, int]]
"""[first, stop) inside a fragment's own vector."""

PAGE_BYTES = 4096
READ_S = 10.0
"""How long a reader waits for the agent to finish writing a fragment."""
_PAUSE_S = 0.0005


def fragment_sizes(fragments: FragmentRanges) -> list[int]:
    """Elements of each fragment."""
    return [sum(stop - start for start, stop in ranges) for ranges in fragments]


def freeze(fragments: Sequence[Sequence[tuple[int, int]]]) -> FragmentRanges:
    return tuple(tuple((int(a), int(b)) for a, b in ranges) for ranges in fragments)


class _BlockPlan:
    """Where each part lies in the block, in bytes."""

    def __init__(self, n: int, fragments: FragmentRanges, slots: int) -> None:
        self.slot_elements = max(fragment_sizes(fragments))
        self.versions = 0
        self.anchor = _page(8 * len(fragments))
        self.sent = self.anchor + _page(4 * n)
        self.land = self.sent + _page(4 * slots * self.slot_elements)
        self.total = self.land + _page(4 * slots * self.slot_elements)


def _page(n_bytes: int) -> int:
    return -(-n_bytes // PAGE_BYTES) * PAGE_BYTES


class SharedState:
    """Both sides' view of the block. `fd` is -1 when the trainer lives in the agent's process."""

    def __init__(self, block: Any, fd: int, n: int, fragments: FragmentRanges, slots: int) -> None:
        plan = _BlockPlan(n, fragments, slots)
        shape = (slots, plan.slot_elements)
        count = slots * plan.slot_elements
        self.n = n
        self.fragments = fragments
        self.slots = slots
        self.fd = fd
        self.versions = np.frombuffer(block, "<u8", len(fragments), plan.versions)
        self.anchor: Float32 = np.frombuffer(block, "<f4", n, plan.anchor)
        self._sent: Float32 = np.frombuffer(block, "<f4", count, plan.sent).reshape(shape)
        self._land: Float32 = np.frombuffer(block, "<f4", count, plan.land).reshape(shape)
        self._sizes = fragment_sizes(fragments)

    @classmethod
    def create(
        cls, n: int, fragments: Sequence[Sequence[tuple[int, int]]], slots: int, *, memfd: bool
    ) -> SharedState:
        """The agent's side, zeroed. `memfd`: another process will map it.

        Raises StorageError when the system gives no memory.
        """
        frozen = freeze(fragments)
        total = _BlockPlan(n, frozen, slots).total
        try:
            if not memfd:  # zeroed when it is touched
                return cls(mmap.mmap(-1, total), -1, n, frozen, slots)
            fd = _anonymous_file(total)
            return cls(mmap.mmap(fd, total), fd, n, frozen, slots)
        except OSError as error:
            raise StorageError(
                f"cannot share {total} bytes with the trainer: {error.strerror}; free some memory"
            ) from error

    @classmethod
    def open(
        cls, fd: int, n: int, fragments: Sequence[Sequence[tuple[int, int]]], slots: int
    ) -> SharedState:
        """The trainer's side of a received descriptor.

        Raises MismatchError when the block has another size than the parts need.
        """
        frozen = freeze(fragments)
        total, actual = _BlockPlan(n, frozen, slots).total, os.fstat(fd).st_size
        if actual != total:
            raise MismatchError(
                f"the agent shares {actual} bytes where {total} are needed; "
                f"install the same farflung for both"
            )
        return cls(mmap.mmap(fd, total), fd, n, frozen, slots)

    def elements(self, fragment: int) -> int:
        return self._sizes[fragment]

    def sent(self, slot: int, fragment: int) -> Float32:
        """float32[fragment size]: the local parameters as they departed."""
        return self._sent[slot, : self._sizes[fragment]]

    def land(self, slot: int, fragment: int) -> Float32:
        """float32[fragment size]: what a landing with `carry` or `rebase` adds."""
        return self._land[slot, : self._sizes[fragment]]

    @property
    def buffers(self) -> tuple[Float32, Float32]:
        """All slots for departing and for landing fragments, to be pinned."""
        return self._sent.reshape(-1), self._land.reshape(-1)

    def begin_write(self, fragment: int) -> None:
        """Readers of the fragment's anchor wait from now on."""
        self.versions[fragment] += np.uint64(1)

    def end_write(self, fragment: int) -> None:
        self.versions[fragment] += np.uint64(1)

    def try_read(self, fragment: int, out: Float32, here: Pieces | None = None) -> bool:
        """Copy the anchor's fragment to `out`; False: it was being written, `out` is garbage.

        `here`: only these pieces of the fragment's own vector.
        """
        before = int(self.versions[fragment])
        if before % 2:
            return False
        at = 0
        for start, stop in self.fragments[fragment]:
            for first, last in ((at, at + stop - start),) if here is None else here:
                begin, end = max(first, at), min(last, at + stop - start)
                if begin < end:
                    out[begin:end] = self.anchor[start + begin - at : start + end - at]
            at += stop - start
        return int(self.versions[fragment]) == before

    def read_fragment(
        self,
        fragment: int,
        out: Float32 | None = None,
        *,
        here: Pieces | None = None,
        deadline_s: float = READ_S,
    ) -> Float32:
        """The anchor's fragment as of one commit. Blocks while it is written.

        `here`: only these pieces of the fragment's own vector; the rest of the answer is nothing.

        Raises LinkDown after `deadline_s`: the agent stopped in the middle of a write.
        """
        values = np.empty(self._sizes[fragment], np.float32) if out is None else out
        end_s = time.monotonic() + deadline_s
        while not self.try_read(fragment, values, here):
            if time.monotonic() > end_s:
                raise LinkDown(
                    f"the agent is still writing fragment {fragment} after {deadline_s} s"
                )
            time.sleep(_PAUSE_S)
        return values

    def close(self) -> None:
        """Give the descriptor back; the memory goes with the last array that refers to it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _anonymous_file(n_bytes: int) -> int:
    """A descriptor of zeroed memory that has no name: memfd, or an unlinked temporary file."""
    if not hasattr(os, "memfd_create"):
        return _unlinked_file(n_bytes)
    fd = os.memfd_create("farflung", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, n_bytes)
        # a trainer that shrank the block would kill its agent with SIGBUS
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    except OSError:
        os.close(fd)
        raise
    return fd


def _unlinked_file(n_bytes: int) -> int:
    fd, path = tempfile.mkstemp(prefix="farflung-")
    try:
        os.unlink(path)  # noqa: PTH108 - the descriptor is all that shall remain
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, n_bytes)  # a full disk says so here, not by SIGBUS
        else:
            os.ftruncate(fd, n_bytes)
    except OSError:
        os.close(fd)
        raise
    return fd
