"""A full disk of the coordinator commits nothing, loses nothing, and the run goes on later."""

from __future__ import annotations

import asyncio

from sim_stories import assert_exactly_once, play, small_run

from farflung.events import (
    GenerationClosed,
    JournalBlocked,
    JournalWritable,
    RoundCommitted,
    StateReported,
)
from farflung.sim.world import SimSwarm
from farflung.swarm.ledger import audit

FULL_S = 5.0


def test_a_full_disk_commits_nothing_and_goes_on_when_there_is_room() -> None:
    spec = small_run("full")
    stuck: list[int] = []

    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(3)
        swarm.disk.full = True
        before = (len(swarm.commits()), len(swarm.records()), told(swarm))
        await asyncio.sleep(FULL_S)
        stuck.extend(before)
        stuck.extend((len(swarm.commits()), len(swarm.records()), told(swarm)))
        swarm.disk.full = False
        await swarm.finished()

    swarm = play(story, spec, peers=3)
    assert stuck[:3] == stuck[3:]
    blocked = [e for e in swarm.events if isinstance(e, JournalBlocked)]
    assert [("no space left" in e.reason, e.for_s) for e in blocked] == [(True, 0.0)]
    (writable,) = (e for e in swarm.events if isinstance(e, JournalWritable))
    assert FULL_S - 1 < writable.after_s < 2 * FULL_S
    assert swarm.picture.committed == 12
    assert not [e for e in swarm.events if isinstance(e, StateReported) and not e.agrees]
    assert_exactly_once(swarm)


def told(swarm: SimSwarm) -> int:
    """Commits that the coordinator has told of."""
    return sum(isinstance(e, RoundCommitted) for e in swarm.events)


def test_hours_without_room_cost_no_member_and_pile_up_nothing() -> None:
    """Ten minutes are a hundred times the silence after which a node counts as dead."""
    queued: list[int] = []

    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(3)
        swarm.disk.full = True
        await asyncio.sleep(600)
        assert swarm.coordinator is not None
        assert swarm.coordinator.blocked.is_set()
        assert swarm.picture.blocked
        queued.append(swarm.coordinator.waiting)
        swarm.disk.full = False
        await swarm.finished()

    swarm = play(story, small_run("full"), peers=3)
    closed = [e.reason for e in swarm.events if isinstance(e, GenerationClosed)]
    assert [r for r in closed if not r.startswith("left")] == []
    blocked = [e for e in swarm.events if isinstance(e, JournalBlocked)]
    assert 9 <= len(blocked) <= 11  # once, then every minute
    assert queued[0] < 30  # no ticks, no beats
    assert swarm.picture.blocked == ""


def test_a_node_that_reconnects_meanwhile_is_served_and_a_new_one_is_put_off() -> None:
    seen: list[str] = []

    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(3)
        swarm.disk.full = True
        assert swarm.coordinator is not None
        await swarm.coordinator.blocked.wait()
        await swarm.kill("p0")
        swarm.spawn("p0")
        swarm.add("late", "trainer")
        swarm.spawn("late")
        await asyncio.sleep(20)
        seen.extend(swarm.coordinator.roster.sessions)
        assert swarm.nodes["late"].node not in swarm.coordinator.state.nodes
        swarm.disk.full = False
        await swarm.finished()

    swarm = play(story, small_run("full"), peers=3)
    assert swarm.nodes["p0"].node in seen
    assert swarm.nodes["late"].node not in seen
    assert audit(swarm.records()).duplicated == 0
