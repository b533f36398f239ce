"""A node's folder from its first record and event to its newest, once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from farflung.events import EVENTS
from farflung.monitor.weave import Stamped
from farflung.swarm.journal import JOURNAL
from farflung.swarm.records import Abandon, AnyRecord, Commit
from farflung.window.tail import EventTail, JournalTail


def records_of(folder: Path) -> Iterator[AnyRecord]:
    """All whole records of its journal. CorruptState as `JournalTail`."""
    tail = JournalTail(folder / JOURNAL)
    more = True
    while more:
        part = tail.poll()
        yield from part.items
        more = part.more


def events_of(folder: Path) -> Iterator[Stamped]:
    """All whole events of its log, and of the older part of it."""
    tail = EventTail(folder / EVENTS)
    try:
        more = True
        while more:
            part = tail.poll()
            yield from ((told.wall, told.event) for told in part.items)
            more = part.more
    finally:
        tail.close()


def resolved_rounds(folder: Path) -> int:
    """How many rounds the journal resolves. CorruptState as `JournalTail`."""
    return sum(isinstance(record, Commit | Abandon) for record in records_of(folder))
