"""Joining and catching up, in virtual time: what a newcomer costs the others, and what it loses."""

from __future__ import annotations

import asyncio
import itertools
import statistics
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from sim_stories import Story, assert_sound, small_run
from sim_stories import play as played

from farflung.config.run import RunSpec
from farflung.errors import Refused
from farflung.events import (
    Applied,
    BadBlob,
    Event,
    Resynced,
    RoundAbandoned,
    SnapshotFetched,
    StateProgress,
)
from farflung.ids import NodeId
from farflung.peer.follower import KEPT_COMMITS
from farflung.sim.world import KEEPER, SimSwarm

MILLION = 1 << 20
ELEMENTS = 2 * MILLION
"""Anchor and momentum are two chunks of 4 MiB each."""
STATE_BYTES = 8 * ELEMENTS


def spec(elements: int = ELEMENTS, rounds: int = 2000, **swarm: Any) -> RunSpec:
    return small_run(
        "join",
        elements=elements,
        inner={"batch_rows": 1},
        outer={"inner_steps": 1, "rounds": rounds, "chunk_elements": 65_536},
        swarm={"start_peers": 1, "min_peers": 1, "snapshot_every": 2, **swarm},
    )


def play(story: Story, run_spec: RunSpec, **options: Any) -> SimSwarm:
    """Seconds are virtual; a round takes eight of them."""
    swarm = played(story, run_spec, **{"step_s": 8.0, **options})
    assert_sound(swarm)
    return swarm


def node(swarm: SimSwarm, label: str) -> NodeId:
    return swarm.nodes[label].node


def events(swarm: SimSwarm, label: str, kind: type[Event]) -> list[Any]:
    return [e for e in swarm.nodes[label].events if isinstance(e, kind)]


def slow(swarm: SimSwarm, label: str, bytes_per_s: float) -> None:
    """Everybody reaches this node with at most that rate."""
    for other in swarm.nodes.values():
        if other.label != label:
            swarm.network.path(other.node, node(swarm, label)).bytes_per_s = bytes_per_s


def newcomer(swarm: SimSwarm, bytes_per_s: float, label: str = "late") -> None:
    swarm.add(label, "trainer", step_s=8.0)
    slow(swarm, label, bytes_per_s)
    swarm.spawn(label)


async def contributes(swarm: SimSwarm, label: str, deadline_s: float = 600.0) -> None:
    """Until a round with a contribution of this node is applied by it, from now on."""
    before = len(swarm.nodes[label].events)
    await swarm.until(
        lambda: any(
            isinstance(e, Applied) and e.contributed for e in swarm.nodes[label].events[before:]
        ),
        deadline_s,
    )


def halfway(swarm: SimSwarm, label: str, part: float = 0.4) -> Callable[[], bool]:
    def there() -> bool:
        seen = events(swarm, label, StateProgress)
        return bool(seen) and seen[-1].here > part * seen[-1].total

    return there


# ---- bandwidth -----------------------------------------------------------------------------


@pytest.mark.parametrize("donors", [1, 2, 3])
def test_the_bandwidth_of_donors_adds_up(donors: int) -> None:
    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(2)
        newcomer(swarm, 2 * MILLION)
        for i in range(donors - 1, 3):
            swarm.network.partition(node(swarm, "late"), node(swarm, f"p{i}"))
        await swarm.until(lambda: bool(events(swarm, "late", SnapshotFetched)))

    swarm = play(story, spec(), peers=3)
    (fetched,) = events(swarm, "late", SnapshotFetched)
    assert fetched.sources == donors
    alone_s = STATE_BYTES / (2 * MILLION)
    assert 0.99 * alone_s / donors <= fetched.took_s <= 1.5 * alone_s / donors + 2.5


def test_progress_has_rate_and_rest() -> None:
    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(2)
        newcomer(swarm, MILLION)
        await contributes(swarm, "late")

    swarm = play(story, spec(), peers=1)
    seen = events(swarm, "late", StateProgress)
    assert [e.here for e in seen] == sorted(e.here for e in seen)
    late = [e for e in seen if e.here > 0.5 * e.total]
    assert late and all(e.total == STATE_BYTES for e in seen)
    for event in late:
        assert event.bytes_per_s == pytest.approx(2 * MILLION, rel=0.3)
        assert event.eta_s == pytest.approx((event.total - event.here) / (2 * MILLION), rel=0.5)
        assert event.sources <= 2


# ---- faults in mid-fetch -------------------------------------------------------------------


