"""A look at a node, for people: what a terminal says of it while it takes part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from farflung.ids import NodePhase, Role
from farflung.peer.standing import Standing, StayPhase

if TYPE_CHECKING:  # a command's --help needs the words only
    from farflung.peer.node import LocalNode
    from farflung.trainers.port import TrainerPort


@dataclass(frozen=True, kw_only=True)
class LeaseGlance:
    """How far a trainer is with what it was given to train."""

    round: int = -1
    """-1: nothing is trained now."""
    step: int = 0
    """Inner steps that are done."""
    steps: int = 0
    """Of the lease; 0: none."""
    departed: bool = False
    """The contribution to an open round has left, and its result is not here."""


NO_LEASE = LeaseGlance()


@dataclass(frozen=True, kw_only=True)
class Glance:
    """Of one moment. Nothing is decided by it."""

    role: Role
    stay: StayPhase
    trainer: NodePhase
    """What the trainer does; NONE without one."""
    connected: bool
    """A coordinator is there."""
    known: bool
    """The run's spec is here."""
    provided: bool
    """Enough of the data to begin with is here."""
    rows_missing: bool
    """Training stands still because of data."""
    finished: bool
    """The run's last round is committed."""
    evaluating: bool
    next_round: int
    """The first round that is not applied here; 0 while nothing is."""
    rounds_wanted: int
    """0: not known, or the run ends by tokens."""
    lease: LeaseGlance
    tokens_per_s: float
    """Of training time; 0: not measured."""
    peers: int
    """Contributors of the newest round that was applied; 0: not known."""
    sent_bytes: int
    received_bytes: int


def glance_at(
    node: LocalNode,
    standing: Standing,
    trainer: TrainerPort | None,
    lease: LeaseGlance,
    *,
    provided: bool,
    rows_missing: bool,
    evaluating: bool,
) -> Glance:
    """What the parts of a node say at this moment."""
    follower, mesh, control = node.follower, node.mesh, node.control
    known = follower.genesis is not None
    next_round = follower.state.next_round if follower.ready else 0
    newest = follower.commit_of(next_round - 1) if next_round else None
    speed = 0.0 if trainer is None else trainer.steps_per_s
    return Glance(
        role=node.config.role,
        stay=standing.phase,
        trainer=NodePhase.NONE if trainer is None else trainer.phase,
        connected=control.connected,
        known=known,
        provided=provided,
        rows_missing=rows_missing,
        finished=follower.finished,
        evaluating=evaluating,
        next_round=next_round,
        rounds_wanted=follower.spec.outer.rounds if known else 0,
        lease=lease,
        tokens_per_s=speed * follower.spec.inner_batch_tokens if known else 0.0,
        peers=0 if newest is None else len(newest.contributors),
        sent_bytes=mesh.sent_bytes() + control.sent_bytes,
        received_bytes=mesh.received_bytes() + control.received_bytes,
    )
