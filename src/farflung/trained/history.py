"""How a model came to be, in figures: what the journal says of the rounds that its weights hold."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from farflung.events import RoundCommitted, read_events
from farflung.swarm.records import Abandon, AnyRecord, Commit, Join
from farflung.swarm.resolve import shown_tokens

LOGS = "events*.jsonl"
"""A node's event log, and what was cut off it."""
TAIL_BYTES = 8 << 20
"""Of a log, read for the last loss: some ten thousand rounds."""
_COMMITTED = RoundCommitted.__name__.encode()


class TrainedShare(msgspec.Struct, frozen=True, kw_only=True):
    """One node's part."""

    name: str
    rounds: int
    tokens: int


class TrainingHistory(msgspec.Struct, frozen=True, kw_only=True):
    """Of the rounds up to the one that the weights hold."""

    rounds: int = 0
    """Committed."""
    abandoned: int = 0
    tokens: int = 0
    """Of all contributors together, as their programs counted them."""
    contributors: tuple[TrainedShare, ...] = ()
    """Those who trained most first."""
    loss: float | None = None
    """Mean training loss of the last of these rounds whose loss is known, nats per token."""


def history_of(
    records: Sequence[AnyRecord], next_round: int, seq_len: int, loss: float | None = None
) -> TrainingHistory:
    """From the journal's records; `next_round`: the first round that the weights do not hold."""
    names = {r.node: r.name for r in records if isinstance(r, Join)}
    rounds: dict[str, int] = {}
    tokens: dict[str, int] = {}
    committed = abandoned = 0
    for record in records:
        if isinstance(record, Abandon):
            abandoned += record.round < next_round
        if not isinstance(record, Commit) or record.round >= next_round:
            continue
        committed += 1
        for c in record.contributors:
            rounds[c.node] = rounds.get(c.node, 0) + 1
            tokens[c.node] = tokens.get(c.node, 0) + shown_tokens(c, seq_len)
    order = sorted(rounds, key=lambda node: (-tokens[node], names.get(node, node)))
    return TrainingHistory(
        rounds=committed,
        abandoned=abandoned,
        tokens=sum(tokens.values()),
        contributors=tuple(
            TrainedShare(name=names.get(n, n[:8]), rounds=rounds[n], tokens=tokens[n])
            for n in order
        ),
        loss=loss,
    )


def last_loss(folders: Iterable[Path], next_round: int) -> float | None:
    """Loss of the last committed round below `next_round`, where a coordinator's event log is
    here; None elsewhere: the journal has no losses."""
    found: tuple[int, float] | None = None
    for path in (p for folder in folders for p in folder.glob(LOGS)):
        for event in _commits(path):
            if event.round < next_round and not math.isnan(event.loss):
                found = max(found or (-1, 0.0), (event.round, event.loss))
    return None if found is None else found[1]


def _commits(path: Path) -> Iterator[RoundCommitted]:
    """At the end of a log, which may be long. What is no whole line is passed over: the first one
    read, or the torn last one of a process that was killed."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        for _, event in read_events(line for line in file if _COMMITTED in line):
            if isinstance(event, RoundCommitted):
                yield event
