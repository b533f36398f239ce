"""Evaluations in a swarm: they come, they are journalled, and nobody is less safe for them."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import numpy as np
import pytest
from sim_stories import assert_sound, play, small_run

from farflung.config.load import from_table
from farflung.config.run import RunSpec
from farflung.errors import Refused
from farflung.events import Applied, EvaluationFailed, ModelEvaluated, TaskFailed, Warned
from farflung.ids import Role
from farflung.peer.retention import Retention
from farflung.sim.checks import check
from farflung.sim.ending import open_again
from farflung.sim.world import COORDINATOR_NODE, SimSwarm
from farflung.swarm.records import Evaluation


def run_spec(**outer: Any) -> RunSpec:
    spec = small_run("evaluations", outer={"rounds": 400, **outer}, swarm={"snapshot_every": 4})

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


# ---- a node that does nothing else ---------------------------------------------------------


def trainers_asked(swarm: SimSwarm) -> list[Evaluation]:
    trainers = {n.node for n in swarm.nodes.values() if n.role == Role.TRAINER}
    return [e for e in evaluations(swarm) if e.node in trainers]


async def with_evaluator(swarm: SimSwarm) -> str:
    """It takes part before the first evaluation is due. Returns its node id."""
    node = swarm.add("evaluator", Role.EVALUATOR, outbound_only=True).node
    swarm.spawn("evaluator")
    await swarm.until(lambda: node in swarm.coordinator_state().nodes)
    await swarm.until(lambda: swarm.coordinator_state().nodes[node].open)
    assert swarm.coordinator_state().committed < 4
    return str(node)


@pytest.mark.parametrize("outer", [{}, {"fragments": 4, "window": 2, "merge": "blend"}])
def test_an_evaluator_measures_every_time_and_the_end(outer: dict[str, Any]) -> None:
    async def story(swarm: SimSwarm) -> None:
        await with_evaluator(swarm)
        await swarm.finished()

    swarm = play(story, run_spec(**{**outer, "rounds": 22}), peers=3)
    found = evaluations(swarm)
    assert len(found) >= 3 and trainers_asked(swarm) == []
    assert (found[-1].committed, found[-1].next_round) == (22, len(swarm.commits()))
    mine = swarm.nodes["evaluator"]
    last = [e for e in mine.events if isinstance(e, Applied)][-1]
    assert last.state_root == swarm.commits()[-1].state_root.hex()
    for commit in swarm.commits():
        assert mine.node not in {*commit.holders, *(c.node for c in commit.contributors)}
    assert_sound(swarm)
    check(swarm)


def test_an_evaluator_that_dies_and_comes_back_is_asked_again() -> None:
    by: list[str] = []

    async def story(swarm: SimSwarm) -> None:
        me = await with_evaluator(swarm)
        await swarm.until(lambda: swarm.coordinator_state().evaluating is not None)
        await swarm.kill("evaluator")
        await swarm.until(lambda: len(evaluations(swarm)) >= 1, 120)
        assert trainers_asked(swarm) == evaluations(swarm), "nobody else was there"
        swarm.spawn("evaluator")
        await swarm.until(lambda: swarm.coordinator_state().nodes[me].generation == 2)
        had = len(evaluations(swarm))
        await swarm.until(lambda: len(evaluations(swarm)) >= had + 3)
        by.extend(e.node == me for e in evaluations(swarm)[had + 1 :])  # one may have been asked
        await swarm.kill_coordinator()
        await swarm.start_coordinator()
        had = len(evaluations(swarm))
        await swarm.until(lambda: len(evaluations(swarm)) >= had + 2)
        by.append(evaluations(swarm)[-1].node == me)

    swarm = play(story, run_spec(), peers=3)
    assert by and all(by)
    assert_sound(swarm)
    check(swarm)


def test_a_run_without_a_keeper_ends_without_the_evaluators_copy() -> None:
    async def story(swarm: SimSwarm) -> None:
        await with_evaluator(swarm)
        await swarm.committed(5)
        await swarm.kill("evaluator")
        await swarm.finished()

    swarm = play(story, run_spec(rounds=8), peers=3, keeper=False)
    assert len(swarm.commits()) == 8
    assert_sound(swarm)


def test_an_evaluator_of_a_run_that_goes_on_is_there_again() -> None:
    async def story(swarm: SimSwarm) -> None:
        await with_evaluator(swarm)
        await swarm.finished()
        assert await open_again(swarm, 6, 120.0) == 4

    swarm = play(story, run_spec(rounds=8), peers=3)
    assert len(swarm.commits()) == 14
    assert evaluations(swarm)[-1].committed == 14 and trainers_asked(swarm) == []
    assert_sound(swarm)


def test_only_an_evaluator_comes_as_one() -> None:
    """The role is part of the membership: nobody changes it by saying another one."""

    async def story(swarm: SimSwarm) -> None:
        me = await with_evaluator(swarm)
        await swarm.kill("evaluator")
        swarm.nodes["evaluator"].role = Role.TRAINER
        swarm.spawn("evaluator")
        task = swarm.nodes["evaluator"].task
        assert task is not None
        with pytest.raises(Refused, match="joined as evaluator, you come as trainer"):
            await task
        swarm.nodes["evaluator"].task = None
        assert not swarm.coordinator_state().nodes[me].trains
        await swarm.finished()

    assert_sound(play(story, run_spec(rounds=8), peers=3))


@pytest.mark.parametrize("latency_s", [None, (0.2, 0.4)])
def test_the_end_is_measured_though_the_evaluator_is_busy_when_it_comes(
    latency_s: tuple[float, float] | None,
) -> None:
    async def story(swarm: SimSwarm) -> None:
        await with_evaluator(swarm)
        if latency_s is not None:
            me = swarm.nodes["evaluator"].node
            swarm.network.set_delay(me, COORDINATOR_NODE, latency_s[1])
        await swarm.until(lambda: swarm.picture.finished)
        job = swarm.coordinator_state().evaluating
        assert job is not None and job.committed == 4, "of the period before"
        await swarm.finished()

    swarm = play(story, run_spec(rounds=5), peers=3)
    assert [e.committed for e in evaluations(swarm)] == [4, 5]
    assert trainers_asked(swarm) == []
    assert_sound(swarm)


@pytest.mark.parametrize("every", [0, 4])
def test_an_evaluator_that_nobody_will_ask_says_so(every: int) -> None:
    async def story(swarm: SimSwarm) -> None:
        await with_evaluator(swarm)

    plain = msgspec.to_builtins(run_spec(rounds=8)) | {"evaluation": {"every": every}}
    told = play(story, from_table(plain), peers=3).nodes["evaluator"].events
    idle = [e.sentence for e in told if isinstance(e, Warned) and "nothing to do" in e.sentence]
    assert idle == ["an evaluator has nothing to do in this run: evaluation.every = 0"] * (
        every == 0
    )
