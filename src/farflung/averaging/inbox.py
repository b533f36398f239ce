"""Contributions that arrive at an owner, from the frame to the checked chunk.

Chunks count when their hashes are those that the sender committed to. `job` does the comparing,
in any thread, on what the frames brought; everything else belongs to the event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from farflung.averaging.reduce import Bytes, ChunkGrid, EncodedChunks
from farflung.errors import ProtocolError
from farflung.hashing import digest, merkle_root
from farflung.network.messages import Contribution, Slice, SliceResult


@dataclass
class _Incoming:
    """Chunks of one slice from one sender."""

    chunks: dict[int, Bytes] = field(default_factory=dict)
    """Those that are what was committed to."""
    claimed: set[int] = field(default_factory=set)
    """Those and the unchecked: a repeated frame is dropped, so a sender holds one slice at most."""
    hashes: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class _Frame:
    """Chunks that wait for their check."""

    sender: str
    incoming: _Incoming
    first: int
    chunks: Sequence[memoryview]
    committed: bytes | None
    """For the frame that brought the hashes: the root that they must have."""

    def fault(self) -> ProtocolError | None:
        """What is wrong with it."""
        hashes = self.incoming.hashes
        if self.committed is not None and merkle_root(hashes) != self.committed:
            return ProtocolError("chunk hashes do not match the commitment")
        for i, chunk in enumerate(self.chunks, self.first):
            if digest(chunk) != hashes[i]:
                return ProtocolError(f"chunk {i} does not match its commitment")
        return None


Checked = list[tuple[_Frame, ProtocolError | None]]


class Inbox:
    """What one node was sent for the slices that it reduces."""

    def __init__(self, grid: ChunkGrid, commitments: Mapping[str, bytes]) -> None:
        self._grid = grid
        self._commitments = commitments
        self._incoming: dict[tuple[int, str], _Incoming] = {}
        self._unchecked: list[_Frame] = []
        self._refused: set[str] = set()
        """Nothing that comes from these counts any more."""

    @property
    def unchecked(self) -> int:
        """Frames that the next `job` would compare."""
        return len(self._unchecked)

    def take(self, sender: str, head: Contribution, payload: memoryview) -> None:
        """A frame of a candidate, inside a slice of mine; its payload is never written again.

        Dropped when its chunks are here already or the sender is refused. Raises ProtocolError
        when the size or the number of hashes is wrong.
        """
        check_size(self._grid, head, payload)
        incoming = self._incoming.setdefault((head.slice, sender), _Incoming())
        chunks = range(head.first, head.stop)
        if sender in self._refused or not incoming.claimed.isdisjoint(chunks):
            return
        committed = None
        if not incoming.hashes:
            if len(head.hashes) != self._grid.chunks:
                raise ProtocolError(
                    f"{len(head.hashes)} chunk hashes, {self._grid.chunks} expected"
                )
            incoming.hashes, committed = head.hashes, self._commitments[sender]
        incoming.claimed.update(chunks)
        pieces = self._grid.split(payload, head.first, head.stop)
        self._unchecked.append(_Frame(sender, incoming, head.first, pieces, committed))

    def take_own(self, index: int, node: str, place: Slice, mine: EncodedChunks) -> None:
        """My chunks for my own slice: what I encoded and hashed needs no check."""
        incoming = self._incoming.setdefault((index, node), _Incoming())
        incoming.claimed.update(range(place.first, place.stop))
        incoming.chunks = {c: mine.chunks[c] for c in incoming.claimed}

    def job(self) -> Callable[[], Checked]:
        """Compares what waits, in order of arrival; `enter` wants its outcome. Touches no table."""
        frames, self._unchecked = self._unchecked, []
        return lambda: [(frame, frame.fault()) for frame in frames]

    def enter(self, checked: Checked) -> list[tuple[str, ProtocolError | None]]:
        """(sender, what is wrong) of each frame; those that are right count from now on.

        After a sender's first fault nothing of it is taken, for its hashes may be the fault.
        """
        told: list[tuple[str, ProtocolError | None]] = []
        for frame, error in checked:
            if frame.sender in self._refused:
                continue
            if error is None:
                frame.incoming.chunks.update(enumerate(frame.chunks, frame.first))
            else:
                self._refused.add(frame.sender)
            told.append((frame.sender, error))
        return told

    def count(self, index: int, sender: str) -> int:
        """Checked chunks of a slice."""
        incoming = self._incoming.get((index, sender))
        return 0 if incoming is None else len(incoming.chunks)

    def chunks(self, index: int, sender: str, first: int, stop: int) -> list[Bytes]:
        """Checked chunks [first, stop) of a slice that is complete."""
        incoming = self._incoming[index, sender]
        return [incoming.chunks[c] for c in range(first, stop)]


def check_size(grid: ChunkGrid, head: Contribution | SliceResult, payload: memoryview) -> None:
    """Raises ProtocolError unless the payload has just the bytes of its chunks."""
    expected = grid.bytes_between(head.first, head.stop)
    if payload.nbytes != expected:
        raise ProtocolError(f"{payload.nbytes} bytes, {expected} expected")
