"""What a run's window shows: one pure fold over journal and event log, asked for plain JSON.

Status, demo, dashboard, static report and replay read this. The shapes are those of
web/src/types.ts (docs/api.md). No clock, disk or network: times are arguments.

Memory, at most: 112 bytes a round, 12 KB a peer, 21 MB of timelines, 8 MB of lines, 5 MB of links,
6 MB of evaluations (benchmarks/view.py measures it).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from itertools import islice
from typing import Any, TypedDict

from farflung import regions
from farflung.config.run import RunSpec
from farflung.events import Event
from farflung.ids import Role
from farflung.monitor import inert
from farflung.monitor.event_fold import take_event
from farflung.monitor.fold import Fold
from farflung.monitor.headline import headline
from farflung.monitor.journal_fold import take_record
from farflung.monitor.lines import Sentence, as_json
from farflung.monitor.peer_rows import PeerRow
from farflung.monitor.picture import Picture, picture_of_fold
from farflung.monitor.weave import Stamped, weave
from farflung.regions import Region
from farflung.swarm.records import AnyRecord

Json = dict[str, Any]
KINDS = ("head", "rounds", "evaluations", "peers", "timelines", "links", "lines")

FRAME_POINTS = 1000
EVALUATIONS = 1024
FRAME_TIMELINES = 6
FRAME_LINES = 200
SHOWN_PEERS = 64
"""Of a timeline, and nodes of the link matrix."""
PAGE_LINES = 100
"""Of a peer's page."""


class Changes(TypedDict, total=False):
    """What changed after `since`; only the kinds that were asked for. Empty, None: nothing."""

    step: int
    """Give this as `since` next time (a number per kind, if kinds are asked at their own pace)."""
    head: Json | None
    rounds: list[Json]
    """RoundRow, by round. One whose events came after its record comes again: the later stands."""
    evaluations: list[Json]
    peers: list[Json]
    timelines: list[Json]
    links: Json | None
    lines: list[Json]
    """Oldest first."""


