"""A copied host folder is started a second time: the fork is seen, proved and ended.

Without a fence that both share it cannot be prevented: nodes that meet only one of the two follow
it. Whoever meets both shows the records of the one to the other.
"""

from __future__ import annotations

import asyncio

import pytest
from sim_stories import Story, small_run
from sim_stories import play as played

from farflung.clock import InlineWorkers, LoopClock
from farflung.config.run import RunSpec
from farflung.coordinator.coordinator import CoordinatorOptions
from farflung.coordinator.sessions import Door
from farflung.disk import MemoryDisk
from farflung.errors import Forked
from farflung.events import Event, ForkDetected, NoCoordinator, NodeRefused, RoundCommitted
from farflung.ids import Endpoint, NodeId
from farflung.network.link import COORDINATOR
from farflung.run.assemble import assemble_coordinator
from farflung.sim.world import CONTROL, JOURNAL, SimSwarm
from farflung.swarm.identity import RECORD, verify_record, verify_vote
from farflung.swarm.journal import Journal
from farflung.swarm.ledger import audit
from farflung.swarm.records import AnyRecord, Commit, Term
from farflung.world import World

SECOND = Endpoint("copy:7000")


def spec(rounds: int = 40) -> RunSpec:
    return small_run("two", outer={"rounds": rounds}, swarm={"start_peers": 2})


class Copy:
    """A second coordinator on a copy of the first one's disk."""

    def __init__(self, swarm: SimSwarm, disk: MemoryDisk, alone_since: int = 0) -> None:
        self.swarm, self.disk = swarm, disk
        self.events: list[Event] = []
        world = World(
            transport=swarm.network.transport(NodeId("copy"), COORDINATOR),
            disk=disk,
            clock=LoopClock(),
            workers=InlineWorkers(),
            rng=swarm.rng,
            emit=self.events.append,
            sign=swarm._sign_record,
        )
        door = Door(
            admission=nobody,
            check_vote=verify_vote,
            status=lambda _: "{}",
            alone_since=alone_since,
        )
        options = CoordinatorOptions(incarnation="copy")
        self.coordinator = assemble_coordinator(world, self._journal(), door, options)
        self.task: asyncio.Task[None] | None = None

    def _journal(self) -> Journal:
        key = self.swarm.run_key
        return Journal.open(
            self.disk, JOURNAL, verifier=verify_record, sign=lambda m: key.sign(RECORD, m)
        )

    async def start(self) -> None:
        await self.coordinator.start(SECOND)
        self.task = asyncio.create_task(self.coordinator.run())
        self.task.add_done_callback(lambda t: t.cancelled() or t.exception())

    async def stop(self) -> None:
        self.swarm.network.kill(NodeId("copy"))
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
        self.disk = self.disk.crash()

    def records(self) -> list[AnyRecord]:
        return list(self._journal().records())


def nobody(_: object) -> tuple[object, None]:
    raise AssertionError("nodes are admitted directly")


def play(story: Story, peers: int = 2) -> SimSwarm:
    return played(story, spec(), peers=peers)


async def restart_with(swarm: SimSwarm, label: str, *endpoints: Endpoint) -> None:
    """The node's process again, looking for a coordinator in these places."""
    await swarm.kill(label)
    usual, swarm.coordinators = swarm.coordinators, endpoints
    swarm.spawn(label)
    swarm.coordinators = usual


def forks(events: list[Event]) -> list[ForkDetected]:
    return [e for e in events if isinstance(e, ForkDetected)]


async def halted(task: asyncio.Task[None] | None) -> Forked:
    assert task is not None
    with pytest.raises(Forked) as raised:
        await asyncio.wait_for(asyncio.shield(task), 60)
    return raised.value


def test_a_copy_that_is_behind_halts_before_it_commits_anything() -> None:
    """The first goes on; a node of it meets the copy, shows its records, and is not led away."""

    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(3)
        copy = Copy(swarm, swarm.disk.crash())
        await swarm.committed(6)
        await copy.start()
        await restart_with(swarm, "p0", SECOND, CONTROL)
        fork = await halted(copy.task)
        assert "another coordinator has continued this run" in str(fork)
        assert len(forks(copy.events)) == 1
        assert not [e for e in copy.events if isinstance(e, RoundCommitted)]
        # The node says fork, once, and stays with the first.
        assert [e.index for e in forks(swarm.nodes["p0"].events)] == [fork.index]
        await copy.stop()
        await swarm.finished()

    swarm = play(story)
    assert swarm.picture.committed == 40
    assert not forks(swarm.events)
    assert len(set(swarm.roots().values())) <= 1
    result = audit(swarm.records())
    assert (result.duplicated, result.lost) == (0, 0)


