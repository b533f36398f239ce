"""ADMIN(end): when the trainers of a finished run may go."""

from __future__ import annotations

import pytest
from swarm_driver import Driver, Peer, driver_spec

from farflung.events import LastRoundLacking
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


def keeps(driver: Driver, peer: Peer, *, root: bytes | None = None) -> None:
    applied(driver, peer, root=root)
    peer.kept = True
    driver.beat(peer)


def applied(driver: Driver, peer: Peer, *, root: bytes | None = None) -> None:
    last = max(driver.state.roots)
    state_root = driver.state.roots[last] if root is None else root
    driver.say(peer, Moved(round=last, bytes_up=0, bytes_down=0, state_root=state_root))


def back(driver: Driver, peer: Peer) -> None:
    """A link again, and what the node says then."""
    driver.connect(peer)
    driver.sync(peer)
    peer.kept = True
    driver.beat(peer)


def keep_alive(driver: Driver, seconds: float) -> None:
    """Time in which everybody's link and stay stand."""
    for _ in range(int(seconds)):
        driver.advance(1.0)


def test_trainers_may_go_when_the_keeper_has_the_last_round() -> None:
    driver = finished()
    for name in ("p0", "p1", "p2"):
        keeps(driver, driver.peers[name])
    assert actions(driver) == ["finish"]
    keeps(driver, driver.peers["keeper"])
    assert actions(driver) == ["finish", "end"]
    assert replay(driver.records, driver.elements, driver.now_s).ended
    driver.feed(Tick())
    assert actions(driver) == ["finish", "end"]


def test_without_a_keeper_they_wait_for_each_other() -> None:
    driver = finished(keeper=False)
    keeps(driver, driver.peers["p0"])
    keeps(driver, driver.peers["p1"])
    assert actions(driver) == ["finish"]
    assert [n.name for n in lacking(driver.state)] == ["p2"]
    keeps(driver, driver.peers["p2"])
    assert actions(driver) == ["finish", "end"]


def test_another_state_is_not_the_last_round() -> None:
    driver = finished()
    keeps(driver, driver.peers["keeper"], root=bytes(32))
    assert actions(driver) == ["finish"]


@pytest.mark.parametrize("keeper", [True, False])
def test_who_never_takes_it_is_not_waited_for_for_ever(keeper: bool) -> None:
    driver = finished(keeper=keeper)
    keeps(driver, driver.peers["p0"])
    keep_alive(driver, PATIENCE_S - 5)
    assert actions(driver) == ["finish"]
    _, told, _ = decide(driver.state, Tick(), driver.now_s + 5.5)
    warnings = [
        a.event for a in told if isinstance(a, Tell) and isinstance(a.event, LastRoundLacking)
    ]
    assert len(warnings) == 1 and "without the last round at" in warnings[0].sentence
    keep_alive(driver, 20)
    assert actions(driver) == ["finish", "end"]


def test_a_keeper_that_was_put_out_is_waited_for() -> None:
    """The host starts it again."""
    driver = finished()
    driver.disconnect(driver.peers["keeper"])
    for name in ("p0", "p1", "p2"):
        keeps(driver, driver.peers[name])
    keep_alive(driver, driver.state.spec.swarm.dead_s + 2)
    assert not driver.state.nodes[driver.peers["keeper"].node].open
    assert actions(driver) == ["finish"]
    back(driver, driver.peers["keeper"])
    assert actions(driver) == ["finish", "end"]


def test_a_restarted_coordinator_learns_from_synced_who_has_it() -> None:
    driver = finished()
    driver.restart()
    back(driver, driver.peers["p0"])
    assert actions(driver) == ["finish"]
    back(driver, driver.peers["keeper"])
    assert actions(driver) == ["finish", "end"]


@pytest.mark.parametrize("keeper", [True, False])
def test_a_round_in_memory_alone_is_not_kept(keeper: bool) -> None:
    """Its disk was full: after its next start the final weights would be nowhere."""
    driver = finished(keeper=keeper)
    last = driver.peers["keeper" if keeper else "p2"]
    for peer in driver.peers.values():
        if peer is not last:
            keeps(driver, peer)
    applied(driver, last)
    driver.beat(last)
    assert actions(driver) == ["finish"]
    keeps(driver, last)
    assert actions(driver) == ["finish", "end"]


def test_a_new_process_must_say_again_what_it_keeps() -> None:
    driver = finished()
    keeper = driver.peers["keeper"]
    keeper.kept = True
    driver.beat(keeper)
    keeper.kept = False
    driver.disconnect(keeper)
    driver.connect(keeper)
    driver.sync(keeper)
    assert actions(driver) == ["finish"]
