"""How long a round takes, and what part of it a GPU trains.

A round has H / P steps of the fastest peer; a slower one does as many as it manages meanwhile, on
average (swarm/planning.py: fractions add up over rounds). Blocking (window 1): round = train +
sync. With a window W the averaging of a fragment goes on beside the training of the next ones:
round = max(train, (train + sync) / W).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from farflung.config.run import RunSpec
from farflung.sizing.groups import PeerGroup
from farflung.sizing.speed import PeerSpeed
from farflung.swarm.planning import SAME_SPEED

FULL_SPEED = SAME_SPEED
"""Of the fastest: whole work."""


@dataclass(frozen=True, kw_only=True)
class GroupWork:
    """Of one peer of a group, in one round."""

    steps: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class RoundTime:
    """Seconds of an average round."""

    train_s: float
    """Of the peer that trains longest."""
    round_s: float
    work: dict[str, GroupWork]
    tokens: float
    """Of all peers."""

    @property
    def waiting(self) -> float:
        """Part of the round in which the peer that trains longest waits for the averaging."""
        return max(0.0, 1 - self.train_s / self.round_s)


def overlapped_s(train_s: float, sync_s: float, window: int) -> float:
    """Seconds of a round."""
    if window <= 1:
        return train_s + sync_s
    return max(train_s, (train_s + sync_s) / window)


def round_time(
    spec: RunSpec, groups: Sequence[PeerGroup], speeds: dict[str, PeerSpeed], sync_s: float
) -> RoundTime:
    step_s = {g.name: spec.inner_batch_tokens / speeds[g.name].tokens_per_s for g in groups}
    fastest = min(step_s.values())
    work: dict[str, GroupWork] = {}
    for name, seconds in step_s.items():
        relative = fastest / seconds
        full = spec.steps_per_round
        steps = full if relative >= FULL_SPEED else relative * full
        work[name] = GroupWork(steps=steps, seconds=steps * seconds)
    train_s = max(w.seconds for w in work.values())
    return RoundTime(
        train_s=train_s,
        round_s=overlapped_s(train_s, sync_s, spec.outer.window),
        work=work,
        tokens=sum(g.count * work[g.name].steps for g in groups) * spec.inner_batch_tokens,
    )
