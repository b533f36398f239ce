"""A node that is told to end at any moment leaves a disk behind that it can go on from."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from sim_stories import assert_sound, play
from test_sim_swarm import spec

from farflung.averaging.exchange import Exchange
from farflung.events import Applied, SnapshotUnusable, TaskFailed, VoteWithheld
from farflung.ids import Hash
from farflung.network.messages import SliceResult
from farflung.peer.follower import Follower
from farflung.sim.world import KEEPER, SimSwarm


@pytest.mark.parametrize("label", ["p1", KEEPER])
def test_leaving_in_the_midst_of_a_commit_leaves_a_snapshot_that_can_be_used(
    label: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the writing of a fragment and everything that is noted of it."""
    moments: list[float] = []

    async def story(swarm: SimSwarm) -> None:
        node, write = swarm.nodes[label], Follower._write
        for wait_s in (0.0, 0.0005, 0.001, 0.002, 0.005):
            await swarm.committed(swarm.picture.committed + 3)
            agent, began = node.agent, asyncio.Event()
            assert agent is not None and node.task is not None

            async def watched(this: Follower, *rest: object) -> None:
                if this is agent.node.follower:  # noqa: B023 - one at a time
                    began.set()  # noqa: B023
                await write(this, *rest)  # type: ignore[arg-type]

            with monkeypatch.context() as patched:
                patched.setattr(Follower, "_write", watched)
                await began.wait()
                await asyncio.sleep(wait_s)
                agent.leave("at an awkward moment")
                assert await node.task == "left"
            moments.append(wait_s)
            node.events.clear()
            swarm.spawn(label)
            await swarm.until(lambda: any(isinstance(e, Applied) for e in node.events))
            assert not [e for e in node.events if isinstance(e, SnapshotUnusable)]

    swarm = play(story, spec(rounds=2000, fragments=4, window=2, inner_steps=20), peers=3)
    assert len(moments) == 5
    assert_sound(swarm)


def test_an_average_that_is_not_finite_costs_the_vote_and_nobodys_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One owner's slice cannot be decoded, and comes before the last one."""
    bad: list[str] = []
    deliver = Exchange.deliver_result

    def poisoned(self: Exchange, sender: str, head: SliceResult, payload: memoryview) -> None:
        first = min(s.owner for s in self.attempt.slices)
        if head.round == 5 and head.attempt == 1 and sender == first:
            bad.append(sender)
            payload = memoryview(b"\xff" * len(payload))
        deliver(self, sender, head, payload)

    monkeypatch.setattr(Exchange, "deliver_result", poisoned)

    async def story(swarm: SimSwarm) -> None:
        await swarm.finished()

    swarm = play(story, spec(rounds=10, codec="fp32"), peers=3)
    told = [e for n in swarm.nodes.values() for e in n.events]
    assert bad and [e for e in told if isinstance(e, VoteWithheld)]
    assert not [e for e in told if isinstance(e, TaskFailed)]
    assert_sound(swarm)


def test_a_result_whose_vote_is_overtaken_is_known_to_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The others' votes commit the round while my file is being written."""
    cancelled: list[int] = []
    keep = Follower.keep

    async def overtaken(
        self: Follower, round_: int, results: Sequence[bytes], hashes: Sequence[bytes]
    ) -> Hash:
        work = asyncio.ensure_future(keep(self, round_, results, hashes))
        await asyncio.sleep(0)
        work.cancel()
        await asyncio.wait({work})
        cancelled.append(round_)
        assert self.log.round_of(hashes[0]) is not None
        raise asyncio.CancelledError

    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(3)
        with monkeypatch.context() as patched:
            patched.setattr(Follower, "keep", overtaken)
            await swarm.until(lambda: bool(cancelled))

    play(story, spec(rounds=2000), peers=3)
