"""What a run's window shows: one pure fold over journal and event log (being written)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, TypedDict

from farflung.events import Event
from farflung.swarm.records import AnyRecord

Json = dict[str, Any]
KINDS = ("head", "rounds", "evaluations", "peers", "timelines", "links", "lines")


class Changes(TypedDict, total=False):
    """What changed after `since`; only the kinds that were asked for. Empty lists and None: none."""

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
    """Journal records in order, events in order, in any interleaving of the two.

    `shown_regions` False: the host keeps regions to itself (`Head.map`).
    """

    def __init__(self, *, map_shown: bool = True) -> None: ...

    step: int
    """Counts up with every record and event that changed something."""

    def record(self, record: AnyRecord) -> None: ...
    def event(self, wall: float | None, event: Event) -> None: ...
    def serve(self, served: bool, at: float) -> None:
        """Whether somebody serves the run now (else its state is `stopped`). Default: yes."""
    def tell_disk(self, text: str) -> None:
        """Head.keeper_disk."""

    def head(self, now: float) -> Json: ...
    def rounds(self, first: int = 0, stop: int | None = None, points: int = 1000) -> Json: ...
    def row(self, round_: int) -> Json | None: ...
    def evaluations(self) -> list[Json]: ...
    def peers(self, now: float) -> list[Json]: ...
    def peer_page(self, node: str, now: float) -> Json | None: ...
    def regions(self) -> list[Json]: ...
    def timelines(self, first: int, stop: int, most: int = 64) -> list[Json]:
        """Of rounds first..stop (exclusive) that are kept."""
    def links(self, most: int = 64) -> Json: ...
    def lines(
        self, before: int | None = None, limit: int = 200, kind: str = "", q: str = ""
    ) -> list[Json]: ...
    def frame(self, now: float) -> Json: ...
    def changes(
        self, since: int, now: float, kinds: Collection[str] = KINDS, most: int = 64
    ) -> Changes: ...
