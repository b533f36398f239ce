"""The picture of a run as Python values: what the demo's screen, its report card, the simulator and
tests read. The fold behind it is the window's (view.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from farflung.ids import Role
from farflung.monitor.fold import Fold
from farflung.monitor.peer_rows import PeerRow
from farflung.monitor.sources import SourcePicture

KEPT_LOSSES = 4096
KEPT_SCORES = 1024


@dataclass(frozen=True, kw_only=True)
class PeerPicture:
    name: str
    role: str
    state: str = "joined"
    """`joined`, `active`, `suspect`, `gone`, `away` (admitted, and never took part), `out`."""
    generation: int = 0
    rounds: int = 0
    """Rounds that it contributed to; without a journal: for which it was READY."""
    samples: int = 0
    """Credited to it by commits: only a journal tells them."""
    steps: int = 0
    unreachable: str = ""
    """Why the host cannot dial it where it says that others can."""
    loss: float = math.nan
    """Of its last round, mean nats per token."""
    compute_s: float = 0.0
    wait_s: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0


@dataclass(frozen=True, kw_only=True)
class Picture:
    run: str = ""
    name: str = ""
    parameters: int = 0
    term: int = 0
    rounds_wanted: int = 0
    descent: str = ""
    """What the run began with; empty: fresh weights."""
    round: int = -1
    """The newest open round."""
    committed: int = 0
    abandoned: int = 0
    attempts: int = 0
    rejected: int = 0
    tokens: int = 0
    losses: tuple[tuple[int, float], ...] = ()
    """(round, mean nats per token)."""
    scores: tuple[tuple[int, float], ...] = ()
    """(rounds in the measured state, bits per byte of held-out text)."""
    samples: tuple[tuple[str, str], ...] = ()
    """(prompt, text) of the last evaluation."""
    sources: tuple[SourcePicture, ...] = ()
    """In the order of the spec. Told by a journal, by no event."""
    peers: Mapping[str, PeerPicture] = field(default_factory=dict)
    deaths: int = 0
    joins: int = 0
    """Generations that were opened after the first round was."""
    state_root: str = ""
    disagreements: int = 0
    agreements: int = 0
    replicated: bool = True
    paused: str = ""
    blocked: str = ""
    """Why the journal cannot be written."""
    archived: int = -1
    """The last round that the archive leads to; -1: none."""
    uploading: str = ""
    """How far the snapshot is that is on its way there."""
    finished: bool = False
    notes: tuple[str, ...] = ()

    @property
    def loss_first(self) -> float:
        return self.losses[0][1] if self.losses else math.nan

    @property
    def loss_last(self) -> float:
        return self.losses[-1][1] if self.losses else math.nan

    @property
    def active(self) -> list[PeerPicture]:
        return [p for p in self.peers.values() if p.state == "active" and p.role == Role.TRAINER]


def picture_of_fold(fold: Fold) -> Picture:
    """What the fold knows by now."""
    standing, newest = fold.standing, fold.evaluations.newest
    return Picture(
        run=fold.run,
        name=fold.name,
        parameters=fold.parameters,
        term=fold.term,
        rounds_wanted=fold.rounds_wanted,
        descent=fold.descent,
        round=fold.columns.length - 1,
        committed=fold.committed,
        abandoned=fold.abandoned,
        attempts=fold.attempts,
        rejected=fold.rejected,
        tokens=fold.tokens,
        losses=_losses(fold),
        scores=fold.evaluations.scores(KEPT_SCORES),
        samples=newest.samples if newest else (),
        sources=fold.sources.seen,
        peers={node: _peer(fold, row) for node, row in fold.peers.items()},
        deaths=fold.deaths,
        joins=fold.joins,
        state_root=fold.state_root,
        disagreements=fold.disagreements,
        agreements=fold.agreements,
        replicated=fold.replicated,
        paused=standing.paused,
        blocked=standing.blocked,
        archived=fold.archived,
        uploading=fold.uploading,
        finished=standing.finished,
        notes=tuple(fold.notes),
    )


def _losses(fold: Fold) -> tuple[tuple[int, float], ...]:
    first = max(0, fold.columns.length - KEPT_LOSSES)
    column = fold.columns.part("loss", first, fold.columns.length)
    return tuple((first + int(at), float(column[at])) for at in np.flatnonzero(np.isfinite(column)))


def _peer(fold: Fold, row: PeerRow) -> PeerPicture:
    return PeerPicture(
        name=fold.name_of(row.node),
        role=row.role,
        state=row.state(fold.standing.served)[0],
        generation=row.stays[-1].generation if row.stays else 0,
        rounds=row.rounds,
        samples=row.samples,
        steps=row.steps,
        unreachable=row.unreachable,
        loss=row.loss,
        compute_s=row.compute_s,
        wait_s=row.wait_s,
        bytes_up=row.bytes_up,
        bytes_down=row.bytes_down,
    )
