"""Reading a node's journal and event log while their owner writes them: no lock, nothing cut.

    tail = FolderTail(folder)
    while True:
        news = tail.poll()          # a slice: `more` says that another is there already
        ...

What is half written is read when it is whole. A log that began a new file is read to its end
first. A journal that is not the one read so far (the run was restored, or a write that failed was
taken back) begins again from its first record: `anew` says so, and the reader forgets all.

Signatures are not checked: whoever may write to the folder is the run's host.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import BinaryIO, Generic, NamedTuple, Protocol, TypeVar

import msgspec

from farflung.errors import CorruptState
from farflung.events import EVENTS, Event, history_of, older_log, parse_event, read_line
from farflung.lasting import mark_of
from farflung.monitor.weave import Stamped, weave
from farflung.swarm.journal import (
    HEADER,
    JOURNAL,
    LARGEST_FRAME,
    frame_at,
    frame_bytes,
    record_of,
)
from farflung.swarm.records import AnyRecord

SLICE_BYTES = 1 << 20
"""Read at once: some ten milliseconds of work for whoever folds it."""
LONGEST_LINE = 4 << 20
"""Of an event log; what is longer is no event of ours."""
PATIENCE = 20
"""Polls that may find the same bad frame before it is damage, not a write under way."""
_LENGTHS = 8
"""Bytes at the start of a frame that tell its length."""

T = TypeVar("T")


class Part(NamedTuple, Generic[T]):
    """A slice of what is new."""

    items: list[T]
    more: bool
    """Another slice is there already."""
    anew: bool = False
    """All that was read before is void: these are the first items of another file."""


class Told(NamedTuple):
    """An event and when it was told."""

    at_s: float
    """Monotonic clock of the process that told it."""
    wall: float | None
    event: Event


class Tidings(NamedTuple):
    """What a folder's two files say that is new."""

    anew: bool
    records: list[AnyRecord]
    told: list[Told]
    more: bool


class JournalTail:
    """The records of a journal that grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self._last = b""
        """The frame before `_at`: while it is there, what was read before it is too."""
        self._bad = 0

    def poll(self, most_bytes: int = SLICE_BYTES) -> Part[AnyRecord]:
        """The next records. CorruptState for a file that is no journal, or is damaged."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return Part([], False)
        with file:
            anew = self._at > 0 and not self._still_there(file)
            if anew:
                self._at, self._last = 0, b""
            if not self._at and not self._begin(file):
                return Part([], False, anew)
            frames = list(self._frames(file, most_bytes))
            return Part([self._decoded(f) for f in frames], self._behind(file, frames), anew)

    @property
    def read_bytes(self) -> int:
        return self._at

    def _still_there(self, file: BinaryIO) -> bool:
        file.seek(self._at - len(self._last))
        return file.read(len(self._last)) == self._last

    def _begin(self, file: BinaryIO) -> bool:
        """Whether the header is there, whole."""
        file.seek(0)
        found = file.read(len(HEADER))
        if not HEADER.startswith(found):
            raise CorruptState(
                f"{self._path} is not a journal that this farflung reads; use the farflung that "
                f"wrote it"
            )
        if found == HEADER:
            self._at, self._last = len(HEADER), HEADER
        return found == HEADER

    def _frames(self, file: BinaryIO, most_bytes: int) -> Iterator[bytes]:
        """Whole frames from `_at` on, at least one if one is there."""
        file.seek(self._at)
        data = file.read(max(most_bytes, _LENGTHS))
        if len(data) >= _LENGTHS:
            wanted = min(frame_bytes(data, 0), LARGEST_FRAME)
            data += file.read(max(0, wanted - len(data)))
        at = 0
        while (frame := frame_at(data, at)) is not None:
            at += len(frame)
            self._at += len(frame)
            self._last, self._bad = frame, 0
            yield frame

    def _behind(self, file: BinaryIO, frames: list[bytes]) -> bool:
        """Whether there is more than was read. CorruptState when it cannot be read."""
        left = os.fstat(file.fileno()).st_size - self._at
        if left < _LENGTHS or frames:
            return left >= _LENGTHS
        file.seek(self._at)
        if frame_bytes(file.read(_LENGTHS), 0) <= left:
            self._bad += 1  # whole by its length, but bad
            if self._bad > PATIENCE:
                raise CorruptState(f"{self._path} is damaged at byte {self._at}")
        return False

    def _decoded(self, frame: bytes) -> AnyRecord:
        try:
            return record_of(frame)
        except msgspec.MsgspecError as error:
            raise CorruptState(
                f"{self._path} holds a record that this farflung cannot read ({error}); use the "
                f"farflung that wrote it"
            ) from None


