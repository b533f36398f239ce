"""What is known of each node that was ever admitted.

About 2 KB a node, 12 KB with a full history of rounds: 12 MB for 1,000 peers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from farflung.ids import Role
from farflung.monitor import inert
from farflung.monitor.thinned import Thinned

KEPT_STAYS = 64
"""The newest ones of a peer; the time of older ones is summed."""


OVER = "the run is complete"
"""Why a peer is not heard any more after that."""


@dataclass(slots=True)
class Stay:
    generation: int
    start: float = math.nan
    """Wall time; NaN: no log tells it."""
    stop: float = math.nan
    open: bool = True
    why: str = ""


@dataclass(slots=True)
class PeerRow:
    """Mutable: the fold's own."""

    node: str
    name: str = ""
    role: str = Role.TRAINER
    region: str = ""
    device: str = ""
    software: str = ""
    joined: float = math.nan
    expected: bool = False
    """It was admitted since the coordinator started, and has had no stay yet."""
    banned: str = ""
    suspect: str = ""
    unreachable: str = ""
    stays: list[Stay] = field(default_factory=list)
    stayed_s: float = 0.0
    """Of stays that are not kept."""
    rounds: int = 0
    steps: int = 0
    samples: int = 0
    tokens: int = 0
    strikes: int = 0
    loss: float = math.nan
    tokens_per_s: float = math.nan
    mfu: float = math.nan
    compute_s: float = 0.0
    wait_s: float = 0.0
    grad_norm: float = math.nan
    memory_bytes: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    agrees: bool | None = None
    history: Thinned | None = None
    step: int = 0

    @property
    def here(self) -> bool:
        """It has an open stay."""
        return bool(self.stays) and self.stays[-1].open

    @property
    def taken_part(self) -> bool:
        return bool(self.stays)

    def stay(self, generation: int) -> Stay:
        """The stay of this number, begun when it is new."""
        for known in reversed(self.stays):
            if known.generation == generation:
                return known
        new = Stay(generation)
        if self.stays and self.stays[-1].generation < generation:
            self.stays[-1].open = False
        self.stays.append(new)
        self.stays.sort(key=lambda s: s.generation)
        if len(self.stays) > KEPT_STAYS:
            self.stayed_s += _length(self.stays.pop(0), math.nan)
        return new

    def state(self, served: bool) -> tuple[str, str]:
        """State of web/src/types.ts, and why."""
        if self.banned and not self.here:
            return "out", self.banned
        if not served:
            return ("gone", "nobody serves the run") if self.taken_part else ("away", "")
        if self.here and self.suspect == OVER:
            return "gone", OVER
        if self.here:
            return ("suspect", self.suspect) if self.suspect else ("active", self.unreachable)
        if self.taken_part:
            return "gone", self.stays[-1].why
        return ("joined" if self.expected else "away"), ""

    def active(self, served: bool) -> bool:
        return served and self.here and not self.suspect and self.role == Role.TRAINER

    def uptime_s(self, now: float) -> float:
        return self.stayed_s + sum(_length(s, now) for s in self.stays)

    def remember(self, round_: int, **values: float) -> None:
        if self.history is None:
            self.history = Thinned()
        self.history.add(round_, **values)

    def table(self, now: float, total_tokens: int, served: bool, map_shown: bool) -> dict[str, Any]:
        """Peer of web/src/types.ts."""
        state, why = self.state(served)
        busy = self.compute_s + self.wait_s
        return {
            "node": self.node,
            "name": self.name or self.node[:8],
            "role": self.role,
            "state": state,
            "why": why,
            "region": self.region if map_shown else "",
            "device": self.device,
            "software": self.software,
            "joined": inert.seconds(self.joined),
            "uptime_s": round(self.uptime_s(now), 1),
            "rounds": self.rounds,
            "steps": self.steps,
            "samples": self.samples,
            "tokens": self.tokens,
            "share": round(self.tokens / total_tokens, 6) if total_tokens else 0.0,
            "strikes": self.strikes,
            "loss": inert.number(self.loss),
            "tokens_per_s": inert.number(self.tokens_per_s),
            "mfu": inert.number(self.mfu, 4),
            "utilisation": inert.number(self.compute_s / busy, 4) if busy > 0 else None,
            "grad_norm": inert.number(self.grad_norm),
            "memory_bytes": self.memory_bytes or None,
            "bytes_up": self.bytes_up,
            "bytes_down": self.bytes_down,
            "agrees": self.agrees,
        }

    def history_table(self) -> dict[str, Any]:
        return (self.history or Thinned()).table()

    def stays_table(self) -> list[dict[str, Any]]:
        """Those with a known beginning, oldest first."""
        return [
            {"from": inert.seconds(s.start), "to": inert.seconds(s.stop), "why": s.why}
            for s in self.stays
            if math.isfinite(s.start)
        ]


def _length(stay: Stay, now: float) -> float:
    stop = stay.stop if math.isfinite(stay.stop) else (now if stay.open else math.nan)
    length = stop - stay.start
    return max(0.0, length) if math.isfinite(length) else 0.0
