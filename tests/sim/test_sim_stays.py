"""A stay begins from the anchor as it is when the stay opens, whatever was replayed before."""

from __future__ import annotations

from typing import Any

import pytest
from sim_stories import Story, play, small_run

from farflung.config.run import RunSpec
from farflung.events import ContributionRejected, Trained
from farflung.ids import NodeId
from farflung.sim.world import SimSwarm


def spec(**outer: Any) -> RunSpec:
    """No snapshot after genesis: whoever comes back replays from the first weights."""
    return small_run(
        "sim",
        inner={"optimizer": "muon", "warmup_steps": 1, "join_warmup_steps": 1},
        outer={"inner_steps": 10, "rounds": 60, **outer},
        swarm={"snapshot_every": 1000},
    )


async def killed_and_back(swarm: SimSwarm) -> None:
    await swarm.committed(4)
    await swarm.kill("p1")
    await swarm.committed(20)
    swarm.spawn("p1")
    await swarm.finished()


async def cut_off_and_back(swarm: SimSwarm) -> None:
    """Put out, it goes on following the journal, but outside of a stay."""
    await swarm.committed(4)
    node = swarm.nodes["p1"].node
    others = [n.node for n in swarm.nodes.values() if n.node != node] + [NodeId("coordinator")]
    for other in others:
        swarm.network.partition(node, other)
    await swarm.committed(20)
    for other in others:
        swarm.network.heal(node, other)
    await swarm.finished()


async def late(swarm: SimSwarm) -> None:
    await swarm.committed(20)
    swarm.add("p1b", "trainer")
    swarm.spawn("p1b")
    await swarm.finished()


@pytest.mark.parametrize("story", [killed_and_back, cut_off_and_back, late])
@pytest.mark.parametrize("fragments", [1, 2])
def test_whoever_comes_later_trains_from_the_present_anchor(story: Story, fragments: int) -> None:
    swarm = play(story, spec(fragments=fragments), peers=3)
    label = "p1b" if story is late else "p1"
    assert max(losses(swarm, label)) < 3 * max(losses(swarm, "p0"))  # else it is some hundred times
    assert not [e for e in swarm.events if isinstance(e, ContributionRejected)]


def losses(swarm: SimSwarm, label: str) -> list[float]:
    """Of the rounds after the absence, where a step was made."""
    trained = [e for e in swarm.nodes[label].events if isinstance(e, Trained)]
    found = [e.loss for e in trained if e.round > 20 and e.steps]
    assert found
    return found
