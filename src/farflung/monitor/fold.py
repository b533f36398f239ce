"""What the fold of a run remembers: journal_fold.py and event_fold.py write it."""

from __future__ import annotations

import math
from collections.abc import Callable

from farflung.config.run import RunSpec
from farflung.monitor import inert
from farflung.monitor.columns import COMMITTED, NEAR, RoundColumns
from farflung.monitor.evaluations import ScoreBook
from farflung.monitor.lines import Lines, Sentence
from farflung.monitor.link_table import LinkTable
from farflung.monitor.peer_rows import PeerRow
from farflung.monitor.ring import ddp_bytes
from farflung.monitor.sources import SourceCounts
from farflung.monitor.standing import RunStanding
from farflung.monitor.timelines import EVENTS, OneRound, Source, Timelines
from farflung.regions import Region

NAN = math.nan
KEPT_DRIFT = 8
KEPT_NOTES = 8


class Fold:
    """Mutable; one owner. Nothing in it comes from a clock or a disk."""

    def __init__(self, place_of: Callable[[str], Region | None]) -> None:
        self.place_of = place_of
        self.step = 0
        self.wall = NAN
        """Of the newest event."""
        self.journalled = False
        """GENESIS was read: what journals tell is then taken from there alone."""
        self.own = ""
        """The node whose own log this is; empty: the coordinator's."""

        self.run, self.name, self.descent, self.state_root = "", "", "", ""
        self.spec = RunSpec()
        self.parameters = self.term = self.tokens = 0
        self.flops = NAN
        """Of a token; NaN: not known."""
        self.rounds_wanted = self.committed = self.abandoned = self.rejected = self.attempts = 0
        self.deaths = self.joins = 0
        self.started = NAN
        self.replicated = True
        self.agreements = self.disagreements = 0
        self.drift: list[tuple[int, str]] = []
        self.archived, self.uploading, self.disk = -1, "", ""
        self.bytes_up = self.bytes_down = 0
        self.ddp_bytes = self.counted_up = self.counted_down = 0
        """Of the same trainers and rounds: what data-parallel training would have sent, and what
        was sent and received."""

        self.sources = SourceCounts()
        self.standing = RunStanding()
        self.columns = RoundColumns()
        self.timelines = Timelines()
        self.links = LinkTable()
        self.lines = Lines()
        self.evaluations = ScoreBook()
        self.peers: dict[str, PeerRow] = {}
        self.by_name: dict[str, str] = {}
        """The newest node of each name, as it was told."""
        self.notes: list[str] = []
        """The newest sentences that an operator should read, each once."""
        self.loose: set[int] = set()
        """Kept rounds whose medians are out of date."""

    # ---- parts ---------------------------------------------------------------------------------

    def peer(self, node: str, name: str = "") -> PeerRow:
        """The node's row, touched by this step."""
        row = self.peers.get(node)
        if row is None:
            row = self.peers[node] = PeerRow(node)
        if name and (not row.name or not self.journalled):
            row.name = inert.name(name)
            self.by_name[name] = node
        row.step = self.step
        return row

    def name_of(self, node: str) -> str:
        row = self.peers.get(node)
        return (row.name if row else "") or node[:8]

    def region(self, text: str) -> str:
        """The key of a known place; empty for everything else."""
        key = text.strip().upper()
        return key if self.place_of(key) is not None else ""

    def round(self, number: int, source: Source = EVENTS) -> OneRound | None:
        """What is kept of a round, touched by this step; None of one that is too old."""
        if not self.columns.reach(number):
            return None
        self.columns.set(number, step=self.step)
        found = self.timelines.of(number, source)
        if found is not None:
            found.step = self.step
        return found

    def settle(self) -> None:
        """Bring up to date what figures that come peer by peer add up to."""
        for number in self.loose:
            found = self.timelines.known(number)
            if found is not None:
                lr, norm = found.median("lr"), found.median("grad_norm")
                self.columns.set(number, lr=lr, grad_norm=norm)
        self.loose.clear()

    def open_rounds(self) -> list[int]:
        """The newest ones without an outcome."""
        first = max(0, self.columns.length - NEAR)
        outcomes = self.columns.part("outcome", first, self.columns.length)
        return [first + at for at, outcome in enumerate(outcomes.tolist()) if not outcome]

    def say(self, wall: float, told: Sentence) -> None:
        if math.isfinite(wall):
            self.lines.add(self.step, wall, told)

    def note(self, sentence: str) -> None:
        """What is said again moves to the end."""
        others = [note for note in self.notes if note != sentence]
        self.notes = [*others, sentence][-KEPT_NOTES:]

    def seen(self, wall: float) -> None:
        if math.isfinite(wall):
            self.wall = wall if math.isnan(self.wall) else max(self.wall, wall)

    # ---- rules that both sources share ---------------------------------------------------------

    def resolve(
        self, number: int, outcome: int, source: Source, wall: float = NAN
    ) -> OneRound | None:
        """A round has an outcome; told twice, it counts once."""
        found = self.round(number, source)
        if not 0 <= number < self.columns.length:
            return None
        if not self.columns.get("outcome", number):
            if outcome == COMMITTED:
                self.committed += 1
            else:
                self.abandoned += 1
            self.columns.set(number, outcome=outcome)
        if math.isfinite(wall):
            self.columns.set(number, at=wall)
        if found is not None:
            found.outcome = outcome
            if math.isfinite(wall):
                found.resolved = wall
        return found

    def count_bytes(self, number: int, node: str, up: int, down: int) -> None:
        """What a peer sent and received for a round, beside data-parallel training's bytes."""
        self.bytes_up += up
        self.bytes_down += down
        found = self.timelines.known(number)
        part = found.parts.get(node) if found is not None else None
        if found is None or part is None or part.reported or not part.steps:
            return
        part.reported = True
        peers = int(self.columns.get("peers", number))
        if peers and self.parameters:
            self.ddp_bytes += ddp_bytes(self.parameters, part.steps, peers)
            self.counted_up += up
            self.counted_down += down

    @property
    def reduction(self) -> float:
        """Times fewer bytes than data-parallel training, a bf16 ring all-reduce every step."""
        moved = max(self.counted_up, self.counted_down)
        return self.ddp_bytes / moved if moved and self.ddp_bytes else NAN
