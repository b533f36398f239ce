"""The lines of an event log that outlive it, in a third file beside its two.

    steps = LastingLines(older, history, kinds, thinned_first).steps()
    for _ in steps:             # each a slice: some milliseconds
        ...                     # at its end the older file may go

Who reads takes from the history what is before the older log's mark, then the older log itself:
whatever a killed process has half copied is behind the mark, and copied again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

HISTORY_BYTES = 128 << 20
"""Some 400,000 committed rounds; then every second one of the older half goes."""
SLICE_BYTES = 1 << 20
_KIND = re.compile(rb'\{"t": [^,"]{1,32}, "wall": [^,"]{1,32}, "kind": "(\w+)"')
"""At the start of a line as `EventLog` writes it, so that no quoted text passes for it."""
_MARK = b'{"kind": "kept",'
_TOLD_APART_BY = 4096
"""Bytes at a log's start; its header holds two times of day."""


def mark_of(log: IO[bytes]) -> bytes:
    """The line of a history behind which the lines of this log are, without its end."""
    start = os.pread(log.fileno(), _TOLD_APART_BY, 0)
    return _MARK + b' "log": "%s"}' % hashlib.sha256(start).hexdigest().encode()


class LastingLines:
    """Copies lines of the kinds that last from an older log, of which no byte changes any more."""

    def __init__(
        self,
        older: Path,
        history: Path,
        kinds: frozenset[str],
        thinned_first: frozenset[str],
        *,
        most_bytes: int = HISTORY_BYTES,
    ) -> None:
        self._older, self._history, self._most_bytes = older, history, most_bytes
        self._kinds = frozenset(kind.encode() for kind in kinds)
        self._thinned_first = frozenset(kind.encode() for kind in thinned_first)
        self._new = history.with_name(f".{history.name}.tmp")

    def steps(self) -> Iterator[None]:
        """One copy of the older log, slice by slice, from its start. OSError from any of them:
        what was copied is then copied again by the next call's."""
        try:
            older = self._older.open("rb")
        except FileNotFoundError:
            return
        with older:
            mark = mark_of(older)
            yield from self._cut(mark)
            yield from self._bound()
            yield from self._copy(older, mark)

    def _cut(self, mark: bytes) -> Iterator[None]:
        """Take back what an interrupted copy of this log, or half a write, has left."""
        with contextlib.suppress(FileNotFoundError), self._history.open("r+b") as file:
            whole = 0
            for lines in _whole_lines(file):
                at = (b"\n" + lines).find(b"\n" + mark + b"\n")
                if at >= 0:
                    file.truncate(whole + at)
                    return
                whole += len(lines)
                yield
            file.truncate(whole)

    def _bound(self) -> Iterator[None]:
        """Thin a full history: rounds at first, and everything where they are not what fills it."""
        kinds, size = self._thinned_first, self._size()
        while size > self._most_bytes:
            yield from self._thin(kinds, size // 2)
            before, size = size, self._size()
            if kinds == self._kinds and size >= before:
                return  # nothing that could go
            kinds = self._kinds

    def _size(self) -> int:
        return self._history.stat().st_size if self._history.exists() else 0

    def _thin(self, kinds: frozenset[bytes], older_half: int) -> Iterator[None]:
        stays = dict.fromkeys(kinds, False)
        at = 0
        try:
            with self._history.open("rb") as file, self._new.open("wb") as new:
                for lines in _whole_lines(file):
                    cut = lines.rfind(b"\n", 0, max(0, older_half - at)) + 1
                    new.write(_every_second(lines[:cut], stays) + lines[cut:])
                    at += len(lines)
                    yield
            self._new.replace(self._history)
        finally:
            with contextlib.suppress(OSError):
                self._new.unlink(missing_ok=True)

    def _copy(self, older: IO[bytes], mark: bytes) -> Iterator[None]:
        with self._history.open("ab") as file:
            file.write(mark + b"\n")
            for lines in _whole_lines(older):
                kept = [s for s in lines.splitlines(keepends=True) if _kind(s) in self._kinds]
                file.write(b"".join(kept))
                file.flush()
                yield


def _kind(line: bytes) -> bytes:
    found = _KIND.match(line)
    return found[1] if found else b""


def _every_second(lines: bytes, stays: dict[bytes, bool]) -> bytes:
    """Of each kind in `stays`, which remembers; the first one stays. Old marks mark nothing."""
    kept = []
    for line in lines.splitlines(keepends=True):
        kind = _kind(line)
        if kind in stays:
            stays[kind] = not stays[kind]
        if stays.get(kind, True) and not line.startswith(_MARK):
            kept.append(line)
    return b"".join(kept)


def _whole_lines(file: IO[bytes]) -> Iterator[bytes]:
    """A file in slices that end where a line does; half a line at its end is left out."""
    rest = b""
    while data := file.read(SLICE_BYTES):
        end = data.rfind(b"\n") + 1
        if end:
            yield rest + data[:end]
            rest = data[end:]
        else:
            rest += data
