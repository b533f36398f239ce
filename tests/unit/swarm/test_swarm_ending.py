"""ADMIN(end): when the trainers of a finished run may go."""

from __future__ import annotations

import pytest
from swarm_driver import Driver, Peer, driver_spec

from farflung.events import Warned
from farflung.network.messages import Moved
from farflung.swarm.decide import decide
from farflung.swarm.ending import PATIENCE_S, lacking
from farflung.swarm.records import Admin
from farflung.swarm.replay import replay
from farflung.swarm.state import Tell, Tick


def finished(*, keeper: bool = True) -> Driver:
    """Three trainers; the last commit is logged and nobody has said that it holds it."""
    driver = Driver(driver_spec(start_peers=3, rounds=3), trainers=3, keeper=keeper)
    driver.gather()
    driver.run_to_the_end()
    assert actions(driver) == ["finish"]
    return driver


def actions(driver: Driver) -> list[str]:
    return [r.action for r in driver.records if isinstance(r, Admin)]


def applied(driver: Driver, peer: Peer, *, root: bytes | None = None) -> None:
    last = max(driver.state.roots)
    state_root = driver.state.roots[last] if root is None else root
    driver.say(peer, Moved(round=last, bytes_up=0, bytes_down=0, state_root=state_root))


def keep_alive(driver: Driver, seconds: float) -> None:
    """Time in which everybody's link and stay stand."""
    for _ in range(int(seconds)):
        driver.advance(1.0)


def test_trainers_may_go_when_the_keeper_has_the_last_round() -> None:
    driver = finished()
    for name in ("p0", "p1", "p2"):
        applied(driver, driver.peers[name])
    assert actions(driver) == ["finish"]
    applied(driver, driver.peers["keeper"])
    assert actions(driver) == ["finish", "end"]
    assert replay(driver.records, driver.elements, driver.now_s).ended
    driver.feed(Tick())
    assert actions(driver) == ["finish", "end"]


def test_without_a_keeper_they_wait_for_each_other() -> None:
    driver = finished(keeper=False)
    applied(driver, driver.peers["p0"])
    applied(driver, driver.peers["p1"])
    assert actions(driver) == ["finish"]
    assert [n.name for n in lacking(driver.state)] == ["p2"]
    applied(driver, driver.peers["p2"])
    assert actions(driver) == ["finish", "end"]


def test_another_state_is_not_the_last_round() -> None:
    driver = finished()
    applied(driver, driver.peers["keeper"], root=bytes(32))
    assert actions(driver) == ["finish"]


@pytest.mark.parametrize("keeper", [True, False])
def test_who_never_takes_it_is_not_waited_for_for_ever(keeper: bool) -> None:
    driver = finished(keeper=keeper)
    applied(driver, driver.peers["p0"])
    keep_alive(driver, PATIENCE_S - 5)
    assert actions(driver) == ["finish"]
    _, told, _ = decide(driver.state, Tick(), driver.now_s + 5.5)
    warnings = [a.event for a in told if isinstance(a, Tell) and isinstance(a.event, Warned)]
    assert len(warnings) == 1 and "without the last round at" in warnings[0].sentence
    keep_alive(driver, 20)
    assert actions(driver) == ["finish", "end"]


def test_a_keeper_that_was_put_out_is_waited_for() -> None:
    """The host starts it again."""
    driver = finished()
    driver.disconnect(driver.peers["keeper"])
    for name in ("p0", "p1", "p2"):
        applied(driver, driver.peers[name])
    keep_alive(driver, driver.state.spec.swarm.dead_s + 2)
    assert not driver.state.nodes[driver.peers["keeper"].node].open
    assert actions(driver) == ["finish"]
    driver.connect(driver.peers["keeper"])
    driver.sync(driver.peers["keeper"])
    assert actions(driver) == ["finish", "end"]


def test_a_restarted_coordinator_learns_from_synced_who_has_it() -> None:
    driver = finished()
    driver.restart()
    for peer in driver.peers.values():
        driver.connect(peer)
    driver.sync(driver.peers["p0"])
    assert actions(driver) == ["finish"]
    driver.sync(driver.peers["keeper"])
    assert actions(driver) == ["finish", "end"]
