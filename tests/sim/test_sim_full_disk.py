"""A full disk of the coordinator commits nothing, loses nothing, and the run goes on later."""

from __future__ import annotations

import asyncio

from farflung.config.load import from_table
from farflung.config.run import RunSpec
from farflung.events import (
    GenerationClosed,
    JournalBlocked,
    JournalWritable,
    RoundCommitted,
    StateReported,
)
from farflung.sim.loop import run_virtual
from farflung.sim.world import SimSwarm
from farflung.swarm.ledger import audit

FULL_S = 5.0


def full_spec() -> RunSpec:
    return from_table(
        {
            "name": "full",
            "model": {"preset": "quadratic", "parameters": 4096},
            "data": {"source": "synthetic", "rows": 100_000, "seq_len": 16},
            "inner": {"batch_rows": 4, "optimizer": "adamw", "lr": 0.1},
            "outer": {"inner_steps": 5, "rounds": 12, "chunk_elements": 256},
            "swarm": {"start_peers": 3},
        }
    )


def test_a_full_disk_commits_nothing_and_goes_on_when_there_is_room() -> None:
    spec = full_spec()
    stuck: list[int] = []

    async def main() -> SimSwarm:
        swarm = await SimSwarm.start(spec, peers=3)
        try:
            await swarm.committed(3)
            swarm.disk.full = True
            before = (len(swarm.commits()), len(swarm.records()), told(swarm))
            await asyncio.sleep(FULL_S)
            stuck.extend(before)
            stuck.extend((len(swarm.commits()), len(swarm.records()), told(swarm)))
            swarm.disk.full = False
            await swarm.finished()
        finally:
            await swarm.stop()
        return swarm

    swarm = run_virtual(main())
    assert stuck[:3] == stuck[3:]
    blocked = [e for e in swarm.events if isinstance(e, JournalBlocked)]
    assert [("no space left" in e.reason, e.for_s) for e in blocked] == [(True, 0.0)]
    (writable,) = (e for e in swarm.events if isinstance(e, JournalWritable))
    assert FULL_S - 1 < writable.after_s < 2 * FULL_S
    assert swarm.picture.committed == 12
    assert not [e for e in swarm.events if isinstance(e, StateReported) and not e.agrees]
    result = audit(swarm.records(), spec.data.rows)
    assert (result.duplicated, result.lost) == (0, 0)


def told(swarm: SimSwarm) -> int:
    """Commits that the coordinator has told of."""
    return sum(isinstance(e, RoundCommitted) for e in swarm.events)


def test_hours_without_room_cost_no_member_and_pile_up_nothing() -> None:
    """Ten minutes are a hundred times the silence after which a node counts as dead."""
    queued: list[int] = []

    async def main() -> SimSwarm:
        swarm = await SimSwarm.start(full_spec(), peers=3)
        try:
            await swarm.committed(3)
            swarm.disk.full = True
            await asyncio.sleep(600)
            assert swarm.coordinator is not None
            assert swarm.coordinator.blocked.is_set()
            assert swarm.picture.blocked
            queued.append(swarm.coordinator.waiting)
            swarm.disk.full = False
            await swarm.finished()
        finally:
            await swarm.stop()
        return swarm

    swarm = run_virtual(main())
    closed = [e.reason for e in swarm.events if isinstance(e, GenerationClosed)]
    assert [r for r in closed if not r.startswith("left")] == []
    blocked = [e for e in swarm.events if isinstance(e, JournalBlocked)]
    assert 9 <= len(blocked) <= 11  # once, then every minute
    assert queued[0] < 30  # no ticks, no beats
    assert swarm.picture.blocked == ""


def test_a_node_that_reconnects_meanwhile_is_served_and_a_new_one_is_put_off() -> None:
    seen: list[str] = []

    async def main() -> SimSwarm:
        swarm = await SimSwarm.start(full_spec(), peers=3)
        try:
            await swarm.committed(3)
            swarm.disk.full = True
            assert swarm.coordinator is not None
            await swarm.coordinator.blocked.wait()
            await swarm.kill("p0")
            swarm.spawn("p0")
            swarm.add("late", "trainer")
            swarm.spawn("late")
            await asyncio.sleep(20)
            seen.extend(swarm.coordinator.sessions)
            assert swarm.nodes["late"].node not in swarm.coordinator.state.nodes
            swarm.disk.full = False
            await swarm.finished()
        finally:
            await swarm.stop()
        return swarm

    swarm = run_virtual(main())
    assert swarm.nodes["p0"].node in seen
    assert swarm.nodes["late"].node not in seen
    assert audit(swarm.records(), 100_000).duplicated == 0