class View:
    """Journal records in order, events in order. `take` brings the two together.

    Not to be shared between threads while it is fed.
    """

    def __init__(
        self,
        *,
        map_shown: bool = True,
        place_of: Callable[[str], Region | None] = regions.region,
    ) -> None:
        """`map_shown` False: no region is ever served. `place_of`: the fixed list of regions."""
        self._fold = Fold(place_of)
        self._map = map_shown
        self._picture: tuple[int, Picture] | None = None

    # ---- feeding -------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """Counts up with every record and event."""
        return self._fold.step

    def take(self, records: Iterable[AnyRecord], events: Iterable[Stamped]) -> None:
        """Further records and events, in one order (weave.py). Raises as `record`."""
        for one in weave(records, events):
            if isinstance(one, tuple):
                self.event(*one)
            else:
                self.record(one)

    def record(self, record: AnyRecord) -> None:
        """Raises ConfigError for a spec of another version."""
        self._fold.step += 1
        take_record(self._fold, record)

    def event(self, wall: float | None, event: Event) -> None:
        """`wall`: unix seconds."""
        self._fold.step += 1
        take_event(self._fold, math.nan if wall is None else wall, event)

    def serve(self, served: bool, at: float) -> None:
        """Whether somebody serves the run now (else its state is `stopped`). Default: yes."""
        standing = self._fold.standing
        if standing.served != served:
            self._fold.step += 1
            standing.served, standing.served_at = served, at
            for row in self._fold.peers.values():
                row.step = self._fold.step

    def tell_disk(self, text: str) -> None:
        """What the keeper stores, in a sentence (`Head.keeper_disk`)."""
        if inert.sentence(text) != self._fold.disk:
            self._fold.step += 1
            self._fold.disk = inert.sentence(text)

    # ---- for programs --------------------------------------------------------------------------

    @property
    def committed(self) -> int:
        """Rounds."""
        return self._fold.committed

    @property
    def rounds_wanted(self) -> int:
        return self._fold.rounds_wanted

    def picture(self) -> Picture:
        """As Python values; the same object until something changes."""
        if self._picture is None or self._picture[0] != self.step:
            self._picture = self.step, picture_of_fold(self._fold)
        return self._picture[1]

    @property
    def spec(self) -> RunSpec:
        """With what was amended; the default one before GENESIS."""
        return self._fold.spec

    # ---- answers: types.ts says what is in each --------------------------------------------------

    def __len__(self) -> int:
        """Nodes that were ever admitted."""
        return len(self._fold.peers)

    @property
    def newest(self) -> float | None:
        """Wall time of the newest event."""
        return inert.seconds(self._fold.wall)

    def head(self, now: float) -> Json:
        """Head."""
        self._fold.settle()
        return headline(self._fold, now, map_shown=self._map)

    def rounds(self, first: int = 0, stop: int | None = None, points: int = FRAME_POINTS) -> Json:
        """Rounds: `points` buckets at most of first..stop (exclusive)."""
        self._fold.settle()
        columns = self._fold.columns
        return columns.table(first, columns.length if stop is None else stop, points)

    def row(self, round_: int) -> Json | None:
        """RoundRow; None while it is open."""
        self._fold.settle()
        return self._fold.columns.row(round_)

    def evaluations(self, most: int = EVALUATIONS) -> list[Json]:
        """Evaluation, oldest first; of more than `most` every n-th."""
        return self._fold.evaluations.tables(most)

    def peers(self, now: float, most: int | None = None) -> list[Json]:
        """Peer of every node ever admitted, by tokens; or of the `most` with the most tokens."""
        return [self._peer(row, now) for row in self._ranked()[:most]]

    def peer(self, node: str, now: float) -> Json | None:
        """Peer; None of a node that was never admitted."""
        row = self._fold.peers.get(node)
        return None if row is None else self._peer(row, now)

    def peer_page(self, node: str, now: float) -> Json | None:
        """PeerPage; None of a node that was never admitted."""
        row = self._fold.peers.get(node)
        if row is None:
            return None
        name = row.name
        return {
            "peer": self._peer(row, now),
            "rank": 1 + next(i for i, r in enumerate(self._ranked()) if r.node == node),
            "rounds": row.history_table(),
            "stays": row.stays_table(),
            "lines": self._fold.lines.select(
                None, PAGE_LINES, lambda told: bool(name) and told.name == name
            ),
        }

    def regions(self) -> list[Json]:
        """Region, of all that are declared; none when the map is off."""
        keys = {row.region for row in self._fold.peers.values() if row.region}
        places = [self._fold.place_of(key) for key in sorted(keys)] if self._map else []
        return [
            {
                "key": place.code,
                "city": place.city,
                "country": place.country,
                "lat": place.lat,
                "lon": place.lon,
            }
            for place in places
            if place is not None
        ]

    def timelines(self, first: int, stop: int, most: int = SHOWN_PEERS) -> list[Json]:
        """Timeline of rounds first..stop (exclusive), as far as they are kept, oldest first."""
        fold = self._fold
        found = [r.table(most, fold.name_of) for r in fold.timelines if first <= r.number < stop]
        return found[::-1]

    def newest_timelines(self, count: int, most: int = SHOWN_PEERS) -> list[Json]:
        """Timeline of the newest rounds, oldest first."""
        fold = self._fold
        return [r.table(most, fold.name_of) for r in islice(fold.timelines, count)][::-1]

    def links(self, most: int = SHOWN_PEERS) -> Json:
        """Links among the `most` largest contributors."""
        return self._fold.links.table(most, self._tokens, self._node)

    def lines(
        self, before: int | None = None, limit: int = FRAME_LINES, kind: str = "", q: str = ""
    ) -> list[Json]:
        """Line, newest first: those with a serial below `before`, of this kind, with this text."""
        wanted = q.casefold()

        def chosen(told: Sentence) -> bool:
            return (not kind or told.kind == kind) and (
                not wanted or wanted in told.text.casefold() or wanted in told.name.casefold()
            )

        return self._fold.lines.select(before, limit, chosen)

    def frame(self, now: float) -> Json:
        """Frame: all that the first screen needs."""
        return {
            "head": self.head(now),
            "rounds": self.rounds(),
            "evaluations": self.evaluations(),
            "peers": self.peers(now),
            "regions": self.regions(),
            "timelines": self.newest_timelines(FRAME_TIMELINES),
            "links": self.links(),
            "lines": self.lines(),
        }

    def changes(
        self, since: int, now: float, kinds: Collection[str] = KINDS, most: int = SHOWN_PEERS
    ) -> Changes:
        """What a reader lacks that was told of everything up to step `since`."""
        fold, found = self._fold, Changes(step=self.step)
        fold.settle()
        if "head" in kinds:
            found["head"] = self.head(now) if fold.step > since else None
        if "rounds" in kinds:
            rows = [fold.columns.row(r) for r in fold.columns.changed(since)]
            found["rounds"] = [row for row in rows if row is not None]
        if "evaluations" in kinds:
            found["evaluations"] = fold.evaluations.changed(since)
        if "peers" in kinds:
            found["peers"] = [self._peer(r, now) for r in self._ranked() if r.step > since]
        if "timelines" in kinds:
            grown = [r for r in fold.timelines if r.step > since]
            found["timelines"] = [r.table(most, fold.name_of) for r in grown][::-1]
        if "links" in kinds:
            found["links"] = self.links(most) if fold.links.step > since else None
        if "lines" in kinds:
            found["lines"] = self._new_lines(since)
        return found

    # ---- parts ---------------------------------------------------------------------------------

    def _new_lines(self, since: int) -> list[Json]:
        found: list[Json] = []
        for line in self._fold.lines.newest_first():
            if line.step <= since:
                break
            found.append(as_json(line))
        return found[::-1]

    def _ranked(self) -> list[PeerRow]:
        return sorted(self._fold.peers.values(), key=lambda r: (-r.tokens, r.name, r.node))

    def _peer(self, row: PeerRow, now: float) -> Json:
        fold = self._fold
        table = row.table(now, fold.tokens, fold.standing.served, self._map)
        # A host without a keeper serves as one in all that people see.
        return table | {"role": Role.KEEPER if row.role == Role.SOURCE else row.role}

    def _tokens(self, node: str) -> int:
        row = self._fold.peers.get(node)
        return row.tokens if row else 0

    def _node(self, node: str) -> dict[str, str]:
        row = self._fold.peers.get(node)
        region = row.region if row and self._map else ""
        return {"node": node, "name": self._fold.name_of(node), "region": region}