class EventTail:
    """The events of a log that grows, and begins a new file now and then. First what lasts of
    earlier ones, then the older file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: FileIO | None = None
        self._history: FileIO | None = None
        """`_file`, while that is the history."""
        self._older: FileIO | None = None
        """What is read after the history, open since before: it may lose its name meanwhile."""
        self._mark = b""
        """The line that ends the history: `_older` tells what follows."""
        self._whole = False
        """The history was read to its end."""
        self._rest = b""
        """Of a line whose end is not written yet."""

    def poll(self, most_bytes: int = SLICE_BYTES) -> Part[Told]:
        """The next events. Lines that are none are left out, as `read_events` does."""
        told: list[Told] = []
        left = most_bytes
        while left > 0:
            ended = self._file is None or self._has_ended(self._file)  # asked before reading on
            data = b"" if self._file is None or self._whole else self._file.read(left)
            left -= len(data)
            told += self._parsed(data)
            if left > 0 and (not ended or not self._next_file()):
                return Part(told, False)
        return Part(told, True)

    def close(self) -> None:
        for file in (self._file, self._older):
            if file is not None:
                file.close()
        self._file = self._history = self._older = None

    def _has_ended(self, file: FileIO) -> bool:
        """Whether nothing is written to this file any more: another has its name."""
        if file is self._history:
            return True
        mine = os.fstat(file.fileno())
        if mine.st_size < file.tell():  # emptied in place
            file.seek(0)
            self._rest = b""
        with contextlib.suppress(FileNotFoundError):
            return self._path.stat().st_ino != mine.st_ino
        return False  # between two names

    def _next_file(self) -> bool:
        """Open the file after this one. False when there is none yet."""
        if self._file is None:
            return self._first_file()
        if self._older is not None:
            self._go_on_with(self._older)
            return True
        mine = os.fstat(self._file.fileno()).st_ino
        for path in (older_log(self._path), self._path):
            file = _opened(path)
            if file is None:
                continue
            if os.fstat(file.fileno()).st_ino != mine:
                self._go_on_with(file)
                return True
            file.close()
        return False

    def _first_file(self) -> bool:
        older = _opened(older_log(self._path))  # before the history, which holds all before it
        history = _opened(history_of(self._path))
        if history is not None:
            self._file = self._history = history
            self._older, self._whole = older, False
            self._mark = b"" if older is None else mark_of(older)
            return True
        file = older or _opened(self._path)
        if file is not None and older is None and older_log(self._path).exists():
            file.close()  # it began a new file just now
            return self._first_file()
        self._file = file
        return file is not None

    def _go_on_with(self, file: FileIO) -> None:
        """Closes the one before only now: a closed file's inode may be given to a new one."""
        if self._file is not None:
            self._file.close()
        self._file, self._history, self._older = file, None, None
        self._rest, self._whole = b"", False

    def _parsed(self, data: bytes) -> list[Told]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            self._rest = b"-"  # what follows is the rest of no event
        if self._history is not None and self._mark and self._mark in lines:
            lines, self._whole = lines[: lines.index(self._mark)], True
        return [told for line in lines if (told := told_in(line)) is not None]


def _opened(path: Path) -> FileIO | None:
    try:
        return path.open("rb", buffering=0)
    except FileNotFoundError:
        return None


def told_in(line: bytes) -> Told | None:
    """The event of one line of a log; None for all that is none."""
    fields = read_line(line)
    event = None if fields is None else parse_event(fields)
    if fields is None or event is None:
        return None
    at_s, wall = fields.get("t"), fields.get("wall")
    return Told(
        float(at_s) if isinstance(at_s, int | float) else 0.0,
        float(wall) if isinstance(wall, int | float) else None,
        event,
    )


class _Tail(Protocol[T]):
    def poll(self, most_bytes: int) -> Part[T]: ...


class FolderTail:
    """Both files of a node's folder. An event never comes before the records that it follows."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._journal = JournalTail(folder / JOURNAL)
        self._events = EventTail(folder / EVENTS)
        self._told: Part[Told] = Part([], False)
        self.void = False
        """The journal has turned into another one while its history was read."""

    def poll(self, most_bytes: int = SLICE_BYTES) -> Tidings:
        """A slice of what is new; `most_bytes` of each file. CorruptState as `JournalTail`."""
        if not self._told.items:  # before the journal: whoever told them had written their records
            self._told = self._events.poll(most_bytes)
        records, more, anew = self._journal.poll(most_bytes)
        if anew:
            self._events.close()
            self._events = EventTail(self._folder / EVENTS)
            self._told = self._events.poll(most_bytes)
        if more:
            return Tidings(anew, records, [], True)
        told, self._told = self._told, Part([], False)
        return Tidings(anew, records, told.items, told.more)

    def history(self) -> Iterator[AnyRecord | Stamped]:
        """Everything that is there already, in one order; before the first `poll`, which goes on
        where this ends. Ends early when the journal turns into another one: then `void`."""
        told = ((t.wall, t.event) for t in self._drained(self._events))
        yield from weave(self._drained(self._journal), told)

    def _drained(self, tail: _Tail[T]) -> Iterator[T]:
        more = True
        while more and not self.void:
            items, more, anew = tail.poll(SLICE_BYTES)
            self.void |= anew
            yield from () if self.void else items

    @property
    def journal_share(self) -> float:
        """Of the journal's bytes, what was read: 0..1."""
        with contextlib.suppress(OSError):
            size = (self._folder / JOURNAL).stat().st_size
            return min(1.0, self._journal.read_bytes / size) if size else 1.0
        return 1.0

    def close(self) -> None:
        self._events.close()
