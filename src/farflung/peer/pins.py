"""Snapshots that somebody copies right now are kept for a bounded time, and the log behind them.

Nobody says that it joins: asking for a chunk is the sign. Without pins a download that takes
longer than two snapshots of its donor would never end.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from farflung.clock import Clock

IDLE_S = 60.0
"""A pin ends this long after the last request that concerns it."""
LONGEST_S = 1800.0
"""And this long after its first one: a joiner that needs longer takes a newer snapshot."""
LONGEST_LOG = 4
"""Pins hold back at most this many times the rounds that a node keeps anyway."""


@dataclass(slots=True)
class _Known:
    next_round: int
    names: Set[bytes]
    """Chunks and manifest."""
    first_s: float | None = None
    last_s: float = 0.0


class Pins:
    """Of one node; used only from its loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._uploading: set[str] = set()
        """Manifests of snapshots that are on their way to an archive."""
        self._replaying: dict[int, float] = {}
        """Rounds whose result was asked lately, and when."""

    def know(self, manifest: str, next_round: int, names: Set[bytes]) -> None:
        """A snapshot that is served from now on."""
        self._known.setdefault(manifest, _Known(next_round, names))

    def touch(self, name: bytes) -> None:
        """A blob was asked for."""
        now_s = self._clock.now()
        for known in self._known.values():
            if name in known.names:
                known.first_s = now_s if known.first_s is None else known.first_s
                known.last_s = now_s

    def hold(self, manifest: str) -> None:
        """It stays, whatever the time, until it is released."""
        self._uploading.add(manifest)

    def release(self, manifest: str) -> None:
        self._uploading.discard(manifest)

    def uploading(self) -> set[str]:
        """Manifests that are held: these also stay when the disk's limit wants the room."""
        return set(self._uploading)

    def touch_round(self, round_: int) -> None:
        """The result of a round was asked for: who asks will ask for the later ones."""
        now_s = self._clock.now()
        self._replaying = {r: s for r, s in self._replaying.items() if now_s - s < IDLE_S}
        self._replaying[round_] = now_s

    def held(self) -> set[str]:
        """Manifests of snapshots that must stay now."""
        return {n for n, known in self._known.items() if self._held(n, known)}

    def names(self) -> set[bytes]:
        """Blobs of the held snapshots."""
        held = [known for n, known in self._known.items() if self._held(n, known)]
        return {name for known in held for name in known.names}

    def floor(self) -> int | None:
        """First round whose result must stay for those who copy or replay; None: nobody does."""
        rounds = [k.next_round for n, k in self._known.items() if self._held(n, k)]
        now_s = self._clock.now()
        rounds += [r for r, asked_s in self._replaying.items() if now_s - asked_s < IDLE_S]
        return min(rounds, default=None)

    def forget_all_but(self, manifests: Set[str]) -> None:
        """Those that are not on the disk any more."""
        for name in [n for n in self._known if n not in manifests]:
            del self._known[name]

    def _held(self, name: str, known: _Known) -> bool:
        if name in self._uploading:
            return True
        now_s = self._clock.now()
        if known.first_s is None or now_s - known.last_s > IDLE_S:
            return False
        return now_s - known.first_s < LONGEST_S
