"""Seconds in which this process ran: a suspension moves no deadline."""

from __future__ import annotations

from farflung.clock import Clock

GAP_S = 1.0
"""A gap between two looks at the clock above this means that this process was suspended."""
USUAL_GAP_S = 0.1


class AwakeClock:
    """Seconds in which this process ran: a suspension moves no deadline."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last = clock.now()
        self._asleep = 0.0
        self._frozen: float | None = None

    def now(self) -> float:
        if self._frozen is not None:
            return self._frozen
        raw = self._clock.now()
        gap = raw - self._last
        if gap > GAP_S:
            self._asleep += gap - USUAL_GAP_S
        self._last = raw
        return raw - self._asleep

    def freeze(self) -> None:
        """Time stands still until `thaw`: nothing can be decided meanwhile."""
        self._frozen = self.now()

    def thaw(self) -> None:
        """Time goes on from where it stood."""
        if self._frozen is not None:
            self._last = self._clock.now()
            self._asleep = self._last - self._frozen
            self._frozen = None
