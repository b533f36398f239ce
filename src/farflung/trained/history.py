"""How a model came to be, in figures: what the journal says of the rounds that its weights hold."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from farflung.events import RoundCommitted, parse_event
from farflung.run.home import EVENTS
from farflung.swarm import ranges
from farflung.swarm.records import Abandon, AnyRecord, Commit, Join


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
    """Credited to all contributors together."""
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
            tokens[c.node] = tokens.get(c.node, 0) + ranges.count(c.credited) * seq_len
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
    for folder in folders:
        for event in _commits(folder / EVENTS):
            if event.round < next_round and event.loss == event.loss:  # not NaN
                found = max(found or (-1, 0.0), (event.round, event.loss))
    return None if found is None else found[1]


def _commits(path: Path) -> Iterable[RoundCommitted]:
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if f'"{RoundCommitted.__name__}"' not in line:
                continue
            try:
                event = parse_event(json.loads(line))
            except ValueError:
                continue  # the torn last line of a process that was killed
            if isinstance(event, RoundCommitted):
                yield event
