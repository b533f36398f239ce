"""What is searched: bounds, expected counts, and the promise that each mutant breaks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from commit_model import CommitModel
from model_search import Found, Model, search


@dataclass(frozen=True, kw_only=True)
class Run:
    """One search and what it must find."""

    model: Model[Any]
    states: int = 0
    """Of a model that holds: all of them, so that a silent shrink is noticed."""
    wrong: str = ""
    """Of a mutant: what is broken."""
    depth: int = 0
    """Of a mutant: steps of the shortest history that breaks it."""
    deep: bool = False
    """Only in `make model`."""
    live: bool = True
    """Also check that every state has a way to the end."""

    @property
    def name(self) -> str:
        return self.model.name

    def search(self) -> Found[Any]:
        return search(self.model, live=self.live and not self.wrong)

    def failure(self, found: Found[Any]) -> str:
        """Why what was found is not what must be; empty when it is."""
        if found.wrong != self.wrong:
            return f"{self.name}: {found.wrong or 'holds'}; expected {self.wrong or 'holds'}"
        if not found.complete:
            return f"{self.name}: {found.states} states, and not all of them"
        if self.wrong and len(found.trace) != self.depth:
            return f"{self.name}: broken in {len(found.trace)} steps, not in {self.depth}"
        if not self.wrong and found.states != self.states:
            return f"{self.name}: {found.states} states, not {self.states}"
        return ""


LOST = "round 0 is committed and held by nobody"

_SHORT = CommitModel(name="commit, 3 peers, one crash, one attempt", attempts=1)
_THREE = CommitModel(name="commit, 3 peers, one crash")

COMMIT = [
    Run(model=_THREE, states=22_512),
    Run(
        model=CommitModel(
            name="commit, 2 peers, 3 rounds, 2 crashes", peers=2, rounds=3, crashes=2
        ),
        states=9_806,
    ),
    Run(model=replace(_SHORT, name="commit, 3 peers, 3 rounds", rounds=3), states=9_938),
    Run(model=replace(_SHORT, name="commit, 3 peers, 2 crashes", crashes=2), states=4_011),
    Run(model=replace(_THREE, name="commit, one machine lost", crashes=0, losses=1), states=1_742),
    Run(
        model=replace(_SHORT, name="commit, 3 peers, 2 rounds, 2 crashes", rounds=2, crashes=2),
        states=23_159,
        deep=True,
    ),
    Run(model=replace(_THREE, name="commit, 3 peers, 2 crashes, 2 attempts", crashes=2), deep=True),
]

COMMIT_MUTANTS = [
    Run(
        model=replace(_THREE, name="no commit step", commit_step=False),
        wrong="two states for round 0",
        depth=6,
    ),
    Run(
        model=replace(_SHORT, name="a decision is sent before it is logged", log_first=False),
        wrong="a peer applied a round that the log does not hold",
        depth=10,
    ),
    Run(
        model=replace(_SHORT, name="one vote is enough", votes=1, crashes=0, losses=1),
        wrong=LOST,
        depth=6,
    ),
    Run(
        model=replace(_THREE, name="votes are not fenced", fenced=False, crashes=0),
        wrong=LOST,
        depth=11,
    ),
    Run(
        model=replace(_SHORT, name="volatile votes, two crashes", durable_votes=False, crashes=2),
        wrong=LOST,
        depth=9,
    ),
    Run(
        model=replace(_SHORT, name="two machines lost (above the promise)", crashes=0, losses=2),
        wrong=LOST,
        depth=9,
    ),
]