def test_a_donor_that_dies_in_mid_fetch_costs_only_what_was_on_its_way() -> None:
    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(2)
        newcomer(swarm, MILLION)
        await swarm.until(halfway(swarm, "late"))
        await swarm.kill(KEEPER)
        await swarm.until(lambda: bool(events(swarm, "late", SnapshotFetched)))

    swarm = play(story, spec(), peers=2)
    (fetched,) = events(swarm, "late", SnapshotFetched)
    assert fetched.bytes == STATE_BYTES
    assert fetched.reused == 0


def test_a_killed_joiner_goes_on_where_it_stopped() -> None:
    here: list[int] = []

    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(2)
        newcomer(swarm, MILLION)
        await swarm.until(halfway(swarm, "late", 0.6))
        await swarm.kill("late")
        disk = swarm.nodes["late"].disk
        here.append(sum(disk.size(f"blobs/{n}") or 0 for n in disk.names("blobs")))
        swarm.spawn("late")
        await contributes(swarm, "late")

    swarm = play(story, spec(), peers=1)
    (fetched,) = events(swarm, "late", SnapshotFetched)
    assert here[0] > STATE_BYTES / 3
    assert fetched.reused > STATE_BYTES / 3
    assert fetched.bytes + fetched.reused == STATE_BYTES
    assert abs(fetched.reused - here[0]) < 10_000  # the manifest is no chunk


def damage(swarm: SimSwarm, label: str) -> None:
    """A node that serves wrong bytes of the right length."""
    agent = swarm.nodes[label].agent
    assert agent is not None
    exchange = agent.node.mesh.blobs
    read = exchange._read

    async def lie(name: bytes, offset: int, length: int) -> bytes | None:
        data = await read(name, offset, length)
        return data if data is None or length < 1000 else bytes(len(data))

    exchange._read = lie


def test_a_donor_that_sends_wrong_bytes_is_struck_and_not_asked_after_three() -> None:
    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(2)
        damage(swarm, "p0")
        newcomer(swarm, MILLION)
        await contributes(swarm, "late")

    swarm = play(story, spec(elements=4 * MILLION), peers=2)
    bad = events(swarm, "late", BadBlob)
    assert {e.node for e in bad} == {node(swarm, "p0")}
    assert [e.strikes for e in bad] == [1, 2, 3]
    assert "has a bad hash; asking" in bad[0].sentence
    assert "not asked again" in bad[2].sentence
    (fetched,) = events(swarm, "late", SnapshotFetched)
    assert fetched.bytes == 8 * 4 * MILLION
    assert fetched.sources == 2


def test_a_donor_that_turns_slow_is_overtaken_at_the_end() -> None:
    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(2)
        newcomer(swarm, MILLION)
        await swarm.until(halfway(swarm, "late"))
        swarm.network.path(node(swarm, KEEPER), node(swarm, "late")).bytes_per_s = 1000
        await swarm.until(lambda: bool(events(swarm, "late", SnapshotFetched)))

    swarm = play(story, spec(), peers=2)
    (fetched,) = events(swarm, "late", SnapshotFetched)
    assert fetched.took_s < 40


# ---- catching up ---------------------------------------------------------------------------


def test_a_trimmed_log_is_answered_with_a_newer_snapshot() -> None:
    """The peer is away for longer than anybody keeps results."""

    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(2)
        await swarm.kill("p2")
        await swarm.committed(60)  # and what the first joiners pinned is free again
        swarm.spawn("p2")
        await contributes(swarm, "p2")

    run_spec = spec(elements=4096, keep_rounds=6)
    swarm = play(story, with_record(run_spec, "none"), peers=3)
    assert events(swarm, "p2", Resynced)
    (fetched,) = events(swarm, "p2", SnapshotFetched)[-1:]
    assert fetched.next_round > 50
    assert_no_stale(swarm, "p2")


def with_record(run_spec: RunSpec, record: str) -> RunSpec:
    return msgspec.structs.replace(run_spec, record=record)


def assert_no_stale(swarm: SimSwarm, label: str) -> None:
    """Whoever contributes to a round had applied all that came before its base."""
    me = node(swarm, label)
    for commit in swarm.commits():
        for c in commit.contributors:
            if c.node == me:
                applied = {e.round for e in events(swarm, label, Applied)}
                fetched = [e.next_round for e in events(swarm, label, SnapshotFetched)]
                base = commit.base_round
                assert base in applied or base < max(fetched, default=0) or base == -1


