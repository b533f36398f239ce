"""What bad networks do to the swarm, whoever emulates them: relays or network namespaces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

UNKNOWN = "?"

Pair = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What some directed pairs suffer."""

    pairs: frozenset[Pair]
    blocked: bool = False
    bytes_per_s: float = 0.0
    """0: no cap."""
    delay_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Rule:
    """All effects on one directed pair, together."""

    blocked: bool = False
    bytes_per_s: float = 0.0
    delay_s: float = 0.0


@dataclass
class Counts:
    """What the relays saw."""

    connections: int = 0
    unmapped: int = 0
    """Connections whose dialler was not found: faults apply to the listener's side alone."""
    resets: int = 0
    bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a node lives in the emulated network."""

    bind: str
    """HOST:PORT on which it listens; a host's keeper may use the port after it."""
    advertise: str = ""
    """HOST:PORT that others dial, when that is another one."""
    prefix: tuple[str, ...] = ()
    """Words before its command line."""


class Links(Protocol):
    """An emulated network between named nodes."""

    counts: Counts

    async def place(self, node: str, listeners: int = 1) -> Place:
        """The node's place; the same again for a node that has one. Raises OSError."""

    def cannot(self, effect: Effect) -> str:
        """Why this effect is not possible here; "" when it is."""

    def apply(self, effect: Effect) -> int:
        """Returns a token for `lift`. Effects on one pair add up."""

    def lift(self, token: int) -> None: ...

    def heal(self) -> None:
        """End all effects."""

    def reset(self, a: str, b: str) -> int:
        """RST on every connection between two nodes; returns how many there were."""

    async def close(self) -> None: ...


class Effects:
    """The effects that hold now, and what they amount to for each pair."""

    def __init__(self) -> None:
        self._held: dict[int, Effect] = {}
        self._next = 0
        self._rules: dict[Pair, Rule] = {}

    def add(self, effect: Effect) -> int:
        self._next += 1
        self._held[self._next] = effect
        self._rules.clear()
        return self._next

    def remove(self, token: int) -> bool:
        """False when it was gone."""
        self._rules.clear()
        return self._held.pop(token, None) is not None

    def clear(self) -> None:
        self._held.clear()
        self._rules.clear()

    def rule(self, pair: Pair) -> Rule:
        if pair not in self._rules:
            self._rules[pair] = self._combined(pair)
        return self._rules[pair]

    def _combined(self, pair: Pair) -> Rule:
        found = [e for e in self._held.values() if any(_covers(p, pair) for p in e.pairs)]
        caps = [e.bytes_per_s for e in found if e.bytes_per_s > 0]
        return Rule(
            blocked=any(e.blocked for e in found),
            bytes_per_s=min(caps, default=0.0),
            delay_s=max((e.delay_s for e in found), default=0.0),
        )


def _covers(wanted: Pair, pair: Pair) -> bool:
    """A side that is not known is taken for any: faults then apply per node."""
    return all(w == p or p == UNKNOWN for w, p in zip(wanted, pair, strict=True))
