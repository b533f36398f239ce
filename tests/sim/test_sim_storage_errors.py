"""A disk that fails under one node: the others lose nothing, and it comes back by itself."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Any

import pytest
from sim_stories import assert_exactly_once, contributions, play, small_run

from farflung.checkpoint.input_log import InputLog
from farflung.config.run import RunSpec
from farflung.disk import MemoryDisk
from farflung.errors import StorageError
from farflung.events import (
    AttemptFailed,
    GenerationClosed,
    InputsNotKept,
    Trouble,
    VoteWithheld,
    sentence_of,
)
from farflung.failpoints import Arming, Killed, arm
from farflung.ids import NodeId
from farflung.sim.loop import run_virtual
from farflung.sim.world import KEEPER, SimSwarm
from farflung.swarm.records import Commit


def spec(*, snapshot_every: int = 3, **outer: Any) -> RunSpec:
    swarm = {"snapshot_every": snapshot_every}
    return small_run("storage", record="all", outer=outer, swarm=swarm)


FAR_S = 0.09
"""One way; a round takes some 0.3 s."""


def fail() -> None:
    raise StorageError("no space left on the disk")


async def restarted(
    swarm: SimSwarm, label: str, arming: Callable[[], Arming], *, bare: bool = False
) -> None:
    """The node's process once more, some rounds later, with a failpoint of its own.

    `bare`: without what was on its disk, so that it takes its state from a donor.
    """
    await swarm.committed(3)
    await swarm.kill(label)
    if bare:
        swarm.nodes[label].disk = MemoryDisk()
    await swarm.committed(swarm.picture.committed + 2)
    context = contextvars.copy_context()
    context.run(arming)
    context.run(swarm.spawn, label)


def far(swarm: SimSwarm, label: str, delay_s: float = FAR_S) -> None:
    """Far from the coordinator: what both say meets on the way."""
    swarm.network.set_delay(swarm.nodes[label].node, NodeId("coordinator"), delay_s)


def said(swarm: SimSwarm, label: str, kind: type[Trouble]) -> bool:
    """That the disk is full, in an event of this kind."""
    told = [e for e in swarm.nodes[label].events if isinstance(e, kind)]
    return any("no space left" in sentence_of(e) for e in told)


@pytest.mark.parametrize("label", ["p0", "keeper"])
def test_a_full_disk_takes_its_node_out_until_there_is_room(label: str) -> None:
    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(3)
        disk = swarm.nodes[label].disk
        disk.full = True
        await swarm.committed(20)
        disk.full = False
        await swarm.finished()

    swarm = play(story, spec(rounds=60), peers=3)
    assert_exactly_once(swarm)
    closed = {e.name for e in swarm.events if isinstance(e, GenerationClosed)}
    assert closed <= {label}, "another node lost its stay"
    if label == "p0":
        assert contributions(swarm, "p0")[-1] == 59
    assert said(swarm, label, Trouble)


@pytest.mark.parametrize(
    ("name", "snapshot_every"),
    [("vote.stored", 3), ("snapshot.chunks-written", 3), ("results.fetched", 100)],
)
def test_a_result_or_snapshot_that_cannot_be_kept_costs_the_others_nothing(
    name: str, snapshot_every: int
) -> None:
    async def story(swarm: SimSwarm) -> None:
        await restarted(swarm, "p0", lambda: arm(name, 1, fail))
        await swarm.finished()

    swarm = play(story, spec(snapshot_every=snapshot_every, rounds=16), peers=3)
    assert_exactly_once(swarm)
    assert said(swarm, "p0", Trouble)
    assert contributions(swarm, "p0")[-1] == 15
    back = contributions(swarm, "p0")[3]
    failed = [e for e in swarm.events if isinstance(e, AttemptFailed) and e.round > back]
    assert not failed


def test_inputs_that_cannot_be_recorded_do_not_hold_up_a_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        fail()

    monkeypatch.setattr(InputLog, "write", refuse)

    async def story(swarm: SimSwarm) -> None:
        await swarm.finished()

    swarm = play(story, spec(), peers=3)
    assert len(swarm.commits()) == 12
    assert not [e for e in swarm.events if isinstance(e, AttemptFailed)]
    assert said(swarm, "p0", InputsNotKept)


def test_a_peer_that_cannot_keep_a_result_still_gives_the_others_theirs() -> None:
    """Its link is slow: the result is on its way when the disk refuses it."""

    async def story(swarm: SimSwarm) -> None:
        here = swarm.nodes["p0"].node
        for label in ("p1", "p2", "keeper"):
            swarm.network.path(here, swarm.nodes[label].node).bytes_per_s = 20_000
        await restarted(swarm, "p0", lambda: arm("vote.stored", 1, fail))
        await swarm.finished()

    swarm = play(story, spec(rounds=10, codec="fp32"), peers=3)
    assert_exactly_once(swarm)
    assert said(swarm, "p0", VoteWithheld)
    back = contributions(swarm, "p0")[3]
    failed = [e for e in swarm.events if isinstance(e, AttemptFailed) and e.round >= back - 1]
    assert not failed


@pytest.mark.parametrize("at", [*range(2, 40, 4)])
def test_a_node_whose_replica_failed_says_hello_again_and_contributes(at: int) -> None:
    """Wherever its journal stands: also when a commit overtakes the SYNCED of its return."""

    async def story(swarm: SimSwarm) -> None:
        far(swarm, "p0")
        await restarted(swarm, "p0", lambda: arm("replica.written", at, fail))
        await swarm.finished()

    swarm = play(story, spec(rounds=40), peers=3)
    assert_exactly_once(swarm)
    assert said(swarm, "p0", Trouble)
    assert contributions(swarm, "p0")[-1] >= 38


PLACES = ["ready.sent", "apply.before-step", "apply.stepped", "landing.started", "statistics.sent"]


@pytest.mark.parametrize(
    ("name", "bare"),
    [*((name, False) for name in [*PLACES, "synced.sent"]), ("state.installed", True)],
)
def test_an_error_at_this_place_is_not_the_end_of_the_node(name: str, bare: bool) -> None:
    rules = spec(rounds=30, fragments=2, window=2)

    async def story(swarm: SimSwarm) -> None:
        await restarted(swarm, "p0", lambda: arm(name, 1, fail), bare=bare)
        await swarm.finished()

    swarm = play(story, rules, peers=3)
    assert_exactly_once(swarm)
    assert said(swarm, "p0", Trouble)
    assert contributions(swarm, "p0")[-1] >= 28
    assert len(set(swarm.commits())) == 30


@pytest.mark.parametrize("delay_s", [0.001, 0.005, 0.06])
def test_a_stay_that_its_node_has_not_heard_of_is_ended_and_another_one_begins(
    delay_s: float,
) -> None:
    async def story(swarm: SimSwarm) -> None:
        far(swarm, "p0", delay_s)
        await restarted(swarm, "p0", lambda: arm("synced.sent", 1, fail))
        await swarm.finished()

    swarm = play(story, spec(rounds=40), peers=3)
    assert_exactly_once(swarm)
    assert said(swarm, "p0", Trouble)
    assert contributions(swarm, "p0")[-1] >= 38


def test_a_node_that_died_before_the_last_step_ends_by_itself_without_a_coordinator() -> None:
    async def main() -> SimSwarm:
        swarm = await SimSwarm.start(spec(), peers=3)
        node = swarm.nodes["p0"]

        def crash() -> None:
            node.disk = node.disk.crash(1 << 20)
            swarm.network.kill(node.node)
            node.task = node.agent = node.trainer = None
            raise Killed

        def crash_at_the_last() -> Arming:
            return arm("apply.before-step", 1, look)

        def look() -> None:
            assert node.agent is not None
            if node.agent.node.follower.state.next_round == 11:
                crash()
            crash_at_the_last()

        for other in ("p1", "p2", KEEPER):  # their votes come when p0 has the result on its disk
            far(swarm, other, 0.2)
        try:
            await restarted(swarm, "p0", crash_at_the_last)
            # The others may end the run first; the coordinator waits for whoever lacks its end.
            await swarm.until(lambda: node.task is None)
            await swarm.until(lambda: swarm.picture.finished)
            await swarm.kill_coordinator()
            swarm.spawn("p0")
            task = node.task
            assert task is not None
            await swarm.until(task.done)
            assert task.result() == "finished"
        finally:
            await swarm.stop()
        return swarm

    swarm = run_virtual(main())
    assert [r.round for r in swarm.records() if isinstance(r, Commit)] == list(range(12))
