"""What state a run is in, in a sentence: what it waits for, what ends that, who must act."""

from __future__ import annotations

import math
from dataclasses import dataclass

from farflung.monitor import inert
from farflung.words import counted


@dataclass(slots=True)
class RunStanding:
    """Mutable: the fold's own. Times are wall times, NaN where no log tells them."""

    finished: bool = False
    finished_at: float = math.nan
    paused: str = ""
    """The coordinator's reason why no round may open."""
    paused_at: float = math.nan
    blocked: str = ""
    """Why the journal cannot be written."""
    blocked_at: float = math.nan
    running_at: float = math.nan
    served: bool = True
    served_at: float = math.nan
    """Since when that is so."""

    @property
    def over(self) -> bool:
        """The coordinator has said that the run is finished, and it was not opened again."""
        return math.isfinite(self.finished_at)

    def finish(self, wall: float) -> None:
        self.finished = True
        self.finished_at = wall if math.isfinite(wall) else self.finished_at

    def reopen(self, wall: float) -> None:
        self.finished, self.finished_at, self.running_at = False, math.nan, wall

    def pause(self, reason: str, wall: float) -> None:
        if not self.paused:
            self.paused_at = wall
        self.paused = reason

    def run(self, wall: float) -> None:
        """A round may open, or does."""
        if self.paused or math.isnan(self.running_at):
            self.running_at = wall
        self.paused = ""

    def block(self, reason: str, wall: float) -> None:
        if not self.blocked:
            self.blocked_at = wall
        self.blocked = reason

    def unblock(self, wall: float) -> None:
        if self.blocked:
            self.running_at = wall
        self.blocked = ""

    def describe(
        self, *, rounds: int, opened: bool, now_doing: str, newest: float
    ) -> tuple[str, str, float]:
        """(state, reason, since) of web/src/types.ts. `rounds`: committed; `newest`: the wall time
        of the newest thing that is known."""
        if self.finished:
            done = f"Complete: {counted(rounds, 'round')} committed. Nobody needs to do anything."
            return "finished", done, _first(self.finished_at, newest)
        if not self.served:
            reason = (
                "Nobody serves the run now. It goes on where it was when its host is started "
                "again, with `farflung host`."
            )
            return "stopped", reason, _first(self.served_at, newest)
        if self.blocked:
            reason = (
                f"The host's disk refuses the journal ({self.blocked}). It goes on by itself "
                f"when there is room: whoever hosts it must free some."
            )
            return "paused", inert.sentence(reason), _first(self.blocked_at, newest)
        if self.paused:
            first = self.paused.startswith("waiting")
            what = "The first round opens" if first else "It goes on"
            reason = f"{_capital(self.paused)}. {what} by itself when enough peers are here."
            state = "waiting" if first else "paused"
            return state, inert.sentence(reason), _first(self.paused_at, newest)
        if not opened:
            return "waiting", "No round has been opened yet.", newest
        return "running", now_doing, _first(self.running_at, newest)


def _first(wall: float, otherwise: float) -> float:
    return wall if math.isfinite(wall) else otherwise


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".")
