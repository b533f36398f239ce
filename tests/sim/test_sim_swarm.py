"""The real coordinator and agents, in virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from sim_stories import assert_sound, play, small_run, to_the_end

from farflung.config.run import RunSpec
from farflung.events import (
    GenerationClosed,
    JournalBlocked,
    Paused,
    PeerReady,
    RoundCommitted,
)
from farflung.ids import NodeId
from farflung.sim.world import KEEPER, SimSwarm


def spec(**outer: Any) -> RunSpec:
    swarm = {"min_peers": 1, "snapshot_every": 4}
    return small_run("sim", outer={"rounds": 6, **outer}, swarm=swarm)


def test_three_peers_and_a_keeper_finish_a_run_bit_identical() -> None:
    swarm = play(to_the_end, spec(), peers=3)
    assert swarm.picture.committed == 6
    assert swarm.picture.loss_last < swarm.picture.loss_first
    assert len(set(swarm.roots_at_end.values())) == 1  # type: ignore[attr-defined]
    assert len(swarm.roots_at_end) == 4  # type: ignore[attr-defined]
    assert_sound(swarm)


@pytest.mark.parametrize("codec", ["fp32", "bf16", "int8", "int8-sigma"])
def test_every_codec_commits(codec: str) -> None:
    swarm = play(to_the_end, spec(codec=codec, rounds=3), peers=3)
    assert swarm.picture.committed == 3
    assert_sound(swarm)


@pytest.mark.parametrize("merge", ["overwrite", "blend", "carry"])
def test_two_rounds_in_flight_over_four_fragments(merge: str) -> None:
    swarm = play(
        to_the_end, spec(fragments=4, window=2, inner_steps=20, rounds=12, merge=merge), peers=3
    )
    assert swarm.picture.committed == 12
    assert_sound(swarm)


def test_same_seed_gives_the_same_history() -> None:
    first = play(to_the_end, spec(), peers=3, seed=7)
    second = play(to_the_end, spec(), peers=3, seed=7)
    assert first.events == second.events


def test_peers_that_accept_no_connection_average_through_the_keeper() -> None:
    swarm = play(to_the_end, spec(), peers=3, outbound_only=True)
    assert swarm.picture.committed == 6
    keeper = swarm.nodes[KEEPER].node
    assert all(s.owner == keeper for c in swarm.commits() for s in c.slices)
    assert_sound(swarm)


def one_peer() -> RunSpec:
    table_spec = spec(rounds=3)

    return msgspec.structs.replace(
        table_spec, swarm=msgspec.structs.replace(table_spec.swarm, start_peers=1)
    )


def test_one_peer_with_the_keeper_is_replicated() -> None:
    swarm = play(to_the_end, one_peer(), peers=1)
    committed = [e for e in swarm.events if isinstance(e, RoundCommitted)]
    assert [e.holders for e in committed] == [2, 2, 2]
    assert all(e.replicated for e in committed)


def test_one_peer_alone_commits_and_says_not_replicated() -> None:
    swarm = play(to_the_end, one_peer(), peers=1, keeper=False)
    committed = [e for e in swarm.events if isinstance(e, RoundCommitted)]
    assert [e.holders for e in committed] == [1, 1, 1]
    assert not any(e.replicated for e in committed)
    assert_sound(swarm)


def test_survivors_commit_when_a_peer_dies_and_a_new_one_joins() -> None:
    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(2)
        await swarm.kill("p1")
        await swarm.committed(4)
        swarm.add("late", "trainer")
        swarm.spawn("late")
        await swarm.finished()

    swarm = play(story, spec(rounds=60), peers=3)
    assert swarm.picture.committed == 60
    assert swarm.picture.deaths == 1
    late = swarm.nodes["late"].node
    assert any(c.node == late for commit in swarm.commits() for c in commit.contributors)
    assert_sound(swarm)


def test_a_killed_peer_comes_back_with_its_own_disk() -> None:
    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(5)
        await swarm.kill("p1")
        await swarm.committed(7)
        swarm.spawn("p1")
        await swarm.finished()

    swarm = play(story, spec(rounds=40), peers=3)
    node = swarm.nodes["p1"].node
    generations = {
        c.generation for commit in swarm.commits() for c in commit.contributors if c.node == node
    }
    assert generations == {1, 2}
    assert_sound(swarm)


@pytest.mark.parametrize("at_s", [0.3, 0.9, 1.4, 2.1, 2.6])
def test_a_killed_coordinator_loses_no_committed_round(at_s: float) -> None:
    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(1)
        await asyncio.sleep(at_s)
        before = len(swarm.commits())
        await swarm.kill_coordinator()
        await asyncio.sleep(1.0)
        await swarm.start_coordinator()
        assert len(swarm.commits()) >= before
        await swarm.until(lambda: len(swarm.commits()) >= before + 2)
        assert all(n.agent is not None for n in swarm.nodes.values())

    swarm = play(story, spec(rounds=30), peers=3)
    assert_sound(swarm)
    generations = {c.generation for commit in swarm.commits() for c in commit.contributors}
    assert generations == {1}  # nobody lost its stay, so no inner step was lost


def test_a_partitioned_peer_is_left_out_and_returns() -> None:
    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(2)
        cut = swarm.nodes["p2"].node
        others = [n.node for n in swarm.nodes.values() if n.node != cut]
        for other in [*others, NodeId("coordinator")]:
            swarm.network.partition(cut, other)
        await swarm.committed(5)
        await asyncio.sleep(8)
        for other in [*others, NodeId("coordinator")]:
            swarm.network.heal(cut, other)
        await swarm.finished()

    swarm = play(story, spec(rounds=60), peers=3)
    assert swarm.picture.committed == 60
    node = swarm.nodes["p2"].node
    last = swarm.commits()[-1]
    assert node in {c.node for c in last.contributors}
    assert_sound(swarm)


def test_a_frozen_peer_costs_the_others_one_attempt() -> None:
    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(2)
        swarm.network.freeze(swarm.nodes["p0"].node)
        await swarm.committed(6)
        swarm.network.thaw(swarm.nodes["p0"].node)
        await swarm.finished()

    swarm = play(story, spec(rounds=40), peers=3)
    assert swarm.picture.committed == 40
    assert_sound(swarm)


def test_a_slow_peer_contributes_and_costs_nothing() -> None:
    async def story(swarm: SimSwarm) -> None:
        swarm.add("slow", "trainer", step_s=0.5)
        swarm.spawn("slow")
        await swarm.finished()

    swarm = play(story, spec(rounds=40), peers=3)
    slow = swarm.nodes["slow"].node
    times = [c for c in swarm.commits() if slow in {x.node for x in c.contributors}]
    assert times
    assert_sound(swarm)


def test_a_peer_whose_weights_turn_non_finite_abstains_and_starts_again() -> None:
    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(2)
        trainer = swarm.nodes["p1"].trainer
        assert trainer is not None
        trainer.local[7] = float("nan")
        await swarm.finished()

    swarm = play(story, spec(rounds=40), peers=3)
    node = swarm.nodes["p1"].node
    notes = [e.note for e in swarm.events if isinstance(e, PeerReady) and e.note]
    assert len(notes) == 1
    assert "non-finite" in notes[0]
    reasons = [e.reason for e in swarm.events if isinstance(e, GenerationClosed) and e.node == node]
    assert len(reasons) == 1
    assert "non-finite" in reasons[0]
    last = {c.node: c.generation for c in swarm.commits()[-1].contributors}
    assert last[node] == 2
    assert_sound(swarm)


def test_frames_that_overtake_their_attempt_are_kept() -> None:
    """A contribution may arrive before the ATTEMPT that names it: another link, less delay."""

    async def story(swarm: SimSwarm) -> None:
        slow = swarm.nodes["p1"].node
        swarm.network.set_delay(slow, NodeId("coordinator"), 0.4)
        await swarm.finished()

    swarm = play(story, spec(rounds=20), peers=3)
    assert swarm.picture.committed == 20
    assert swarm.picture.attempts == 20
    assert_sound(swarm)


def test_below_min_peers_the_swarm_pauses_and_resumes_by_itself() -> None:
    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(2)
        await swarm.kill("p0")
        await swarm.kill("p1")
        await swarm.until(lambda: bool(swarm.picture.paused))
        held = swarm.picture.committed
        await asyncio.sleep(30)
        assert swarm.picture.committed == held
        swarm.spawn("p0")
        await swarm.committed(held + 3)

    run_spec = spec(rounds=1000)
    run_spec = msgspec.structs.replace(
        run_spec, swarm=msgspec.structs.replace(run_spec.swarm, min_peers=2)
    )
    swarm = play(story, run_spec, peers=3)
    assert [e.reason for e in swarm.events if isinstance(e, Paused)][
        -1
    ] == "paused: 1 of min 2 peers"
    assert_sound(swarm)


def test_a_full_disk_of_the_coordinator_commits_nothing_and_goes_on_with_room() -> None:
    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(2)
        swarm.disk.full = True
        held = swarm.picture.committed
        await asyncio.sleep(20)
        assert swarm.picture.committed <= held + 1  # one decision may have been on its way
        assert len(swarm.commits()) == swarm.picture.committed
        swarm.disk.full = False
        await swarm.finished()

    swarm = play(story, spec(rounds=12), peers=3)
    assert swarm.picture.committed == 12
    assert any("no space" in e.reason for e in swarm.events if isinstance(e, JournalBlocked))
    assert_sound(swarm)
