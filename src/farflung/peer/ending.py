"""When a node of a finished run may go (swarm/ending.py is the coordinator's side)."""

from __future__ import annotations

import math

from farflung.events import Warned
from farflung.peer.node import LocalNode
from farflung.peer.retention import Retention
from farflung.swarm.ending import PATIENCE_S

TOLD_S = 5.0
"""After so long a trainer says what it still waits for."""
AGAIN_S = 10.0
"""A disk that refused the last snapshot is asked again after so long."""


class Ending:
    """Asked whenever there is nothing left to apply."""

    def __init__(self, node: LocalNode, retention: Retention) -> None:
        self._follower = node.follower
        self._control = node.control
        self._retention = retention
        self._clock = node.world.clock
        self._emit = node.world.emit
        self._trains = node.config.role == "trainer"
        self._met = False
        self._alone_s: float | None = None
        self._tell_s: float | None = None
        self._again_s = -math.inf
        self.kept = False
        """The run is finished and its last round is on my disk."""

    async def keep(self) -> bool:
        """Put the last round on the disk. True when it has just come to be there."""
        now = self._clock.now()
        if not self._follower.finished or self.kept or now < self._again_s:
            return False
        self._again_s = now + AGAIN_S
        self.kept = await self._retention.keep()
        return self.kept

    def may_go(self) -> bool:
        """A trainer when the last round is kept, or when it has had no coordinator for long; a
        keeper, which serves those who lag, when the coordinator has ended, or when it has met none
        for long: it was started after that end."""
        connected = self._control.connected
        if connected:
            self._met, self._alone_s = True, None
        if self._came_too_late():
            return True
        if not self._follower.finished:
            return False
        if not self._trains:
            return self._met and not connected
        if self._follower.ended:
            return True
        now = self._clock.now()
        self._say(now)
        if connected:
            return False
        return self._alone_long(now)

    def _came_too_late(self) -> bool:
        """A keeper of a finished run that has met no coordinator for long."""
        alone = self._follower.finished and not self._trains and not self._met
        return alone and self._alone_long(self._clock.now())

    def _alone_long(self, now: float) -> bool:
        """For as long as anybody waits for anybody at the end."""
        self._alone_s = now if self._alone_s is None else self._alone_s
        return now - self._alone_s >= PATIENCE_S

    def _say(self, now: float) -> None:
        self._tell_s = now + TOLD_S if self._tell_s is None else self._tell_s
        if now >= self._tell_s:
            self._tell_s = math.inf
            self._emit(Warned(sentence="the run is complete; serving until the host has it all"))
