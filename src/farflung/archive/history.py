"""What a journal says of its rounds, as far as an archive needs it. Blocking: for the pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from farflung.averaging.reduce import ChunkGrid
from farflung.checkpoint.snapshot import SnapshotManifest
from farflung.errors import CorruptState
from farflung.hashing import digest
from farflung.outer.codecs import get_codec
from farflung.outer.fragments import make_fragments, size
from farflung.outer.layout import Layout
from farflung.swarm.journal import Journal
from farflung.swarm.records import Commit, Genesis
from farflung.swarm.replay import genesis_spec
from farflung.swarm.resolve import shown_tokens


@dataclass(frozen=True, slots=True)
class CommitAt:
    """One committed round; the whole record is in the journal at `record`."""

    record: int
    round: int
    fragment: int
    bytes_root: bytes
    fragment_hash: bytes
    tokens: int
    """Credited up to and with this round."""


class History:
    """Commits by round, read once each; `read` takes up what the journal has got since."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.commits: dict[int, CommitAt] = {}
        self._genesis: Genesis | None = None
        self._grids: list[ChunkGrid] = []
        self._seq_len = 0
        self._tokens = 0
        self._next = 0
        self._rounds = 0
        """One more than the last committed round."""

    @property
    def genesis(self) -> Genesis:
        """CorruptState before the journal has one."""
        if self._genesis is None:
            raise CorruptState("the journal is empty")
        return self._genesis

    def read(self) -> None:
        """Raises StorageError; ConfigError for a spec that this version does not know."""
        stop = self.journal.length
        for index, record in enumerate(self.journal.records(self._next), self._next):
            if index >= stop:
                break
            if isinstance(record, Genesis):
                self._begin(record)
            elif isinstance(record, Commit):
                self._add(index, record)
            self._next = index + 1

    def _begin(self, genesis: Genesis) -> None:
        spec = genesis_spec(genesis)
        fragments = make_fragments(Layout.from_json(genesis.layout), spec.outer.fragments)
        codec = get_codec(spec.outer.codec)
        self._grids = [ChunkGrid(size(f), spec.outer.chunk_elements, codec) for f in fragments]
        self._seq_len = spec.data.seq_len
        self._genesis = genesis

    def _add(self, index: int, commit: Commit) -> None:
        self._tokens += sum(shown_tokens(c, self._seq_len) for c in commit.contributors)
        self._rounds = commit.round + 1
        self.commits[commit.round] = CommitAt(
            index,
            commit.round,
            commit.fragment,
            commit.bytes_root,
            commit.fragment_hash,
            self._tokens,
        )

    def tokens_before(self, round_: int) -> int:
        """Credited by the rounds below."""
        for earlier in range(min(round_, self._rounds) - 1, -1, -1):
            if earlier in self.commits:
                return self.commits[earlier].tokens
        return 0

    def since(self, round_: int) -> list[CommitAt]:
        """Commits of this and later rounds, in order."""
        found = (self.commits.get(r) for r in range(round_, self._rounds))
        return [c for c in found if c is not None]

    def commit(self, at: CommitAt) -> Commit:
        record = next(self.journal.records(at.record))
        assert isinstance(record, Commit)
        return record

    def needed_after(self, manifest: SnapshotManifest) -> list[CommitAt]:
        """Commits that a node has to replay after a snapshot, which may hold some of them."""
        held = [f.round for f in manifest.fragments]
        return [c for c in self.since(manifest.next_round) if held[c.fragment] < c.round]

    def check_snapshot(self, manifest: SnapshotManifest) -> None:
        """CorruptState unless every fragment version is one that the journal has."""
        if [f.elements for f in manifest.fragments] != [g.elements for g in self._grids]:
            raise CorruptState("the snapshot has other fragments than the run's model")
        for index, fragment in enumerate(manifest.fragments):
            if fragment.hash != self._expected(index, fragment.round):
                raise CorruptState(f"fragment {index} of the snapshot differs from the journal")

    def _expected(self, fragment: int, round_: int) -> bytes:
        if round_ == -1:
            return self.genesis.fragment_hashes[fragment]
        commit = self.commits.get(round_)
        if commit is None or commit.fragment != fragment:
            raise CorruptState(f"the journal has no round {round_} for fragment {fragment}")
        return commit.fragment_hash

    def check_result(self, at: CommitAt, data: bytes) -> None:
        """CorruptState unless these are the averaged bytes that the round committed."""
        commit, grid = self.commit(at), self._grids[at.fragment]
        lengths = [grid.bytes_between(s.first, s.stop) for s in commit.slices]
        if len(data) != sum(lengths):
            raise CorruptState(f"the result of round {at.round} has {len(data)} bytes")
        pieces = _cut(memoryview(data), lengths)
        for place, piece in zip(commit.slices, pieces, strict=True):
            if digest(piece) != place.hash:
                raise CorruptState(f"the result of round {at.round} does not match the journal")


def _cut(data: memoryview, lengths: Sequence[int]) -> list[memoryview]:
    out, at = [], 0
    for length in lengths:
        out.append(data[at : at + length])
        at += length
    return out


def state_bytes(manifest: SnapshotManifest) -> int:
    """Anchor and momentum."""
    return sum(8 * f.elements for f in manifest.fragments)
