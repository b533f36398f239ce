"""A fault of the program itself: it is told, and ends a link or the process, never silently."""

from __future__ import annotations

from typing import Any

import pytest
from test_sim_swarm import assert_sound, play, spec

from farflung.coordinator import coordinator as module
from farflung.coordinator.coordinator import Coordinator, CoordinatorOptions
from farflung.errors import FrameError
from farflung.events import Event, TaskFailed
from farflung.network.messages import Beat, Control
from farflung.sim.checks import BrokenInvariant, check
from farflung.sim.world import SimSwarm
from farflung.swarm.state import Disconnected, Input, Received, Tick


def failures(events: list[Event]) -> list[str]:
    return [e.task for e in events if isinstance(e, TaskFailed)]


def test_a_session_whose_writer_fails_is_closed_and_its_node_comes_back() -> None:
    """A message that is too large to be sent once ended every writer in silence."""

    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(2)
        assert swarm.coordinator is not None
        node = swarm.nodes["p1"].node
        session = swarm.coordinator.roster.sessions[node]

        async def refuse(_: Control) -> None:
            raise FrameError("Donors of 300000 bytes exceeds its cap")

        session.link.send = refuse  # type: ignore[method-assign]
        await swarm.until(
            lambda: (
                swarm.coordinator is not None
                and swarm.coordinator.roster.sessions.get(node, session) is not session
            ),
            30.0,
        )
        await swarm.finished()

    swarm = play(story, spec(rounds=8), peers=3)
    assert_sound(swarm)
    assert failures(swarm.events) == [f"write to {swarm.nodes['p1'].node[:8]}"]
    with pytest.raises(BrokenInvariant, match="T1: coordinator: a fault ended the task `write to"):
        check(swarm)


def fails_once(monkeypatch: pytest.MonkeyPatch, kind: type, node: str = "") -> list[Input]:
    """`decide` fails over one input of this kind (a Beat: over one that `node` sent)."""
    hit: list[Input] = []
    decide = module.decide

    def faulty(state: Any, event: Input, now_s: float) -> Any:
        told = event.message if isinstance(event, Received) else event
        if isinstance(told, kind) and getattr(event, "node", "") == node and not hit:
            hit.append(event)
            raise OverflowError("cannot convert float infinity to integer")
        return decide(state, event, now_s)

    monkeypatch.setattr(module, "decide", faulty)
    return hit


def test_a_message_that_nobody_can_decide_about_costs_its_sender_the_link(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(2)
        assert swarm.coordinator is not None
        node = swarm.nodes["p1"].node
        session = swarm.coordinator.roster.sessions[node]
        hit = fails_once(monkeypatch, Beat, node)
        await swarm.until(lambda: bool(hit))
        await swarm.until(
            lambda: (
                swarm.coordinator is not None
                and swarm.coordinator.roster.sessions.get(node, session) is not session
            ),
            30.0,
        )
        await swarm.finished()

    swarm = play(story, spec(rounds=8), peers=3)
    assert_sound(swarm)
    assert failures(swarm.events) == ["decide what p1 said"]


@pytest.mark.parametrize("kind", [Tick, Disconnected])
def test_a_fault_in_the_decisions_themselves_ends_the_process(
    monkeypatch: pytest.MonkeyPatch, kind: type
) -> None:
    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(2)
        node = swarm.nodes["p1"].node
        hit = fails_once(monkeypatch, kind, "" if kind is Tick else node)
        await swarm.kill("p1")
        with pytest.raises(OverflowError):
            await swarm.until(lambda: False, 5.0)
        assert hit and swarm.over

    swarm = play(story, spec(rounds=2000), peers=3)
    assert failures(swarm.events) == ["decide"]


def test_a_fault_between_journal_and_sends_ends_the_process() -> None:
    """Who goes on after it would send what others could never find in the journal."""

    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(2)

        def faulty(*_: object) -> None:
            raise KeyError("index")

        assert swarm.coordinator is not None
        told = CoordinatorOptions(on_append=faulty)
        swarm.coordinator._options = told
        length = swarm.coordinator.journal.length
        with pytest.raises(KeyError, match="index"):
            await swarm.until(lambda: False, 10.0)
        assert swarm.coordinator.journal.length > length

    swarm = play(story, spec(rounds=2000), peers=3)
    assert failures(swarm.events) == ["decide"]


def test_a_fault_in_the_tick_loop_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(1)
        await swarm.until(lambda: swarm.picture.finished)

        def faulty(_: Coordinator) -> None:
            raise KeyError("late")

        monkeypatch.setattr(Coordinator, "_linger", faulty)
        with pytest.raises(KeyError, match="late"):
            await swarm.until(lambda: False, 10.0)

    swarm = play(story, spec(rounds=3), peers=3)
    assert failures(swarm.events) == ["tick"]
