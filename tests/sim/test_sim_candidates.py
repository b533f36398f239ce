"""A commit copies in what was computed for the vote, and does without when it must."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from test_sim_swarm import assert_sound, play, spec, to_the_end

from farflung.outer.candidate import Stepped
from farflung.peer.candidates import Candidates
from farflung.peer.outer_state import OuterState
from farflung.sim.world import SimSwarm
from farflung.swarm.records import Commit

FLIGHT = {"fragments": 4, "window": 2, "inner_steps": 20, "rounds": 12}


@pytest.fixture
def computed_again(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rounds whose step was computed at a commit."""
    rounds: list[int] = []
    again = OuterState.stepped

    def counted(state: OuterState, commit: Commit, results: Sequence[bytes]) -> Stepped:
        rounds.append(commit.round)
        return again(state, commit, results)

    monkeypatch.setattr(OuterState, "stepped", counted)
    return rounds


@pytest.mark.parametrize("outer", [{}, FLIGHT])
def test_nearly_every_step_is_computed_once(
    computed_again: list[int], outer: dict[str, Any]
) -> None:
    swarm = play(to_the_end, spec(**outer), peers=3)
    assert_sound(swarm)
    steps = swarm.picture.committed * len(swarm.nodes)
    assert len(computed_again) <= steps // 10  # whoever is slower than a commit of the others


@pytest.mark.parametrize("outer", [{}, FLIGHT])
def test_nodes_that_kept_nothing_end_with_the_same_state(
    monkeypatch: pytest.MonkeyPatch, outer: dict[str, Any]
) -> None:
    kept = play(to_the_end, spec(**outer), peers=3)
    monkeypatch.setattr(Candidates, "take", lambda *_: None)
    computed = play(to_the_end, spec(**outer), peers=3)
    for swarm in (kept, computed):
        assert_sound(swarm)
        assert len(set(swarm.roots_at_end.values())) == 1  # type: ignore[attr-defined]


def test_nothing_is_kept_when_a_run_is_over() -> None:
    left: dict[str, int] = {}

    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(5)
        agents = {label: node.agent for label, node in swarm.nodes.items()}
        await swarm.finished()
        for label, agent in agents.items():
            assert agent is not None
            left[label] = len(agent.node.follower.candidates)

    play(story, spec(), peers=3)
    assert set(left.values()) == {0}
