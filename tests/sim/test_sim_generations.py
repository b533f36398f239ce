"""A stay ends at once, and is told, when something fails in it that nobody expected."""

from __future__ import annotations

import pytest
from test_sim_swarm import assert_sound, play, spec

from farflung.averaging.exchange import Exchange
from farflung.events import GenerationOpened, InnerStateLoaded, TaskFailed
from farflung.peer.generation import GenerationFailed
from farflung.sim.world import SimSwarm
from farflung.trainers.numpy_trainer import NumpyTrainer


class Fault:
    """The next `times` exchanges of a node raise what no code expects."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times = 0
        self.node = ""
        run = Exchange.run

        async def broken(exchange: Exchange) -> None:
            if exchange._node == self.node and self.times:
                self.times -= 1
                raise ZeroDivisionError("a fault of this program")
            await run(exchange)

        monkeypatch.setattr(Exchange, "run", broken)


def test_an_unexpected_failure_is_an_event_and_ends_that_stay_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fault = Fault(monkeypatch)

    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(3)
        fault.node, fault.times = swarm.nodes["p1"].node, 1
        await swarm.finished()

    swarm = play(story, spec(rounds=14), peers=3)
    assert_sound(swarm)
    (failed,) = [e for e in swarm.nodes["p1"].events if isinstance(e, TaskFailed)]
    assert failed.task == "attempt" and failed.error.startswith("ZeroDivisionError")
    opened = [e.name for e in swarm.events if isinstance(e, GenerationOpened)]
    assert opened.count("p1") == 2
    last = swarm.commits()[-1]
    assert swarm.nodes["p1"].node in {c.node for c in last.contributors}


def test_stays_that_fail_again_and_again_end_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    fault = Fault(monkeypatch)

    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(2)
        fault.node, fault.times = swarm.nodes["p0"].node, 1 << 30
        task = swarm.nodes["p0"].task
        assert task is not None
        with pytest.raises(GenerationFailed, match="a fault of this program"):
            await task
        swarm.nodes["p0"].task = None

    play(story, spec(rounds=2000), peers=3)


@pytest.mark.parametrize("rule", ["fresh", "donor"])
def test_inner_states_live_in_the_simulator(rule: str) -> None:
    """A restarted peer goes on with its own optimizer state, a newcomer with a donor's if asked."""

    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(6)
        await swarm.kill("p1")
        swarm.spawn("p1")
        swarm.add("late", "trainer")
        swarm.spawn("late")
        await swarm.committed(16)

    swarm = play(story, spec(rounds=2000), peers=3, momentum=0.5, inner_state=rule)
    loaded = {
        label: [e.source for e in node.events if isinstance(e, InnerStateLoaded)]
        for label, node in swarm.nodes.items()
    }
    assert loaded["p1"] == ["own"]
    assert len(loaded["late"]) == (rule == "donor")
    trainer = swarm.nodes["late"].trainer
    assert trainer is None or isinstance(trainer, NumpyTrainer)
