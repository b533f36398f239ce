"""What became of the samples of each source, from the journal alone, audited for `verify`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from farflung.data.mixture import Change
from farflung.data.samples import mixture_of
from farflung.errors import ConfigError
from farflung.swarm.ledger import Audit
from farflung.swarm.mixing import changes
from farflung.swarm.records import AnyRecord, Genesis, Lease, Mix
from farflung.swarm.replay import genesis_spec


@dataclass(frozen=True, kw_only=True)
class SourceFigures:
    """In rows. `consumed`, `leased` and `returned` make up all that was ever leased."""

    name: str
    epoch_rows: int
    consumed: int
    """Credited by a commit."""
    leased: int
    """Held by a stay, trained or not."""
    returned: int
    """Handed back by a stay that ended, and not leased again yet."""
    duplicated: int
    lost: int

    @property
    def epochs(self) -> float:
        """How often the source was read."""
        return self.consumed / self.epoch_rows


def per_source(
    genesis: Genesis, records: Iterable[AnyRecord], audited: Audit
) -> list[SourceFigures]:
    """In the order of GENESIS. Raises ConfigError for a spec of another version."""
    timeline = mixture_of(genesis_spec(genesis), changes(records))
    where = audited.where
    consumed, leased, returned, duplicated, lost = (
        timeline.count(ranges)
        for ranges in (where.credited, where.leased, where.free, where.duplicated, where.lost)
    )
    return [
        SourceFigures(
            name=part.name,
            epoch_rows=part.rows,
            consumed=consumed[i],
            leased=leased[i],
            returned=returned[i],
            duplicated=duplicated[i],
            lost=lost[i],
        )
        for i, part in enumerate(genesis.data)
    ]


def wrong_change(genesis: Genesis, records: Iterable[AnyRecord]) -> str:
    """One sentence about the first change of the mixture that breaks the rule; empty: none does.

    The rule: it starts where a part of the mixture before it ends, at or above all that was leased
    when it was decided, with each source where that mixture leaves it.
    """
    frontier = 0
    known: list[Change] = []
    for record in records:
        if isinstance(record, Lease):
            ends = (stop for grant in record.grants for _, stop in grant.ranges)
            frontier = max([frontier, *ends])
        elif isinstance(record, Mix):
            (found,) = changes([record])
            timeline = mixture_of(genesis_spec(genesis), known)
            try:
                due = timeline.change(found.parts, frontier)
            except ConfigError as error:
                return f"the change of the mixture at {found.start} is none: {error}"
            if found != due:
                return (
                    f"the change of the mixture at {found.start} with {found.bases} rows read "
                    f"should be at {due.start} with {due.bases}"
                )
            known.append(found)
    return ""
