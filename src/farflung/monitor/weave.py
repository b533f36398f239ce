"""Journal records and events of one run, in one order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from farflung.events import (
    Applied,
    Event,
    PeerReady,
    RoundAbandoned,
    RoundCommitted,
    RoundOpened,
    Trained,
)
from farflung.swarm.records import Abandon, AnyRecord, Commit, Lease

Stamped = tuple[float | None, Event]
"""Unix seconds, or None, and what happened then."""


def weave(records: Iterable[AnyRecord], events: Iterable[Stamped]) -> Iterator[AnyRecord | Stamped]:
    """Each record right before the events that tell of it, as far as rounds say.

    Records hold no times: those of a round wait for its first event, all others go with the one
    before them. What is left at the end comes then.
    """
    waiting = iter(records)
    head = next(waiting, None)
    opened = resolved = -1
    for wall, event in events:
        match event:
            case RoundOpened() | PeerReady() | Trained():
                opened = max(opened, event.round)
            case RoundCommitted() | RoundAbandoned() | Applied():
                opened = max(opened, event.round)
                resolved = max(resolved, event.round)
            case _:
                pass
        while head is not None and _due(head, opened, resolved):
            yield head
            head = next(waiting, None)
        yield wall, event
    while head is not None:
        yield head
        head = next(waiting, None)


def _due(record: AnyRecord, opened: int, resolved: int) -> bool:
    match record:
        case Lease():
            return record.round <= opened
        case Commit() | Abandon():
            return record.round <= resolved
        case _:
            return True
