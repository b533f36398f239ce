"""The journal's picture is that of the events; healthy starts; a keeper that comes too late."""

from __future__ import annotations

import asyncio

import pytest
from sim_stories import play
from test_sim_swarm import spec

from farflung.events import FetchDelayed, RunKnown, SnapshotUnusable
from farflung.run.contribution import given_by
from farflung.run.history import picture_of, view_of
from farflung.sim.world import KEEPER, SimSwarm
from farflung.swarm.ending import PATIENCE_S


def test_the_journal_counts_what_the_events_count_over_restarts() -> None:
    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(5)
        await swarm.kill("p2")
        await swarm.committed(9)
        await swarm.kill_coordinator()
        await asyncio.sleep(1.0)
        await swarm.start_coordinator()
        await swarm.finished()

    swarm = play(story, spec(rounds=20), peers=3)
    records = list(swarm.records())
    seen, told = picture_of(records), swarm.picture
    assert seen.committed == told.committed == 20
    for name in ("run", "name", "parameters", "term", "rounds_wanted", "abandoned", "rejected",
                 "tokens", "state_root", "finished", "round"):  # fmt: skip
        assert getattr(seen, name) == getattr(told, name), name
    assert {n: (p.name, p.role) for n, p in seen.peers.items()} == {
        n: (p.name, p.role) for n, p in told.peers.items()
    }
    rows = sum(p.samples for p in seen.peers.values())
    assert rows * swarm.spec.data.seq_len == seen.tokens
    given = [given_by(n, records, swarm.spec.data.seq_len) for n in seen.peers]
    assert sum(g.tokens for g in given) == seen.tokens
    assert sum(g.share for g in given) == pytest.approx(1.0)
    half = len(records) // 2
    view = view_of(records[:half])
    for record in records[half:]:
        view.record(record)
    later = view.picture()
    assert later == seen
    assert sum(s.consumed for s in seen.sources) == rows > 0


def test_who_never_took_part_is_away_and_who_left_is_gone() -> None:
    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(3)
        swarm.add("never", "trainer")
        await swarm.kill("p2")
        await swarm.finished()

    swarm = play(story, spec(rounds=12), peers=3)
    view = view_of(swarm.records())
    never = swarm.nodes["never"].node
    assert view.picture().peers[never].state == "joined"
    view.serve(False, 0.0)
    names = {p.name: p.state for p in view.picture().peers.values()}
    assert (names["p0"], names["p2"], names["never"]) == ("gone", "gone", "away")


def test_a_healthy_start_is_no_trouble_and_names_the_run() -> None:
    swarm = play(lambda s: s.committed(3), spec(rounds=12), peers=3)
    for node in swarm.nodes.values():
        assert not [e for e in node.events if isinstance(e, FetchDelayed | SnapshotUnusable)]
        (known,) = [e for e in node.events if isinstance(e, RunKnown)]
        assert (known.name, known.rounds) == (swarm.spec.name, 12)


def test_a_keeper_that_is_started_after_the_coordinators_end_ends() -> None:
    waited: list[float] = []

    async def story(swarm: SimSwarm) -> None:
        await swarm.finished()
        await swarm.kill_coordinator()
        await swarm.kill(KEEPER)
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        swarm.spawn(KEEPER)
        task = swarm.nodes[KEEPER].task
        assert task is not None
        await asyncio.wait({task}, timeout=3 * PATIENCE_S)
        assert task.done()
        waited.append(loop.time() - began_s)

    play(story, spec(rounds=6), peers=3)
    assert PATIENCE_S <= waited[0] < PATIENCE_S + 10
