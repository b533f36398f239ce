"""A node stays within its limit, and a limit that is reached costs a peer its snapshots only."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest
from test_sim_join import contributes, events, node, play, spec, swarm_now, with_record

from farflung.disk import MemoryDisk
from farflung.errors import ConfigError
from farflung.events import LogTrimmedByLimit, RoundCommitted, SnapshotFetched, SnapshotSkipped
from farflung.peer.disk_budget import Keep, need_of, parse_keep
from farflung.peer.node import LocalNode
from farflung.run.assemble import NodeOptions
from farflung.sim import world
from farflung.sim.world import KEEPER, SimSwarm
from farflung.swarm.records import Genesis

ELEMENTS = 1 << 16
ROUNDS = 60


def limit(swarm: SimSwarm, label: str, rounds: int) -> int:
    """What the node needs and the results of some more rounds; takes effect with its start."""
    agent = swarm.nodes[label].agent
    assert agent is not None
    state = agent.node.follower.state
    need = need_of(state.layout, state.outer, keeps_genesis=label == KEEPER, cache=0)
    return need.total + rounds * state.grid(0).bytes_between(0, state.grid(0).chunks)


def respawn(swarm: SimSwarm, label: str, max_bytes: int) -> None:
    """As `farflung join --max-disk` does it."""
    swarm.nodes[label].max_disk_bytes = max_bytes
    swarm.spawn(label)


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


@pytest.mark.parametrize(("keep", "least", "most"), [("12", 12, 16), ("1h", ROUNDS, ROUNDS)])
def test_a_keeper_keeps_results_as_long_as_it_was_told(keep: str, least: int, most: int) -> None:
    kept: list[int] = []

    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(1)
        agent = swarm.nodes[KEEPER].agent
        assert agent is not None
        agent.applier._retention._keep = parse_keep(keep)
        await swarm.committed(ROUNDS)
        kept.append(len(swarm.nodes[KEEPER].disk.names("results")))
        swarm.add("late", "trainer")
        swarm.spawn("late")
        await contributes(swarm, "late")

    play(story, spec(elements=4096, keep_rounds=8), peers=2)
    assert least <= kept[0] <= most


def test_a_keeper_drops_results_by_their_age() -> None:
    ages: list[float] = []

    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(1)
        agent = swarm.nodes[KEEPER].agent
        assert agent is not None
        agent.applier._retention._keep = Keep(age_s=100.0)
        await asyncio.sleep(400.0)  # longer than a joiner's copy is kept for it
        rounds = agent.node.follower.log.rounds()
        times = {e.round: at_s for at_s, e in swarm.told if isinstance(e, RoundCommitted)}
        ages.append(asyncio.get_running_loop().time() - times[rounds[0]])

    play(story, spec(elements=4096, keep_rounds=2), peers=2)
    assert 80.0 <= ages[0] <= 120.0


def test_a_limit_that_is_reached_costs_a_peer_its_snapshots_and_not_its_stay() -> None:
    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(4)
        agent = swarm.nodes["p1"].agent
        assert agent is not None
        agent.applier._retention._limit = 1
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


class Coming:
    """Data of which nothing is here yet when a run starts."""

    waiting = False
    own_bytes = 0

    async def provide(self, node: LocalNode, genesis: Genesis) -> None:
        del node, genesis
        self.own_bytes = 1 << 30

    async def serve(self, node: LocalNode) -> None:
        del node
        await asyncio.Event().wait()


def test_data_that_is_still_on_its_way_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "NodeOptions", partial(NodeOptions, data=Coming()))

    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(2)
        swarm.add("late", "trainer", step_s=8.0)
        respawn(swarm, "late", 1 << 30)
        end_s = swarm_now() + 60
        with pytest.raises(ConfigError, match=r"1\.0 GiB of data"):
            await swarm.until(lambda: swarm_now() > end_s)

    play(story, spec(elements=4096), peers=2)
