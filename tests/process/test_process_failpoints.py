"""A peer dies at a named place of the round; the survivors go on and lose nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import ENDLESS, QUICK_DEATH, Swarm, quad_spec

from farflung.events import AttemptFailed, GenerationClosed, RoundCommitted
from farflung.failpoints import VARIABLE

PLACES = [
    "ready.sent",
    "contribution.sent",
    "statistics.sent",
    "result.sent",
    "vote.stored",
    "vote.sent",
    "apply.before-step",
    "apply.stepped",
]
OUTER = {**ENDLESS["outer"], "chunk_elements": 8192}
"""Thirteen chunks: each of three peers owns a slice, so each passes every place."""


@pytest.mark.parametrize("place", PLACES)
def test_survivors_commit_on_when_a_peer_dies_at(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = quad_spec(record="all", outer=OUTER, swarm={"start_peers": 3, **QUICK_DEATH})
    with Swarm(tmp_path, spec) as swarm:
        swarm.host()
        swarm.join("a")
        swarm.join("b")
        with monkeypatch.context() as armed:
            armed.setenv(VARIABLE, f"{place}:3:kill")
            victim = swarm.join("c")
        assert victim.wait() == -9, "the failpoint was not reached"
        swarm.more(5)
        closed = [e for e in swarm.events("host", GenerationClosed) if e.name == "c"]
        if not closed:
            swarm.more(5)
        again = swarm.join_again("c")
        swarm.more(10)
        assert again.process.poll() is None
        survivors = {e.name for e in swarm.events("host", GenerationClosed)} - {"c"}
        assert not survivors, "a survivor lost its stay"
        swarm.kill_all()
        assert swarm.verify().returncode == 0


def test_an_attempt_without_the_dead_contributor_has_its_own_divisor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = quad_spec(outer=OUTER, swarm={"start_peers": 3, **QUICK_DEATH})
    with Swarm(tmp_path, spec) as swarm:
        swarm.host()
        swarm.join("a")
        swarm.join("b")
        with monkeypatch.context() as armed:
            armed.setenv(VARIABLE, "statistics.sent:3:kill")
            victim = swarm.join("c")
        victim.wait()
        swarm.more(3)
        failed = swarm.events("host", AttemptFailed)
        assert failed, "nobody noticed the death"
        commit = next(c for c in swarm.commits() if c.round == failed[0].round)
        assert len(commit.contributors) == 2
        assert commit.divisor == sum(c.tokens for c in commit.contributors)
        told = [e for e in swarm.events("host", RoundCommitted) if e.round == commit.round]
        assert told[0].contributors == 2
