"""The end of a run: nobody is left behind with an older round."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from sim_stories import assert_sound, play
from test_sim_swarm import spec

from farflung.checkpoint.snapshot import newest
from farflung.coordinator.lingering import LINGER_S
from farflung.coordinator.lingering import TOLD_S as LINGER_TOLD_S
from farflung.errors import StorageError
from farflung.events import (
    Applied,
    LastRoundAwaited,
    LastRoundLacking,
    SnapshotFetched,
    SnapshotUnusable,
)
from farflung.ids import NodeId
from farflung.sim.world import COORDINATOR_NODE, KEEPER, SimSwarm


@pytest.mark.parametrize("delay_s", [0.09, 2.0, 0.6 + LINGER_TOLD_S])
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
    told = [e for e in swarm.events if isinstance(e, LastRoundAwaited) and e.names == ("p2",)]
    assert len(told) == (delay_s > LINGER_TOLD_S)


@pytest.mark.parametrize("dies", [False, True])
def test_trainers_stay_until_the_keeper_has_the_last_round(dies: bool) -> None:
    """Whoever is fastest would take the final weights with it; also when the host dies then."""

    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(8)
        keeper = swarm.nodes["keeper"].node
        for node in swarm.nodes.values():
            if node.node != keeper:
                swarm.network.set_delay(keeper, node.node, 0.5)
        await swarm.until(lambda: swarm.picture.finished)
        if dies:
            await swarm.kill("keeper")
            await swarm.kill_coordinator()
            await asyncio.sleep(20.0)
            await swarm.start_coordinator()
            swarm.spawn("keeper")
        await swarm.finished()

    swarm = play(story, spec(rounds=20), peers=3)
    last = [e for e in swarm.nodes["keeper"].events if isinstance(e, Applied)][-1]
    assert last.round == 19
    assert_sound(swarm)


def test_a_coordinator_does_not_wait_for_ever_for_a_peer_that_hangs() -> None:
    """Connected and unable to fetch: after lingering the host ends; what is kept is whole."""

    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(3)
        p2 = swarm.nodes["p2"].node
        for node in swarm.nodes.values():
            if node.node != p2:
                swarm.network.partition(node.node, NodeId(p2))
        await swarm.until(lambda: swarm.picture.finished)
        ended = asyncio.get_running_loop().time()
        with pytest.raises(TimeoutError):
            await swarm.finished(2 * LINGER_S)
        assert asyncio.get_running_loop().time() - ended >= LINGER_S

    swarm = play(story, spec(rounds=12), peers=3)
    assert len(swarm.commits()) == 12


@pytest.mark.parametrize("gap_s", [0.0, 3.0])
def test_a_host_that_dies_at_the_end_still_hands_out_the_last_rounds(gap_s: float) -> None:
    """Its next start finds a finished run, and waits for whose stay is open."""

    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(8)
        p2 = swarm.nodes["p2"].node
        swarm.network.set_delay(p2, COORDINATOR_NODE, 1.0)
        await swarm.until(lambda: swarm.picture.finished)
        await swarm.kill_coordinator()
        await swarm.kill("keeper")
        swarm.network.set_delay(p2, COORDINATOR_NODE, 0.0)
        await asyncio.sleep(gap_s)
        await swarm.start_coordinator()
        swarm.spawn("keeper")
        await swarm.finished()

    swarm = play(story, spec(rounds=20), peers=3)
    last = [e for e in swarm.nodes["p2"].events if isinstance(e, Applied)][-1]
    assert last.round == 19
    assert_sound(swarm)


def test_a_peer_that_was_out_at_the_end_gets_it_when_the_host_is_started_again() -> None:
    """No stay of its is open: whoever starts a finished run again does so for such a peer."""

    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(8)
        p2 = swarm.nodes["p2"].node
        others = [n.node for n in swarm.nodes.values() if n.node != p2] + [COORDINATOR_NODE]
        for other in others:
            swarm.network.partition(p2, other)
        tasks = [swarm.nodes[label].task for label in ("p0", "p1")]
        await swarm.until(lambda: all(t is not None and t.done() for t in tasks))
        await asyncio.sleep(1.0)
        await swarm.kill_coordinator()
        await swarm.kill("keeper")
        for other in others:
            swarm.network.heal(p2, other)
        await swarm.start_coordinator()
        swarm.spawn("keeper")
        await swarm.finished()

    swarm = play(story, spec(rounds=60), peers=3)
    last = [e for e in swarm.nodes["p2"].events if isinstance(e, Applied)][-1]
    assert last.round == 59
    assert_sound(swarm)


def test_a_fetched_last_round_outlives_a_power_cut() -> None:
    """The keeper was out, took a snapshot of the end, and had nothing left to apply: what its
    journal says must be on the disk before the snapshot counts."""
    fetched: list[int] = []

    async def story(swarm: SimSwarm) -> None:
        keeper = swarm.nodes[KEEPER]

        def nothing_to_replay() -> bool:
            assert keeper.agent is not None
            follower, pointer = keeper.agent.node.follower, newest(keeper.disk)
            rounds = {follower.resolved, follower.state.next_round}
            return pointer is not None and rounds == {pointer.next_round}

        await swarm.committed(2)
        await swarm.until(nothing_to_replay)  # a round that it applies would sync its journal
        await swarm.kill(KEEPER)
        await swarm.until(lambda: swarm.picture.finished)
        swarm.spawn(KEEPER)
        assert keeper.life is not None
        keeper.life.listen = lambda e: (
            swarm.strike(KEEPER) if isinstance(e, SnapshotFetched) else None
        )
        await swarm.until(lambda: any(isinstance(e, SnapshotFetched) for e in keeper.events))
        await swarm.kill(KEEPER)
        fetched.extend(e.next_round for e in keeper.events if isinstance(e, SnapshotFetched))
        keeper.events.clear()
        # Before it hears from the coordinator it has its disk alone.
        swarm.network.set_delay(keeper.node, COORDINATOR_NODE, 1.0)
        swarm.spawn(KEEPER)
        await swarm.finished()

    base = spec(rounds=60)
    rules = msgspec.structs.replace(base.swarm, keep_rounds=6)
    swarm = play(story, msgspec.structs.replace(base, swarm=rules, record="none"), peers=3)
    told = swarm.nodes[KEEPER].events
    assert fetched == [60]
    assert not [e for e in told if isinstance(e, SnapshotFetched)]
    assert not [e for e in told if isinstance(e, SnapshotUnusable)]
    assert_sound(swarm)


def test_a_finished_run_waits_for_nobody_who_has_the_last_round() -> None:
    ended: list[float] = []

    async def story(swarm: SimSwarm) -> None:
        await swarm.until(lambda: swarm.picture.finished)
        ended.append(asyncio.get_running_loop().time())
        await swarm.finished()
        ended.append(asyncio.get_running_loop().time())

    swarm = play(story, spec(rounds=6), peers=3)
    assert ended[1] - ended[0] < swarm.spec.swarm.dead_s / 3


def test_a_peer_that_loses_its_link_with_the_last_commit_is_waited_for() -> None:
    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(10)
        agent = swarm.nodes["p2"].agent
        assert agent is not None
        swarm.network.set_delay(swarm.nodes["p2"].node, COORDINATOR_NODE, 1.0)
        await swarm.until(lambda: swarm.picture.finished)
        agent.node.control.reconnect()
        await swarm.finished()

    swarm = play(story, spec(rounds=20), peers=3)
    last = [e for e in swarm.nodes["p2"].events if isinstance(e, Applied)][-1]
    assert last.round == 19


@pytest.mark.parametrize("mended", [True, False])
def test_trainers_stay_until_the_last_round_is_on_the_keepers_disk(
    mended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that takes the journal's small records, but no file: its keeper follows in memory, and
    its next start would have an older round."""

    def refuse(path: str, _data: object) -> None:
        raise StorageError(f"no space left on the disk while writing {path}")

    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(8)
        disk = swarm.nodes["keeper"].disk
        with monkeypatch.context() as full:
            full.setattr(disk, "replace", refuse)
            await swarm.until(lambda: swarm.picture.finished)
            await asyncio.sleep(30.0)
            last = [e for e in swarm.nodes["keeper"].events if isinstance(e, Applied)][-1]
            assert last.round == 19
            assert not any(n.task is None or n.task.done() for n in swarm.nodes.values())
            if not mended:
                await swarm.finished()
        await swarm.finished()
        newest_there = newest(disk)
        assert newest_there is not None
        assert (newest_there.next_round == 20) == mended

    swarm = play(story, spec(rounds=20), peers=3)
    assert (LastRoundLacking(names=(KEEPER,)) in swarm.events) != mended
    assert (KEEPER,) in [e.names for e in swarm.events if isinstance(e, LastRoundAwaited)]
    assert_sound(swarm)
