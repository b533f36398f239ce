"""A run that is extended: in its middle, at its end, and after everybody has gone."""

from __future__ import annotations

import asyncio

import pytest
from sim_stories import assert_sound, contributions, play
from test_sim_swarm import spec

from farflung.errors import UserError
from farflung.events import Applied, LastRoundAwaited, RunAmended, RunFinished
from farflung.ids import Role
from farflung.network.link import PEER
from farflung.network.messages import Extend, Extended, Refuse
from farflung.sim.checks import check
from farflung.sim.ending import open_again
from farflung.sim.faults import Storm
from farflung.sim.world import CONTROL, KEEPER, SimSwarm
from farflung.swarm.records import Admin, Amend
from farflung.swarm.replay import current_spec


def actions(swarm: SimSwarm) -> list[str]:
    return [
        "amend" if isinstance(r, Amend) else r.action
        for r in swarm.records()
        if isinstance(r, Admin | Amend)
    ]


def last_round(swarm: SimSwarm, label: str) -> int:
    return [e for e in swarm.nodes[label].events if isinstance(e, Applied)][-1].round


def same_everywhere(swarm: SimSwarm) -> None:
    """Every live node follows the settings and holds the state that the journal leads to."""
    counts = check(swarm)
    assert counts["A1"] >= len(swarm.nodes)
    assert len(set(swarm.roots().values())) == 1


def test_an_extension_in_the_middle_a_restart_and_a_joiner_after_it() -> None:
    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(4)
        swarm.extend("rounds=+10", "snapshot_every=2")
        await swarm.committed(6)
        await swarm.kill_coordinator()
        await swarm.start_coordinator()
        await swarm.committed(8)
        swarm.add("late", Role.TRAINER)
        swarm.spawn("late")
        await swarm.until(lambda: swarm.picture.finished)
        await asyncio.sleep(1.0)  # the last round lands everywhere; nobody has gone yet
        same_everywhere(swarm)
        await swarm.finished()

    swarm = play(story, spec(rounds=12), peers=3)
    assert len(swarm.commits()) == 22
    assert contributions(swarm, "late")[-1] == 21
    assert actions(swarm) == ["amend", "finish", "end"]
    assert swarm.picture.rounds_wanted == 22
    assert_sound(swarm)


@pytest.mark.parametrize("seed", [3, 8])
def test_an_extension_in_the_middle_of_a_storm(seed: int) -> None:
    """Every promise of the storms holds, whatever fails around it."""

    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(1)
        storm = Storm(swarm, swarm.rng)
        await storm.rage(3)
        swarm.extend("rounds=+40", "keep_rounds=6")
        await storm.rage(6)
        swarm.add("newcomer", Role.TRAINER)
        swarm.spawn("newcomer")
        await swarm.committed(swarm.picture.committed + 3)
        check(swarm, storm.harms)

    swarm = play(
        story, spec(rounds=1000, fragments=4, window=2, inner_steps=12), peers=3, seed=seed
    )
    assert current_spec(swarm.records()).outer.rounds >= 1040


def test_a_finished_run_that_is_still_served_goes_on_with_all_its_peers() -> None:
    """The extension comes between the last commit and the host's end."""

    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(3)
        keeper = swarm.nodes[KEEPER].node
        for node in swarm.nodes.values():
            if node.node != keeper:
                swarm.network.set_delay(keeper, node.node, 0.4)  # so that nobody goes at once
        await swarm.until(lambda: swarm.picture.finished)
        swarm.extend("rounds=+3")
        await swarm.until(lambda: not swarm.picture.finished)
        await swarm.finished()

    swarm = play(story, spec(rounds=6), peers=3)
    assert len(swarm.commits()) == 9
    assert actions(swarm) == ["finish", "amend", "finish", "end"]
    assert all(last_round(swarm, label) == 8 for label in swarm.nodes)
    assert_sound(swarm)


def test_a_run_that_is_over_is_opened_again_and_those_who_come_back_go_on() -> None:
    """Their own journals say that all is over: they ask before they believe it."""
    applied: list[int] = []

    async def story(swarm: SimSwarm) -> None:
        await swarm.finished()
        applied.append(last_round(swarm, "p0"))
        assert await open_again(swarm, 5, 120.0) == 4

    swarm = play(story, spec(rounds=6), peers=3)
    assert applied == [5]
    assert actions(swarm) == ["finish", "end", "amend", "finish", "end"]
    assert len(swarm.commits()) == 11
    assert all(last_round(swarm, label) == 10 for label in swarm.nodes)
    assert [e.rounds for e in swarm.events if isinstance(e, RunFinished)] == [6, 11]
    assert contributions(swarm, "p0")[-1] == 10
    told = [e for e in swarm.events if isinstance(e, LastRoundAwaited)]
    assert not told, "a run that goes on serves nobody who missed its end"
    assert_sound(swarm)


def test_a_peer_whose_host_is_gone_for_good_does_not_wait_long() -> None:
    async def story(swarm: SimSwarm) -> None:
        await swarm.finished()
        swarm.spawn("p0")
        began = asyncio.get_running_loop().time()
        task = swarm.nodes["p0"].task
        assert task is not None
        assert await asyncio.wait_for(task, 60.0) == "finished"
        assert 5.0 < asyncio.get_running_loop().time() - began < 30.0

    play(story, spec(rounds=4), peers=3)


def test_a_start_that_is_told_nonsense_writes_nothing() -> None:
    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(4)
        await swarm.kill_coordinator()
        before = swarm.journal_bytes()
        with pytest.raises(UserError, match=r"outer\.rounds=2 must be at least"):
            await swarm.start_coordinator("rounds=2")
        assert swarm.journal_bytes() == before
        await swarm.start_coordinator("rounds=8")
        await swarm.finished()

    swarm = play(story, spec(rounds=50), peers=3)
    assert len(swarm.commits()) == 8


def test_only_the_runs_own_key_may_change_it() -> None:
    answers: list[object] = []

    async def ask(swarm: SimSwarm, who: str, *wishes: str) -> object:
        link = await swarm.network.transport(who, PEER).dial(  # type: ignore[arg-type]
            CONTROL, expect=None, deadline_s=5.0
        )
        await link.send(Extend(request=f"{who} {wishes}", wishes=wishes))
        return await link.receive()

    async def story(swarm: SimSwarm) -> None:
        await swarm.committed(2)
        operator = swarm.run_key.node_id
        for who in (swarm.nodes["p0"].node, operator):
            answers.append(await ask(swarm, who, "rounds=+3"))
        answers.append(await ask(swarm, operator, "rounds=+3"))  # a request is taken once
        answers.append(await ask(swarm, operator, "rounds=1"))
        await swarm.finished()

    swarm = play(story, spec(rounds=6), peers=3)
    assert [type(a) for a in answers] == [Refuse, Extended, Extended, Refuse]
    refused, granted, again, nonsense = (getattr(a, "sentence", "") for a in answers)
    assert refused == "only the host itself may change a run's settings"
    assert granted == "amended: rounds=+3; the run now ends after 9 rounds"
    assert again.startswith("nothing to change")
    assert "outer.rounds=1 must be at least" in nonsense
    assert len(swarm.commits()) == 9
    assert len([e for e in swarm.events if isinstance(e, RunAmended)]) == 1
