"""What became of the samples of each source, counted from the journal as it is read."""

from __future__ import annotations

from dataclasses import dataclass

from farflung.data.mixture import MixtureTimeline
from farflung.data.samples import mixture_of
from farflung.swarm.mixing import changes
from farflung.swarm.records import AnyRecord, Commit, Genesis, Mix
from farflung.swarm.replay import genesis_spec


@dataclass(frozen=True, kw_only=True)
class SourcePicture:
    """What was read of one source."""

    name: str
    weight: int
    """Its present weight, of coprime ones; they stand for samples that are leased from now on."""
    epoch_rows: int
    consumed: int
    """Samples that commits have credited."""


class SourceCounts:
    """Reads a journal from GENESIS on, record by record, and counts."""

    def __init__(self) -> None:
        self._genesis: Genesis | None = None
        self._timeline: MixtureTimeline | None = None
        self._mixes: list[Mix] = []
        self._consumed: list[int] = []

    def read(self, record: AnyRecord) -> None:
        """Raises ConfigError for a spec of another version."""
        match record:
            case Genesis():
                self._genesis = record
                self._timeline = mixture_of(genesis_spec(record))
                self._consumed = [0] * len(record.data)
            case Mix() if self._genesis is not None:
                self._mixes.append(record)
                self._timeline = mixture_of(genesis_spec(self._genesis), changes(self._mixes))
            case Commit() if self._timeline is not None:
                rows = self._timeline.count(r for c in record.contributors for r in c.credited)
                self._consumed = [a + b for a, b in zip(self._consumed, rows, strict=True)]
            case _:
                pass

    @property
    def seen(self) -> tuple[SourcePicture, ...]:
        """In the order of GENESIS."""
        if self._genesis is None or self._timeline is None:
            return ()
        weights = self._timeline.newest.parts
        return tuple(
            SourcePicture(name=part.name, weight=weight, epoch_rows=part.rows, consumed=consumed)
            for part, weight, consumed in zip(
                self._genesis.data, weights, self._consumed, strict=True
            )
        )
