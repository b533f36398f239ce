"""An agent at awkward moments: an old plan after a new link, an end in the midst of a failure."""

from __future__ import annotations

import asyncio

import pytest
from sim_stories import assert_sound, play
from test_sim_swarm import spec

from farflung.config.run import spec_from_bytes
from farflung.errors import ConfigError, CorruptState, StorageError
from farflung.events import GenerationClosed, GenerationOpened
from farflung.ids import Role
from farflung.network.messages import Attempt, Control, Plan, Synced, Welcome
from farflung.peer.averager import Averager
from farflung.peer.control_messages import ControlMessages
from farflung.sim.world import SimSwarm
from farflung.swarm.records import Genesis

END_S = 30.0


@pytest.mark.parametrize("kind", [Plan, Attempt])
def test_what_was_sent_before_a_new_link_is_no_answer_to_it(
    monkeypatch: pytest.MonkeyPatch, kind: type[Control]
) -> None:
    """The coordinator had not seen the link break: its message crosses the welcome of the next."""
    last: dict[str, Control] = {}
    crossed: list[str] = []
    hear, greet = ControlMessages.on_message, ControlMessages.on_welcome

    def heard(mine: ControlMessages, message: Control) -> None:
        if type(message) is kind:
            last[mine._node.config.name] = message
        hear(mine, message)

    def welcomed(mine: ControlMessages, welcome: Welcome) -> None:
        greet(mine, welcome)
        old = last.get(mine._node.config.name)
        if old is not None:
            crossed.append(mine._node.config.name)
            hear(mine, old)

    monkeypatch.setattr(ControlMessages, "on_message", heard)
    monkeypatch.setattr(ControlMessages, "on_welcome", welcomed)

    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(3)
        agent = swarm.nodes["p1"].agent
        assert agent is not None
        agent.node.control.reconnect()
        await swarm.until(lambda: "p1" in crossed)
        await swarm.committed(swarm.picture.committed + 3)
        await swarm.finished()

    swarm = play(story, spec(rounds=14), peers=3)
    assert_sound(swarm)
    p1 = swarm.nodes["p1"].node
    assert p1 in {c.node for c in swarm.commits()[-1].contributors}


def test_a_stay_that_an_old_request_opened_is_taken_part_in() -> None:
    """A second SYNCED waited in a frozen link; meanwhile the stay that the first had opened ended.
    Its peer hears of the end and of the new stay at once, before it has asked again."""

    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(3)
        p1 = swarm.nodes["p1"]
        assert p1.agent is not None
        state = p1.agent.node.follower.state
        swarm.network.freeze(p1.node)
        asking = p1.agent.node.control.send(
            Synced(next_round=state.next_round, state_root=state.root)
        )
        asked = asyncio.create_task(asking)
        await swarm.until(lambda: closed(swarm, "p1") == 1)
        swarm.network.thaw(p1.node)
        await asked
        at = swarm.picture.committed
        await swarm.until(
            lambda: any(
                c.node == p1.node for commit in swarm.commits()[at:] for c in commit.contributors
            ),
            60.0,
        )

    assert_sound(play(story, spec(rounds=2000), peers=3))


def closed(swarm: SimSwarm, name: str) -> int:
    return sum(isinstance(e, GenerationClosed) and e.name == name for e in swarm.events)


def test_a_closed_averager_has_no_attempt_left_that_looks_at_the_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not even one that was over just before: its tasks had not seen their cancellation yet."""
    begun: dict[Averager, asyncio.Task[None]] = {}
    begin, beginning = Averager.on_attempt, asyncio.Event()

    def begins(averager: Averager, attempt: Attempt) -> None:
        begin(averager, attempt)
        begun[averager] = averager._tasks[attempt.term, attempt.round, attempt.attempt]
        beginning.set()

    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(3)
        monkeypatch.setattr(Averager, "on_attempt", begins)
        await beginning.wait()
        averager, task = next(iter(begun.items()))
        await asyncio.sleep(0)  # its own tasks are made, and have not run
        averager.new_term(1 << 30)
        await averager.close()
        assert task.done()

    play(story, spec(rounds=2000), peers=3)


@pytest.mark.parametrize("failure", [CorruptState("not the journal's"), StorageError("no space")])
def test_an_agent_that_fails_while_it_is_told_to_end_ends(failure: Exception) -> None:
    """A TaskGroup raises the failure then, not the cancellation; whoever handles it goes on."""

    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(3)
        node = swarm.nodes["p1"]
        assert node.agent is not None and node.task is not None
        landing, step = asyncio.Event(), node.agent.applier.step

        async def fails_once() -> bool:
            if landing.is_set():
                return await step()
            landing.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise failure from None
            return False

        node.agent.applier.step = fails_once  # type: ignore[method-assign]
        await landing.wait()
        node.agent.leave("enough")
        await asyncio.wait({node.task}, timeout=END_S)
        assert node.task.done() and node.task.result() == "left"
        await swarm.finished()

    swarm = play(story, spec(rounds=14), peers=3)
    assert_sound(swarm)
    opened = [e for e in swarm.events if isinstance(e, GenerationOpened) and e.name == "p1"]
    assert len(opened) == 1


def test_an_agent_whose_version_refuses_the_runs_spec_ends_with_the_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def of_another_version(genesis: Genesis) -> None:
        spec_from_bytes(genesis.spec.replace(b'"rounds":14', b'"rounds":0'), "the run's spec")

    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(2)
        monkeypatch.setattr("farflung.peer.follower.genesis_spec", of_another_version)
        late = swarm.add("late", Role.TRAINER)

        async def live() -> None:
            swarm.spawn("late")
            assert late.task is not None
            await asyncio.wait_for(late.task, END_S)

        for _ in ("told by the coordinator", "read from its own replica"):
            swarm.spawn("late")
            assert late.task is not None
            with pytest.raises(ConfigError, match=r"^the run's spec is not valid: outer\.rounds=0"):
                await live()
            swarm.strike("late")
            late.task = None
        monkeypatch.undo()
        await swarm.finished()

    assert_sound(play(story, spec(rounds=14), peers=3))
