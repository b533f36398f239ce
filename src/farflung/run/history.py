"""What the journal tells of a run so far. The event log and a host's memory begin with its last
start; the journal begins with the run."""

from __future__ import annotations

from collections.abc import Iterable

from farflung.monitor.picture import Picture
from farflung.monitor.view import View
from farflung.swarm.records import AnyRecord


def view_of(records: Iterable[AnyRecord], *, map_shown: bool = True) -> View:
    """The fold after these records, to go on with. Raises ConfigError for a spec of another
    version."""
    view = View(map_shown=map_shown)
    view.take(records, ())
    return view


def picture_of(records: Iterable[AnyRecord]) -> Picture:
    """The picture after these records. Losses, bytes and speeds are in no journal."""
    return view_of(records).picture()
