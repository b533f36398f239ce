"""The archive's own manifest: one small object that names all the others, replaced in one put.

    archive.json             this index
    blobs/<hash>             snapshot chunks and manifests, data manifest, tokenizer, token shards
    results/<bytes root>     averaged fragments of committed rounds, as the round log keeps them
    journal/<hash>           frames of the journal, some records each

Every other name is a hash of what it names, so nothing but the index is ever overwritten.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from farflung.errors import CorruptState
from farflung.ids import Hash

INDEX = "archive.json"
INDEX_VERSION = 1
BLOBS, RESULTS, JOURNAL_PIECES = "blobs", "results", "journal"
FOLDERS = (BLOBS, RESULTS, JOURNAL_PIECES)
_HASH = re.compile("[0-9a-f]{64}")
_FILE = re.compile(r"([A-Za-z0-9_-]+/)?[A-Za-z0-9][A-Za-z0-9._-]*")


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    """Hex hash."""
    n_bytes: int


class ArchivedPiece(_Part, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Journal records [first, stop)."""

    first: int
    stop: int


class ArchivedResult(_Part, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The result of one committed round; `name` is its bytes root."""

    round: int


class ArchivedFile(_Part, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of the data folder."""

    file: str


class ArchivedSnapshot(_Part, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`name` and `n_bytes` are the manifest's."""

    next_round: int
    state_bytes: int
    """Of all chunks."""
    tokens: int
    """Credited by the rounds before it."""
    written_at: float
    """Seconds since 1970, by the uploading machine: for people, and for keeping by age."""


class ArchiveIndex(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an archive holds. Unlisted objects count for nothing."""

    version: int = INDEX_VERSION
    run: str
    run_name: str
    records: int
    """Of the journal."""
    head: str
    """Hex hash that the last of them ends with."""
    journal: tuple[ArchivedPiece, ...]
    snapshots: tuple[ArchivedSnapshot, ...]
    """Oldest first."""
    genesis: ArchivedSnapshot | None = None
    """The initial weights: with all results, `verify` can recompute the run."""
    results: tuple[ArchivedResult, ...] = ()
    data: tuple[ArchivedFile, ...] = ()

    @property
    def places(self) -> list[ArchivedSnapshot]:
        """Every snapshot that a run can be resumed from, oldest first."""
        known = {s.name for s in self.snapshots}
        first = () if self.genesis is None or self.genesis.name in known else (self.genesis,)
        return [*first, *self.snapshots]


def encode_index(index: ArchiveIndex) -> bytes:
    return msgspec.json.format(msgspec.json.encode(index), indent=1)


def decode_index(data: bytes, where: str) -> ArchiveIndex:
    """Raises CorruptState for anything but an index of this version with names that are safe."""
    try:
        index = msgspec.json.decode(data, type=ArchiveIndex)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CorruptState(f"{where}/{INDEX} is malformed: {error}") from None
    if index.version != INDEX_VERSION:
        raise CorruptState(
            f"{where} is an archive of version {index.version}, this farflung reads version "
            f"{INDEX_VERSION}; use the version that wrote it"
        )
    parts: list[_Part] = [*index.journal, *index.places, *index.results, *index.data]
    if not all(_HASH.fullmatch(p.name) and p.n_bytes >= 0 for p in parts):
        raise CorruptState(f"{where}/{INDEX} names an object by something that is no hash")
    if not all(_FILE.fullmatch(f.file) for f in index.data):
        raise CorruptState(f"{where}/{INDEX} names a data file by something that is no file name")
    _check_pieces(index, where)
    return index


def _check_pieces(index: ArchiveIndex, where: str) -> None:
    at = 0
    for piece in index.journal:
        if piece.first != at or piece.stop <= at:
            raise CorruptState(f"{where}/{INDEX} has a gap in the journal at record {at}")
        at = piece.stop
    if at != index.records or not _HASH.fullmatch(index.head):
        raise CorruptState(f"{where}/{INDEX} does not list the journal that it claims")


def blob_name(name: bytes) -> str:
    return f"{BLOBS}/{name.hex()}"


def listed(index: ArchiveIndex, blobs: Iterable[Hash | bytes]) -> set[str]:
    """Names of all objects that the index needs; `blobs`: those of its snapshots."""
    names = {blob_name(blob) for blob in blobs}
    names |= {f"{BLOBS}/{file.name}" for file in index.data}
    names |= {f"{RESULTS}/{result.name}" for result in index.results}
    return names | {f"{JOURNAL_PIECES}/{piece.name}" for piece in index.journal}


def kept_snapshots(
    snapshots: Iterable[ArchivedSnapshot], *, keep: int, max_age_s: float, now: float
) -> tuple[ArchivedSnapshot, ...]:
    """The newest `keep`, without those older than `max_age_s` (0: any age); the newest always."""
    newest = sorted(snapshots, key=lambda s: s.next_round)[-max(1, keep) :]
    young = [s for s in newest if not max_age_s or now - s.written_at <= max_age_s]
    return tuple(young or newest[-1:])