def test_two_restarts_of_one_journal_with_the_same_term_are_told_apart() -> None:
    """Both write TERM 2 and go on. A node of the second meets the first: the first halts."""
    heads: dict[str, int] = {}

    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(3)
        for label in ("p0", "p1", "keeper"):
            await swarm.kill(label)
        disk = swarm.disk.crash()
        await swarm.kill_coordinator()
        copy = Copy(swarm, disk)
        await swarm.start_coordinator()
        await copy.start()
        # Each of the two has followers of its own; nothing prevents that.
        await restart_with(swarm, "p0", CONTROL)
        await restart_with(swarm, "keeper", CONTROL)
        await restart_with(swarm, "p1", SECOND)
        await swarm.until(lambda: follows(swarm, "p0", CONTROL_TERM))
        await swarm.until(lambda: follows(swarm, "p1", CONTROL_TERM))
        assert own_head(swarm, "p0") != own_head(swarm, "p1")
        ours = Copy.records(copy), swarm.records()
        terms = [[r.term for r in records if isinstance(r, Term)] for records in ours]
        assert terms == [[1, 2], [1, 2]]
        coordinating = swarm._coordinator_task
        swarm._coordinator_task = None
        await restart_with(swarm, "p1", CONTROL)
        fork = await halted(coordinating)
        assert "another coordinator has continued this run" in str(fork)
        heads["p1"] = len(swarm.nodes["p1"].disk.read(JOURNAL) or b"")
        await copy.stop()

    swarm = play(story)
    assert len(forks(swarm.events)) == 1
    # What p1 follows was not changed by the coordinator that it does not follow.
    assert len(swarm.nodes["p1"].disk.read(JOURNAL) or b"") == heads["p1"]
    assert forks(swarm.nodes["p1"].events)


CONTROL_TERM = 2


def follows(swarm: SimSwarm, label: str, term: int) -> bool:
    agent = swarm.nodes[label].agent
    return agent is not None and agent.node.follower.term == term


def own_head(swarm: SimSwarm, label: str) -> bytes:
    agent = swarm.nodes[label].agent
    assert agent is not None
    return bytes(agent.node.follower.journal.head)


def test_a_node_that_only_claims_another_journal_haltsnobody() -> None:
    """Its copy is damaged, or it lies: it has no record that the run key signed."""

    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(3)
        await swarm.kill("p0")
        node = swarm.nodes["p0"]
        other = SimSwarm(spec(), seed=99)  # signs with a key of its own
        forged = Journal.open(
            MemoryDisk({JOURNAL: node.disk.read(JOURNAL) or b""}),
            JOURNAL,
            verifier=lambda *_: True,
            sign=lambda m: other.run_key.sign(RECORD, m),
        )
        forged.append(Term(term=77))
        swarm.spawn("p0")
        agent = node.agent
        assert agent is not None
        agent.node.follower.journal = forged
        await swarm.until(lambda: any("damaged" in s for s in refusals(swarm)))
        node.task = None  # refused: its process has ended with the sentence
        await swarm.committed(8)

    swarm = play(story, peers=3)
    assert not forks(swarm.events)


def refusals(swarm: SimSwarm) -> list[str]:
    return [e.sentence for e in swarm.events if isinstance(e, NodeRefused)]


def test_records_that_a_restored_run_gave_up_are_refused_and_haltnobody() -> None:
    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(3)
        disk = swarm.disk.crash()
        await swarm.committed(6)
        await swarm.kill_coordinator()
        restored = Copy(swarm, disk, alone_since=2)
        await restored.start()
        await restart_with(swarm, "p0", SECOND)
        task = swarm.nodes["p0"].task
        assert task is not None
        swarm.nodes["p0"].task = None
        done, _ = await asyncio.wait([task], timeout=60)
        assert done
        assert "given up when the run was restored in term 2" in str(task.exception())
        assert restored.task is not None and not restored.task.done()
        await restored.stop()

    play(story)


def test_while_the_coordinator_is_away_a_node_says_so_once_and_then_every_minute() -> None:
    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(3)
        await swarm.kill_coordinator()
        await asyncio.sleep(150)
        await swarm.start_coordinator()
        await swarm.finished()

    swarm = play(story)
    told = [e for e in swarm.nodes["p0"].events if isinstance(e, NoCoordinator)]
    assert [round(e.for_s / 60) for e in told] == [0, 1, 2]
    assert told[0].tries == 1 and told[2].tries > 20
    assert len([r for r in swarm.records() if isinstance(r, Commit)]) == 40