@pytest.mark.parametrize(("before", "rounds"), [(2, 4), (2, 60), (KEPT_COMMITS + 20, 20)])
def test_a_partition_is_caught_up_by_replay_or_by_a_snapshot(before: int, rounds: int) -> None:
    in_memory: list[int] = []

    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(before, 3600)
        others = [n.node for n in swarm.nodes.values() if n.label != "p2"]
        for other in [*others, NodeId("coordinator")]:
            swarm.network.partition(node(swarm, "p2"), other)
        await swarm.until(lambda: swarm.picture.deaths == 1)
        await swarm.committed(swarm.picture.committed + rounds)
        for other in [*others, NodeId("coordinator")]:
            swarm.network.heal(node(swarm, "p2"), other)
        await contributes(swarm, "p2")
        for each in swarm.nodes.values():
            assert each.agent is not None
            in_memory.append(len(each.agent.node.follower._commits))

    run_spec = with_record(spec(elements=4096, keep_rounds=8), "none")
    swarm = play(story, run_spec, peers=3)
    assert max(in_memory) <= KEPT_COMMITS + 3
    resynced = bool(events(swarm, "p2", Resynced))
    assert resynced == (rounds > 8)
    assert_no_stale(swarm, "p2")


@pytest.mark.parametrize("asleep_s", [2.0, 30.0, 120.0])
def test_a_sleeping_laptop_catches_up(asleep_s: float) -> None:
    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(2)
        now_s = swarm_now()
        swarm.network.freeze(node(swarm, "p2"))
        await swarm.until(lambda: swarm_now() > now_s + asleep_s)
        swarm.network.thaw(node(swarm, "p2"))
        await contributes(swarm, "p2")

    run_spec = with_record(spec(elements=4096, keep_rounds=8), "none")
    swarm = play(story, run_spec, peers=3)
    assert_no_stale(swarm, "p2")


def swarm_now() -> float:
    return asyncio.get_running_loop().time()


def test_a_download_that_takes_longer_than_two_snapshots_ends() -> None:
    """Donors keep what somebody copies: eight rounds, and a snapshot in each."""

    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(3)
        newcomer(swarm, MILLION / 8)
        await swarm.until(lambda: bool(events(swarm, "late", SnapshotFetched)))
        slow(swarm, "late", 8 * MILLION)
        await contributes(swarm, "late")

    swarm = play(story, spec(snapshot_every=1), peers=1)
    assert swarm.picture.committed > 3 + 8
    assert len(events(swarm, "late", SnapshotFetched)) == 1
    assert events(swarm, "late", Applied)[0].round < 5  # replayed from there
    assert not events(swarm, "late", Resynced)


def test_a_link_that_the_log_outgrows_is_refused_with_a_sentence() -> None:
    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(2)
        newcomer(swarm, 4 * MILLION)
        await swarm.until(lambda: bool(events(swarm, "late", SnapshotFetched)))
        slow(swarm, "late", MILLION / 32)
        with pytest.raises(Refused, match=r"log grows by .* needs 2 times the growth"):
            await contributes(swarm, "late")

    play(story, spec(), peers=1)


# ---- what a join costs the others ----------------------------------------------------------


async def watch(swarm: SimSwarm, times: list[float]) -> None:
    """When the rounds were committed, to 10 ms."""
    seen = swarm.picture.committed
    while True:
        await asyncio.sleep(0.01)
        if swarm.picture.committed > seen:
            seen = swarm.picture.committed
            times.append(swarm_now())


def test_a_join_stalls_nobody() -> None:
    times: list[float] = []
    marks: list[float] = []

    async def story(swarm: SimSwarm) -> None:
        watching = asyncio.create_task(watch(swarm, times))
        for a, b in itertools.permutations([n.node for n in swarm.nodes.values()], 2):
            swarm.network.path(a, b).bytes_per_s = 4 * MILLION
        await swarm.committed(6)
        marks.append(swarm_now())
        newcomer(swarm, MILLION / 8)
        for other in swarm.nodes.values():
            swarm.network.path(node(swarm, "late"), other.node).bytes_per_s = 4 * MILLION
        await swarm.until(lambda: bool(events(swarm, "late", SnapshotFetched)))
        slow(swarm, "late", 4 * MILLION)
        await contributes(swarm, "late")
        await swarm.committed(swarm.picture.committed + 2)
        marks.append(swarm_now())
        watching.cancel()

    swarm = play(story, spec(), peers=3)
    assert not [e for e in swarm.events if isinstance(e, RoundAbandoned)]
    gaps = [(b, b - a) for a, b in itertools.pairwise(times)]
    before = statistics.median(gap for at, gap in gaps[2:] if at < marks[0])
    during = [gap for at, gap in gaps if marks[0] <= at - gap and at <= marks[1]]
    assert len(during) >= 6  # download, replay, its first round, and the one after it
    assert max(during) <= 1.05 * before
