"""Deaths, restarts and departures of real processes."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from processes import ENDLESS, QUICK_DEATH, Running, Swarm, quad_spec, until

from farflung.events import Applied, GenerationClosed, GenerationOpened, Reconnected
from farflung.swarm.records import Commit, Gen, Term


def swarm_of(root: Path, peers: int, **sections: object) -> Swarm:
    spec = quad_spec(**ENDLESS, swarm={"start_peers": peers, **QUICK_DEATH}, **sections)
    return Swarm(root, spec)


def assert_verified(swarm: Swarm) -> None:
    swarm.kill_all()
    done = swarm.verify()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "duplicated 0" in done.stdout
    assert "recomputed bit by bit: ok" in done.stdout


def node_of(swarm: Swarm, name: str) -> str:
    return str(until(lambda: swarm.events(name), f"{name} starts")[0].node)


def generations(swarm: Swarm, node: str) -> list[int]:
    return [r.generation for r in swarm.records() if isinstance(r, Gen) and r.node == node]


@pytest.mark.slow
def test_survivors_commit_and_a_killed_peer_continues_with_a_new_generation(
    tmp_path: Path,
) -> None:
    with swarm_of(tmp_path, 3) as swarm:
        swarm.host()
        peers = {name: swarm.join(name) for name in "abc"}
        swarm.committed(5)
        node = node_of(swarm, "c")
        peers["c"].kill()
        swarm.more(5)
        closed = until(lambda: swarm.events("host", GenerationClosed), "the death is noticed")
        assert [e.node for e in closed] == [node]
        swarm.more(5)
        swarm.join_again("c")
        until(lambda: len(generations(swarm, node)) == 2, "a new generation")
        assert generations(swarm, node) == [1, 2]
        start = swarm.commits()[-1].round
        until(lambda: contributed_after(swarm, node, start), "it contributes again")
        assert node_of(swarm, "c") == node
        assert_verified(swarm)


def contributed_after(swarm: Swarm, node: str, round_: int) -> bool:
    return any(
        c.round > round_ and node in {x.node for x in c.contributors} for c in swarm.commits()
    )


@pytest.mark.slow
def test_a_killed_host_loses_no_committed_round_and_peers_keep_their_generation(
    tmp_path: Path,
) -> None:
    with swarm_of(tmp_path, 2) as swarm:
        host = swarm.host()
        swarm.join("a")
        swarm.join("b")
        swarm.committed(8)
        endpoint = swarm.endpoint
        host.kill()
        journal = (swarm.folder("host") / "journal.bin").read_bytes()
        told = [e.round for name in "ab" for e in swarm.events(name, Applied)]
        before = [c.round for c in swarm.commits()]
        assert max(told) <= before[-1]
        swarm.host_again()
        assert swarm.endpoint == endpoint
        swarm.more(5)
        now = (swarm.folder("host") / "journal.bin").read_bytes()
        assert now.startswith(journal)
        terms = [r.term for r in swarm.records() if isinstance(r, Term)]
        assert terms == [1, 2]
        for name in "ab":
            assert generations(swarm, node_of(swarm, name)) == [1]
            assert [e.term for e in swarm.events(name, Reconnected)] == [2]
        assert_contiguous(swarm)
        assert_verified(swarm)


def assert_contiguous(swarm: Swarm) -> None:
    rounds = [r.round for r in swarm.records() if isinstance(r, Commit)]
    assert rounds == sorted(set(rounds))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_makes_a_peer_leave_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    with swarm_of(tmp_path, 2) as swarm:
        swarm.host()
        swarm.join("a")
        leaver = swarm.join("b")
        swarm.committed(3)
        leaver.signal(number)
        assert leaver.wait(15) == 0
        assert_left(swarm, leaver)


def test_the_leave_command_makes_this_machines_peer_leave(tmp_path: Path) -> None:
    with swarm_of(tmp_path, 2) as swarm:
        swarm.host()
        swarm.join("a")
        leaver = swarm.join("b")
        swarm.committed(3)
        done = swarm.run("b", "leave")
        assert (done.returncode, done.stdout) == (0, "left\n"), done.stderr
        assert leaver.wait(5) == 0
        assert_left(swarm, leaver)
        again = swarm.run("b", "leave")
        assert again.returncode == 2
        assert "nothing to leave" in again.stderr


def assert_left(swarm: Swarm, leaver: Running) -> None:
    """It said goodbye, handed back its lease, and the other goes on."""
    assert "b: left; `farflung join` continues" in leaver.text
    closed = until(lambda: swarm.events("host", GenerationClosed), "the stay is closed")
    assert [(e.name, e.reason.startswith("left")) for e in closed] == [(leaver.name, True)]
    swarm.more(3)
    assert_verified(swarm)


def test_a_peer_that_left_continues_with_join_alone(tmp_path: Path) -> None:
    with swarm_of(tmp_path, 2) as swarm:
        swarm.host()
        swarm.join("a")
        leaver = swarm.join("b")
        swarm.committed(3)
        leaver.signal(signal.SIGTERM)
        assert leaver.wait(15) == 0
        node = node_of(swarm, "b")
        swarm.join_again("b")
        until(lambda: len(swarm.events("host", GenerationOpened)) >= 4, "it is back")
        until(lambda: generations(swarm, node) == [1, 2], "a new generation")
        swarm.more(3)
        assert_verified(swarm)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_host_cleanly_and_it_continues(
    tmp_path: Path, number: signal.Signals
) -> None:
    with swarm_of(tmp_path, 2) as swarm:
        host = swarm.host()
        swarm.join("a")
        swarm.join("b")
        swarm.committed(3)
        host.signal(number)
        assert host.wait(15) == 0
        assert "run stopped; `farflung host` continues" in host.text
        swarm.host_again()
        swarm.more(3)
        assert_verified(swarm)
