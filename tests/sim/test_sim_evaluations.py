"""Evaluations in a swarm: they come, they are journalled, and nobody is less safe for them."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from sim_stories import assert_sound, play, small_run

from farflung.config.load import from_table
from farflung.config.run import RunSpec
from farflung.events import EvaluationFailed, ModelEvaluated, TaskFailed
from farflung.peer.retention import Retention
from farflung.sim.checks import check
from farflung.sim.world import SimSwarm
from farflung.swarm.records import Evaluation


def run_spec(**outer: Any) -> RunSpec:
    spec = small_run("evaluations", outer={"rounds": 400, **outer}, swarm={"snapshot_every": 4})
    import msgspec

    return from_table(msgspec.to_builtins(spec) | {"evaluation": {"every": 4, "prompts": ["a"]}})


def evaluations(swarm: SimSwarm) -> list[Evaluation]:
    return [r for r in swarm.records() if isinstance(r, Evaluation)]


@pytest.mark.parametrize("outer", [{}, {"fragments": 4, "window": 2, "merge": "blend"}])
def test_every_period_one_peer_measures_a_snapshot(
    outer: dict[str, Any],
) -> None:
    async def story(swarm: SimSwarm) -> None:
        await swarm.until(lambda: len(evaluations(swarm)) >= 4)

    swarm = play(story, run_spec(**outer), peers=3)
    found = evaluations(swarm)
    assert [e.serial for e in found] == list(range(len(found)))
    periods = [e.committed // 4 for e in found]
    assert periods[0] == 1 and periods == sorted(set(periods))
    assert all(e.next_round >= e.committed for e in found)
    assert len({e.node for e in found}) == 3
    losses = np.array([e.bits_per_byte for e in found], np.uint32).view(np.float32)
    assert (losses > 0).all() and losses[0] != losses[1]
    assert swarm.picture.scores[-1] == (found[-1].next_round, pytest.approx(losses[-1]))
    assert swarm.picture.samples[0][0] == "a"
    assert_sound(swarm)
    check(swarm)


def test_whoever_dies_while_it_measures_costs_nothing_but_a_second_try() -> None:
    async def story(swarm: SimSwarm) -> None:
        await swarm.until(lambda: swarm.coordinator_state().evaluating is not None)
        job = swarm.coordinator_state().evaluating
        assert job is not None
        label = next(label for label, n in swarm.nodes.items() if n.node == job.node)
        await swarm.kill(label)
        await swarm.until(lambda: bool(evaluations(swarm)), 120)
        assert evaluations(swarm)[0].node != job.node
        swarm.spawn(label)
        await swarm.committed(12)

    swarm = play(story, run_spec(), peers=3)
    assert [e for e in swarm.events if isinstance(e, EvaluationFailed)]
    assert_sound(swarm)


def test_a_restarted_coordinator_goes_on_with_the_numbers() -> None:
    async def story(swarm: SimSwarm) -> None:
        await swarm.until(lambda: len(evaluations(swarm)) >= 1)
        await swarm.until(lambda: swarm.coordinator_state().evaluating is not None)
        await swarm.kill_coordinator()
        await asyncio.sleep(2)
        await swarm.start_coordinator()
        await swarm.until(lambda: len(evaluations(swarm)) >= 3)

    swarm = play(story, run_spec(), peers=3)
    assert [e.serial for e in evaluations(swarm)] == list(range(len(evaluations(swarm))))
    assert not [e for e in swarm.events if isinstance(e, TaskFailed)]
    told = [e.serial for e in swarm.events if isinstance(e, ModelEvaluated)]
    assert told == sorted(set(told))
    assert_sound(swarm)


def test_snapshots_that_several_want_at_once_are_written_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The apply loop, the end of the run and an evaluation each may want one."""
    begin, begun = Retention._begin, []

    def one_at_a_time(self: Retention) -> asyncio.Task[None]:
        begun.append(self._saving is None or self._saving.done())
        return begin(self)

    monkeypatch.setattr(Retention, "_begin", one_at_a_time)

    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(1)
        agent = swarm.nodes["p0"].agent
        assert agent is not None
        retention = agent._evaluations._retention
        while swarm.picture.committed < 12:
            newest = agent.node.follower.state.next_round
            found = await asyncio.gather(*(retention.snapshot_since(newest) for _ in range(3)))
            assert all(p is not None and p.next_round >= newest for p in found)
            await asyncio.sleep(0.5)

    swarm = play(story, run_spec(), peers=3)
    assert len(begun) > 12 and all(begun)
    assert_sound(swarm)


def test_whoever_has_no_room_for_a_new_snapshot_leaves_it_to_another() -> None:
    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(2)
        agent = swarm.nodes["p1"].agent
        assert agent is not None
        agent.applier._retention._limit = 1
        await swarm.until(lambda: len(evaluations(swarm)) >= 4)

    swarm = play(story, run_spec(), peers=3)
    found = evaluations(swarm)
    assert swarm.nodes["p1"].node not in {e.node for e in found}
    assert len({e.node for e in found}) == 2
    periods = [e.committed // 4 for e in found]
    assert periods == sorted(set(periods))
    reasons = {e.reason for e in swarm.events if isinstance(e, EvaluationFailed)}
    assert reasons == {"it has no such new snapshot, for lack of room on its disk"}
    assert all(e.next_round >= e.committed for e in found)
