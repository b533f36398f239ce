"""How something that fails is tried again: soon at first, then less often, and without nagging."""

from __future__ import annotations

import asyncio

from farflung.clock import Clock

SOON_S, LATER_S = 0.5, 5.0
SOON_TRIES = 20
REMIND_S = 60.0
FRESH_S = 30.0
"""Without trouble for so long, the next one is a new one."""


class Patience:
    """Of one thing that is tried until it works. Used from one event loop."""

    def __init__(self, clock: Clock, *, grace_s: float = 0.0) -> None:
        """`grace_s`: trouble that is over by then was none, and is not told."""
        self._clock = clock
        self._grace_s = grace_s
        self._began_s = self._last_s = 0.0
        self._told_s: float | None = None
        self._tries = 0

    def failed(self, *, told_at_once: bool = False) -> bool:
        """One more try failed. Whether to say so: once, and then every minute."""
        now_s = self._clock.now()
        if not self._tries or now_s - self._last_s > FRESH_S:
            self._began_s, self._told_s, self._tries = now_s, None, 0
        self._last_s = now_s
        self._tries += 1
        early = now_s - self._began_s < self._grace_s and not told_at_once
        if early or (self._told_s is not None and now_s - self._told_s < REMIND_S):
            return False
        self._told_s = now_s
        return True

    @property
    def pause_s(self) -> float:
        """Until the next try."""
        return SOON_S if self._tries <= SOON_TRIES else LATER_S

    async def pause(self) -> None:
        """Wait until the next try."""
        await asyncio.sleep(self.pause_s)
