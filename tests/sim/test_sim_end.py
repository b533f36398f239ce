"""The end of a run: nobody is left behind with an older round."""

from __future__ import annotations

import asyncio

import pytest
from test_sim_swarm import assert_sound, play, spec

from farflung.events import Applied, Warned
from farflung.ids import NodeId
from farflung.run.coordinator import FAREWELL_S, FAREWELL_TOLD_S
from farflung.sim.world import COORDINATOR_NODE, SimSwarm


@pytest.mark.parametrize("delay_s", [0.09, 2.0, 0.6 + FAREWELL_TOLD_S])
def test_a_peer_that_lags_at_the_end_gets_the_last_rounds_from_the_keeper(delay_s: float) -> None:
    """The others are gone by the time it hears of the last commit."""

    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(8)
        swarm.network.set_delay(swarm.nodes["p2"].node, COORDINATOR_NODE, delay_s)
        await swarm.finished()

    swarm = play(story, spec(rounds=20), peers=3)
    last = [e for e in swarm.nodes["p2"].events if isinstance(e, Applied)][-1]
    assert last.round == 19
    assert_sound(swarm)
    told = [e for e in swarm.events if isinstance(e, Warned) and "to reach p2" in e.sentence]
    assert len(told) == (delay_s > FAREWELL_TOLD_S)


def test_a_coordinator_does_not_wait_for_ever_for_a_peer_that_hangs() -> None:
    """Connected and unable to fetch: after the farewell the host ends; what is kept is whole."""

    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(3)
        p2 = swarm.nodes["p2"].node
        for node in swarm.nodes.values():
            if node.node != p2:
                swarm.network.partition(node.node, NodeId(p2))
        await swarm.until(lambda: swarm.picture.finished)
        ended = asyncio.get_running_loop().time()
        with pytest.raises(TimeoutError):
            await swarm.finished(2 * FAREWELL_S)
        assert asyncio.get_running_loop().time() - ended >= FAREWELL_S

    swarm = play(story, spec(rounds=12), peers=3)
    assert len(swarm.commits()) == 12
