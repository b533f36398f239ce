"""The round log: averaged fragments, still compressed, kept by every peer for the last K rounds.

One file per stored attempt, `results/<bytes root>`, its slices one after the other. Synced before
the vote that promises it. Slices are served by their own hash.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from farflung.disk import Disk
from farflung.hashing import digest, merkle_root
from farflung.ids import Hash

FOLDER = "results"


class RoundLog:
    """Results of one node by bytes root and by slice hash."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._slices: dict[bytes, tuple[str, int, int]] = {}
        """Slice hash -> (file, offset, length)."""
        self._rounds: dict[str, int] = {}
        """File name -> round, for what this process stored or noted."""
        self._bytes: dict[str, int] = {}
        """File name -> size, of the same."""
        self._writing = 0

    def store(self, round_: int, results: Sequence[bytes]) -> Hash:
        """Write and sync one attempt's results; returns their bytes root. Raises StorageError."""
        hashes = [digest(r) for r in results]
        self.write(hashes, results)
        self.note(round_, hashes, [len(r) for r in results])
        return merkle_root(hashes)

    def write(self, hashes: Sequence[bytes], results: Sequence[bytes]) -> None:
        """The file alone, in any thread: within `writing`, and `note` makes it known.

        `hashes`: the digest of each result. Raises StorageError.
        """
        path = _path(merkle_root(hashes))
        if self._disk.size(path) is None:
            self._disk.replace(path, b"".join(results))

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """While this lasts there may be files that are not known yet."""
        self._writing += 1
        try:
            yield
        finally:
            self._writing -= 1

    @property
    def busy(self) -> bool:
        return self._writing > 0

    def note(self, round_: int, hashes: Sequence[bytes], lengths: Sequence[int]) -> None:
        """Index a result that is on disk (after a restart: from the journal), or nothing."""
        path = _path(merkle_root(hashes))
        size = self._disk.size(path)
        if size is None:
            return
        self._rounds[path], self._bytes[path] = round_, size
        at = 0
        for name, length in zip(hashes, lengths, strict=True):
            self._slices[bytes(name)] = (path, at, length)
            at += length

    def has(self, hashes: Sequence[bytes]) -> bool:
        """Whether a file for these slices is here, intact or not."""
        return self._disk.size(_path(merkle_root(hashes))) is not None

    def load(self, hashes: Sequence[bytes], lengths: Sequence[int]) -> list[bytes] | None:
        """The results with these slice hashes; None when absent or damaged."""
        data = self._disk.read(_path(merkle_root(hashes)))
        if data is None or len(data) != sum(lengths):
            return None
        out, at = [], 0
        for name, length in zip(hashes, lengths, strict=True):
            piece = data[at : at + length]
            if digest(piece) != name:
                return None
            out.append(piece)
            at += length
        return out

    def place(self, name: bytes, offset: int, length: int) -> tuple[str, int] | None:
        """(file, offset in it) of a piece of one slice's result; None when it is not here."""
        place = self._slices.get(bytes(name))
        if place is None or offset < 0 or length < 0 or offset + length > place[2]:
            return None
        return place[0], place[1] + offset

    def length(self, name: bytes) -> int | None:
        place = self._slices.get(bytes(name))
        return None if place is None else place[2]

    def resolved(self, round_: int, committed_root: bytes | None) -> None:
        """Drop results of a round that were not committed."""
        keep = None if committed_root is None else _path(committed_root)
        self._drop([p for p, r in self._rounds.items() if r == round_ and p != keep])

    def trim(self, floor: int) -> None:
        """Forget rounds below `floor`."""
        self._drop([p for p, r in self._rounds.items() if r < floor])

    @property
    def n_bytes(self) -> int:
        return sum(self._bytes.values())

    def rounds(self) -> list[int]:
        """Rounds with a result here, oldest first."""
        return sorted(set(self._rounds.values()))

    def round_of(self, name: bytes) -> int | None:
        """The round of a slice's result that is here."""
        place = self._slices.get(bytes(name))
        return None if place is None else self._rounds.get(place[0])

    def drop_unknown(self) -> int:
        """Remove files that this process neither stored nor noted: attempts of a former one that
        were never committed. Not while `busy`. Returns how many went."""
        assert not self.busy
        paths = [f"{FOLDER}/{n}" for n in self._disk.names(FOLDER)]
        gone = [p for p in paths if p not in self._rounds]
        for path in gone:
            self._disk.remove(path)
        return len(gone)

    def _drop(self, paths: list[str]) -> None:
        for path in paths:
            self._disk.remove(path)
            del self._rounds[path], self._bytes[path]
        gone = set(paths)
        self._slices = {k: v for k, v in self._slices.items() if v[0] not in gone}


def _path(root: bytes) -> str:
    return f"{FOLDER}/{root.hex()}"


def result_path(root: bytes) -> str:
    """Where the result with this bytes root is kept, on the node's disk."""
    return _path(root)
