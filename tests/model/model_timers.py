"""When the model's free choices are due in the real coordinator: its deadlines, kept apart."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import coordinator_model as model
from coordinator_model import Coordinator

from farflung.config.run import RunSpec

GATHER_S = 0.3
"""docs/protocol.md, ATTEMPT: accusations are gathered this long."""
FIRST_HOLD_S, MAX_HOLD_S = 0.5, 8.0
"""docs/protocol.md, ABANDON."""
SILENCE_GATHER_S = 1.5
"""The same for silence."""
COURTESY, LEAST_COURTESY_S = 0.02, 0.1
"""docs/protocol.md, ATTEMPT: how much longer a round may take for those who have just come."""


@dataclass
class Timers:
    """Moments on the coordinator's clock, in seconds."""

    spec: RunSpec
    elements: int
    heard: dict[str, float] = field(default_factory=dict)
    gone: dict[str, float] = field(default_factory=dict)
    unknown: dict[str, float] = field(default_factory=dict)
    """Until then a stay that was open before a restart may still come back."""
    deadline: dict[int, float] = field(default_factory=dict)
    opened_s: dict[int, float] = field(default_factory=dict)
    newcomers: dict[int, frozenset[str]] = field(default_factory=dict)
    """Round -> nodes whose stay had no round before it since this coordinator began."""
    known: set[tuple[str, int]] = field(default_factory=set)
    quorum: dict[int, float] = field(default_factory=dict)
    full: dict[int, float] = field(default_factory=dict)
    """Round -> when all but the newcomers were ready."""
    settle: dict[tuple[int, int], float] = field(default_factory=dict)
    late: dict[tuple[int, int], float] = field(default_factory=dict)
    accused: set[tuple[int, int]] = field(default_factory=set)
    """Attempts in which somebody was accused."""
    hold: float = 0.0
    abandoned_in_row: int = 0

    def copy(self) -> Timers:
        own = {k: v.copy() if isinstance(v, dict | set) else v for k, v in vars(self).items()}
        return Timers(**own)

    def since(self, now: float) -> tuple[object, ...]:
        """Everything here, with moments as seconds before or after now."""
        moments = (
            *(self.heard, self.gone, self.unknown, self.deadline, self.quorum, self.settle),
            *(self.opened_s, self.full),
        )
        ages = [tuple(sorted((k, round(v - now, 3)) for k, v in m.items())) for m in moments]
        late = tuple(sorted((k, round(v - now, 3)) for k, v in self.late.items()))
        hold = round(max(0.0, self.hold - now), 3)
        new = (tuple(sorted(self.newcomers.items())), frozenset(self.known))
        return (*ages, late, frozenset(self.accused), hold, self.abandoned_in_row, new)

    # ---- what happened ---------------------------------------------------------------------

    def opened(self, number: int, planned: set[tuple[str, int]], now: float) -> None:
        self.deadline[number] = now + self.spec.swarm.round_s
        self.opened_s[number] = now
        self.newcomers[number] = frozenset(name for name, _ in planned - self.known)
        self.known |= planned
        self.quorum.pop(number, None)
        self.full.pop(number, None)

    def tried(self, number: int, attempt: int, now: float, duration: float) -> None:
        """How long an attempt may take is the coordinator's choice, from measured rates."""
        self.late[number, attempt] = now + 1.5 * duration
        self.settle.pop((number, attempt), None)
        self.accused.discard((number, attempt))

    def blamed(self, number: int, attempt: int, now: float, *, silent: bool) -> None:
        self.accused.add((number, attempt))
        settle_s = SILENCE_GATHER_S if silent else GATHER_S
        self.settle.setdefault((number, attempt), now + settle_s)

    def committed(self) -> None:
        self.abandoned_in_row, self.hold = 0, 0.0

    def abandoned(self, now: float) -> None:
        self.hold = now + min(MAX_HOLD_S, FIRST_HOLD_S * 2**self.abandoned_in_row)
        self.abandoned_in_row += 1

    def restarted(self, c: Coordinator, now: float) -> None:
        stays = [name for name, n in c.nodes if n.open]
        self.gone = dict.fromkeys(stays, now)
        self.heard = {}
        self.unknown = dict.fromkeys(stays, now + self.spec.swarm.restart_grace_s)
        self.quorum, self.settle, self.late, self.accused = {}, {}, {}, set()
        self.newcomers, self.known, self.full = {}, set(), {}
        self.opened_s = {number: now for number, _ in c.rounds}
        self.deadline = {number: now + self.spec.swarm.round_s for number, _ in c.rounds}
        self.hold, self.abandoned_in_row = 0.0, 0

    def mark(self, c: Coordinator, now: float) -> None:
        """Quorums that are reached, attempts that have lost somebody."""
        for number, round_ in c.rounds:
            if round_.attempts == 0 and self.has_quorum(c, number, now):
                self.quorum.setdefault(number, now)
                if self.all_known_ready(c, number, now):
                    self.full.setdefault(number, now)
                else:
                    self.full.pop(number, None)
            if round_.trial and lost(c, round_.trial):
                self.settle.setdefault((number, round_.trial.attempt), now + GATHER_S)

    # ---- what is due -----------------------------------------------------------------------

    def expired(self, c: Coordinator, now: float) -> list[str]:
        """Stays that have been silent too long."""
        dead_s = self.spec.swarm.dead_s
        out = []
        for name, node in c.nodes:
            if not node.open or self.unknown.get(name, 0.0) > now:
                continue
            last = self.gone.get(name, 0.0) if node.link == "gone" else self.heard[name]
            if now - last >= dead_s:
                out.append(name)
        return out

    def awaited(self, c: Coordinator, number: int, now: float) -> list[str]:
        """Linked stays, and after a restart those that may still come back."""
        out = []
        for name, generation in sorted(c.round(number).planned):
            node = c.node(name)
            mine = node.open and node.generation == generation
            if mine and (node.link == "active" or self.unknown.get(name, 0.0) > now):
                out.append(name)
        return out

    def here(self, c: Coordinator, number: int, now: float) -> list[str]:
        said = dict(c.round(number).ready)
        return [name for name in self.awaited(c, number, now) if name in said]

    def has_quorum(self, c: Coordinator, number: int, now: float) -> bool:
        awaited, here = self.awaited(c, number, now), self.here(c, number, now)
        enough = len(here) >= math.ceil(self.spec.swarm.quorum_fraction * len(awaited))
        return bool(here) and enough and len(here) < len(awaited)

    def all_known_ready(self, c: Coordinator, number: int, now: float) -> bool:
        """All but the newcomers; never true when there are only newcomers."""
        known = set(self.awaited(c, number, now)) - self.newcomers.get(number, frozenset())
        return bool(known) and known <= set(self.here(c, number, now))

    def polite(self, c: Coordinator, number: int, now: float) -> bool:
        """Whether newcomers were waited for as long as the others owe them."""
        if not self.all_known_ready(c, number, now):
            return False
        full = self.full.get(number, now)
        courtesy_s = min(self.spec.swarm.grace_s, COURTESY * (full - self.opened_s[number]))
        return courtesy_s < LEAST_COURTESY_S or now - full >= courtesy_s

    def may_start(self, c: Coordinator, number: int, now: float) -> bool:
        """Whether the first attempt is due."""
        awaited, here = self.awaited(c, number, now), self.here(c, number, now)
        if not here:
            return False
        grace = self.spec.swarm.grace_s
        waited = now - self.quorum.get(number, math.inf) >= grace
        waited = waited or self.polite(c, number, now)
        return (
            len(here) == len(awaited)
            or (waited and self.has_quorum(c, number, now))
            or now >= self.deadline[number]
        )

    def must_fail(self, c: Coordinator, number: int, now: float) -> bool:
        """Whether the attempt in flight must be given up. Who comes back in time saves it."""
        trial = model.trial_of(c, number)
        key = (number, trial.attempt)
        settled = key in self.settle and now >= self.settle[key]
        harmed = key in self.accused or bool(lost(c, trial))
        return now >= self.late[key] or (settled and harmed)


def lost(c: Coordinator, trial: model.Trial) -> set[str]:
    """Members whose absence stops the attempt: owners with work to do, contributors before the
    verdict."""
    done = {i for i, _ in trial.results} if trial.included else trial.statistics
    needed = {owner for i, owner in enumerate(trial.owners) if i not in done}
    if not trial.included:
        needed |= {name for name, _ in trial.candidates}
    return needed - set(c.active())
