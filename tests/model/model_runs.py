"""What is searched: bounds, expected counts, and the promise that each mutant breaks.

What the searches add to the rules (docs/protocol.md):

- Three rounds, and 2 of 3 holders with synced votes and two crashes, hold; with volatile votes the
  two crashes lose the round.
- LEASE must be durable. Without it one restart leaves stays whose claims are refused for ever, and
  together with one stay that ended early a position is trained twice.
- A vote counts only while its voter is here: otherwise one lost machine takes a committed round.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from commit_model import CommitModel
from coordinator_model import Rules
from model_search import Found, Model, search
from rounds_model import RoundsModel

STUCK = "no way leads to the end"
LOST = "round 0 is committed and held by nobody"


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
        return search(self.model, live=self.live and self.wrong in ("", STUCK))

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


def _rounds(
    name: str,
    states: int = 0,
    wrong: str = "",
    depth: int = 0,
    *,
    rules: Rules,
    deep: bool = False,
    **bounds: Any,
) -> Run:
    model = RoundsModel(name=name, rules=rules, **bounds)
    return Run(model=model, states=states, wrong=wrong, depth=depth, deep=deep)


_ONE = Rules(window=1, fragments=1, rounds=2, attempts=1)
_TWO = Rules(window=2, fragments=2, rounds=2, attempts=1)
_FIRST = replace(_ONE, rounds=1)
TWICE = "a position is twice in one fragment"

ROUNDS = [
    _rounds("window 2", 2569, rules=_TWO),
    _rounds("window 2, abandon", 38054, rules=_TWO, abandons=1, deep=True),
    _rounds("window 1, three rounds", 1330, rules=replace(_TWO, window=1, rounds=3)),
    _rounds("one crash", 10839, rules=_ONE, crashes=1),
    _rounds("one false death", 5518, rules=_ONE, deaths=1),
    _rounds("one abandon", 3164, rules=_ONE, abandons=1),
    _rounds("one machine lost", 11532, rules=_ONE, losses=1),
    _rounds(
        "one abandon, two attempts", 14690, rules=replace(_ONE, attempts=2), abandons=1, deep=True
    ),
    _rounds("window 2, three rounds", 22170, rules=replace(_TWO, rounds=3), deep=True),
    _rounds("3 peers, one crash", 34343, rules=_FIRST, peers=3, crashes=1, deep=True),
    _rounds("false death and abandon", 74560, rules=_ONE, deaths=1, abandons=1, deep=True),
    _rounds("crash and false death", 24337, rules=_FIRST, crashes=1, deaths=1, deep=True),
    _rounds("window 2, one false death", 41035, rules=_TWO, deaths=1, deep=True),
    _rounds("window 2, one crash", 115135, rules=_TWO, crashes=1, deep=True),
]

ROUNDS_MUTANTS = [
    _rounds(
        "a vote names the state of all fragments",
        wrong="round 1 commits the hash of another history",
        depth=14,
        rules=_TWO,
        abandons=1,
        vote_on_root=True,
    ),
    _rounds(
        "two rounds of one fragment in flight",
        wrong=TWICE,
        depth=20,
        rules=replace(_ONE, window=2, one_per_fragment=False),
    ),
    _rounds(
        "an abandon returns leases",
        wrong=TWICE,
        depth=27,
        rules=replace(_ONE, abandon_keeps_leases=False),
        abandons=1,
        deaths=1,
    ),
    _rounds(
        "a lease returns at death, attempt open",
        wrong=TWICE,
        depth=15,
        rules=replace(_ONE, death_waits_for_attempt=False),
        deaths=1,
    ),
    _rounds(
        "progress survives a closed stay",
        wrong="progress of a closed stay is contributed",
        depth=20,
        rules=_ONE,
        deaths=1,
        progress_survives=True,
    ),
    _rounds(
        "an abandon is not logged",
        wrong="a peer has followed a record that the journal does not hold",
        depth=6,
        rules=_FIRST,
        crashes=1,
        abandons=1,
        abandons_logged=False,
    ),
    _rounds(
        "votes of members that are gone count",
        wrong=LOST,
        depth=8,
        rules=replace(_ONE, living_votes=False),
        losses=1,
    ),
    _rounds(
        "leases are not durable, one crash",
        wrong=STUCK,
        depth=6,
        rules=_FIRST,
        crashes=1,
        leases_logged=False,
    ),
    _rounds(
        "leases are not durable, crash and death",
        wrong=TWICE,
        depth=24,
        rules=_ONE,
        crashes=1,
        deaths=1,
        leases_logged=False,
        deep=True,
    ),
]
