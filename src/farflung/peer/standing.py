"""Where a node stands: one phase, one table of moves, one door.

SYNCING    no state: a snapshot is read or fetched
STARTING   the state is here; the trainer starts, or goes back to the anchor
READY      could take part; has not asked on this link
ASKED      SYNCED was sent on this link
MEMBER     the coordinator has answered it: plans and attempts count
"""

from __future__ import annotations

import asyncio
from enum import StrEnum

from farflung.errors import FarflungError


class StayPhase(StrEnum):
    SYNCING = "syncing"
    STARTING = "starting"
    READY = "ready"
    ASKED = "asked"
    MEMBER = "member"


MOVES: dict[StayPhase, frozenset[StayPhase]] = {
    StayPhase.SYNCING: frozenset({StayPhase.STARTING}),
    StayPhase.STARTING: frozenset({StayPhase.READY, StayPhase.SYNCING}),
    StayPhase.READY: frozenset({StayPhase.ASKED, StayPhase.STARTING, StayPhase.SYNCING}),
    StayPhase.ASKED: frozenset(
        {StayPhase.MEMBER, StayPhase.READY, StayPhase.STARTING, StayPhase.SYNCING}
    ),
    StayPhase.MEMBER: frozenset({StayPhase.READY, StayPhase.STARTING, StayPhase.SYNCING}),
}
"""To READY from ASKED and MEMBER: the link is new, and nothing was asked on it yet."""


class IllegalMove(FarflungError):
    """A phase was entered that its predecessor does not lead to: a fault of this program."""


class Standing:
    """Owned by the agent's loop; `enter` is the only door between phases."""

    def __init__(self, session: str) -> None:
        """`session`: random per process, so that two processes with one key are told apart."""
        self.session = session
        self.phase = StayPhase.SYNCING
        self.number = 0
        """The open generation, as the journal says; 0: none. A link that comes back keeps it."""
        self.term = 0
        """Of the coordinator of this link."""
        self.journal_target = 0
        """Length of the coordinator's journal when it welcomed me: what is older is history."""
        self.news = asyncio.Event()
        """Something changed that the apply loop may act on."""

    def enter(self, phase: StayPhase) -> None:
        """Raises IllegalMove."""
        if phase is not self.phase and phase not in MOVES[self.phase]:
            legal = ", ".join(sorted(MOVES[self.phase]))
            raise IllegalMove(f"{self.phase} -> {phase}; legal: {legal}")
        self.phase = phase
        if phase is not StayPhase.ASKED:  # that one is the apply loop's own doing
            self.news.set()

    def welcomed(self, term: int, journal_length: int) -> None:
        """The link is new: what was asked on the one before counts no more."""
        self.term, self.journal_target = term, journal_length
        if self.phase in (StayPhase.ASKED, StayPhase.MEMBER):
            self.phase = StayPhase.READY
        self.news.set()

    def answered(self) -> None:
        """A plan, an attempt or a GEN came; no answer when nothing was asked on this link."""
        if self.phase is StayPhase.ASKED:
            self.enter(StayPhase.MEMBER)

    def opened(self, generation: int) -> None:
        """GEN: my stay is open."""
        self.number = generation
        self.answered()

    def ended(self) -> None:
        """My stay is over, or never was: the next one is prepared from the anchor."""
        self.number = 0
        if self.phase is not StayPhase.SYNCING:
            self.enter(StayPhase.STARTING)
