"""When a node of a finished run may go (swarm/ending.py is the coordinator's side)."""

from __future__ import annotations

import math

from farflung.events import Warned
from farflung.ids import GUESTS
from farflung.peer.node import LocalNode
from farflung.peer.retention import Retention
from farflung.peer.standing import Standing
from farflung.swarm.ending import PATIENCE_S

TOLD_S = 5.0
"""After so long a trainer says what it still waits for."""
AGAIN_S = 10.0
"""A disk that refused the last snapshot is asked again after so long."""


ENDED_PATIENCE_S = 10.0
"""How long a trainer whose journal says that all is over asks whether the run was extended."""


class Ending:
    """Asked whenever there is nothing left to apply."""

    def __init__(self, node: LocalNode, standing: Standing, retention: Retention) -> None:
        self._follower = node.follower
        self._control = node.control
        self._standing = standing
        self._retention = retention
        self._clock = node.world.clock
        self._emit = node.world.emit
        self._guest = node.config.role in GUESTS
        self._met = False
        self._alone_s: float | None = None
        self._tell_s: float | None = None
        self._again_s = -math.inf
        self._kept_at = -1
        """The round before which everything is on my disk."""

    @property
    def kept(self) -> bool:
        """The run is finished and its last round is on my disk."""
        follower = self._follower
        here = follower.ready and self._kept_at == follower.state.next_round
        return follower.finished and here

    async def keep(self) -> bool:
        """Put the last round on the disk. True when it has just come to be there."""
        now = self._clock.now()
        if not self._follower.finished or self.kept or now < self._again_s:
            return False
        self._again_s = now + AGAIN_S
        next_round = self._follower.state.next_round
        if not await self._retention.keep():
            return False
        self._kept_at, self._again_s = next_round, -math.inf
        return self.kept

    def may_go(self) -> bool:
        """A trainer (or evaluator) when the last round is kept, or when it has had no coordinator
        for long; a keeper, which serves those who lag, when the coordinator has ended, or when it
        has met none for long: it was started after that end."""
        connected = self._control.connected
        if connected:
            self._met, self._alone_s = True, None
        if self._came_too_late():
            return True
        if not self._follower.finished:
            self._alone_s = self._tell_s = None  # or it was extended
            return False
        if not self._guest:
            return self._met and not connected
        if self._follower.ended:
            return self._up_to_date() or self._alone_for(ENDED_PATIENCE_S, connected)
        self._say()
        return self._alone_for(PATIENCE_S, connected)

    def _up_to_date(self) -> bool:
        """A former process of mine may have left before the run was extended."""
        here = self._follower.journal.length >= self._standing.journal_target
        return self._met and here

    def _alone_for(self, seconds: float, connected: bool) -> bool:
        if connected:
            return False
        return self._alone_long(seconds)

    def _came_too_late(self) -> bool:
        """A keeper of a finished run that has met no coordinator for long."""
        alone = self._follower.finished and not self._guest and not self._met
        return alone and self._alone_long(PATIENCE_S)

    def _alone_long(self, seconds: float) -> bool:
        now = self._clock.now()
        self._alone_s = now if self._alone_s is None else self._alone_s
        return now - self._alone_s >= seconds

    def _say(self) -> None:
        now = self._clock.now()
        self._tell_s = now + TOLD_S if self._tell_s is None else self._tell_s
        if now >= self._tell_s:
            self._tell_s = math.inf
            self._emit(Warned(sentence="the run is complete; serving until the host has it all"))
