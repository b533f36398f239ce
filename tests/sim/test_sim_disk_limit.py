"""A node stays within its limit, and a limit that is reached costs a peer its snapshots only."""

from __future__ import annotations

import pytest
from test_sim_join import contributes, events, node, play, spec, swarm_now, with_record

from farflung.disk import MemoryDisk
from farflung.errors import ConfigError
from farflung.events import LogTrimmedByLimit, SnapshotFetched, SnapshotSkipped
from farflung.peer.disk_budget import need_of
from farflung.sim.world import KEEPER, SimSwarm

ELEMENTS = 1 << 16
ROUNDS = 60


def limit(swarm: SimSwarm, label: str, rounds: int) -> int:
    """What the node needs and the results of some more rounds; takes effect with its start."""
    agent = swarm.nodes[label].agent
    assert agent is not None
    state = agent.follower.state
    need = need_of(state, keeps_genesis=label == KEEPER, cache=0)
    return need.total + rounds * state.grid(0).bytes_between(0, state.grid(0).chunks)


def respawn(swarm: SimSwarm, label: str, max_bytes: int) -> None:
    """As `farflung join --max-disk` does it."""
    build = swarm._agent

    def limited(this, life):  # type: ignore[no-untyped-def]
        agent = build(this, life)
        retention = agent.catch_up.retention
        retention._asked_limit = max_bytes
        return agent

    swarm._agent = limited  # type: ignore[method-assign]
    swarm.spawn(label)
    swarm._agent = build  # type: ignore[method-assign]


def stored(disk: MemoryDisk) -> int:
    """Bytes of log, snapshots and inputs."""
    folders = ["results", "blobs", *(f"inputs/{n}" for n in disk.folders("inputs"))]
    return sum(disk.size(f"{f}/{n}") or 0 for f in folders for n in disk.names(f))


def test_a_keeper_with_a_limit_drops_its_oldest_rounds_and_says_so() -> None:
    most: list[int] = []
    wanted: list[int] = []

    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(2)
        wanted.append(limit(swarm, KEEPER, rounds=8))
        await swarm.kill(KEEPER)
        respawn(swarm, KEEPER, wanted[0])
        while swarm.picture.committed < ROUNDS:
            await swarm.committed(swarm.picture.committed + 1)
            most.append(stored(swarm.nodes[KEEPER].disk))
        swarm.add("late", "trainer", step_s=8.0)
        swarm.spawn("late")
        await contributes(swarm, "late")

    run_spec = with_record(spec(elements=ELEMENTS), "all")
    swarm = play(story, run_spec, peers=2)
    assert max(most) <= wanted[0]
    assert len(most) > ROUNDS / 2
    assert len(events(swarm, KEEPER, LogTrimmedByLimit)) == 1
    assert events(swarm, "late", SnapshotFetched)


def test_without_a_record_a_keeper_keeps_what_joiners_need() -> None:
    kept: list[int] = []

    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(ROUNDS)
        kept.append(len(swarm.nodes[KEEPER].disk.names("results")))

    run_spec = with_record(spec(elements=4096, keep_rounds=8), "none")
    play(story, run_spec, peers=2)
    assert 8 <= kept[0] <= 12


def test_a_limit_that_is_reached_costs_a_peer_its_snapshots_and_not_its_stay() -> None:
    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(4)
        agent = swarm.nodes["p1"].agent
        assert agent is not None
        agent.catch_up.retention._limit = 1
        await swarm.committed(12)

    swarm = play(story, spec(elements=4096), peers=2)
    assert events(swarm, "p1", SnapshotSkipped)
    last = swarm.commits()[-1]
    assert node(swarm, "p1") in {c.node for c in last.contributors}


def test_a_limit_below_the_need_is_refused_at_start() -> None:
    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(2)
        swarm.add("late", "trainer", step_s=8.0)
        respawn(swarm, "late", 1000)
        end_s = swarm_now() + 60
        with pytest.raises(ConfigError, match="--max-disk 1000 bytes is below the"):
            await swarm.until(lambda: swarm_now() > end_s)

    play(story, spec(elements=4096), peers=2)
