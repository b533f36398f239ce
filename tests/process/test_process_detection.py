"""Suspended processes, hung trainers, slow peers and stepping wall clocks, with real processes."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from processes import ENDLESS, Running, Swarm, quad_spec, until

from farflung.config.load import from_table
from farflung.config.run import RunSpec
from farflung.events import (
    AttemptFailed,
    GenerationClosed,
    Paused,
    Resumed,
    RoundAbandoned,
    Trained,
)
from farflung.swarm import ranges

pytestmark = pytest.mark.slow

SUSPENDED_S = 7.0
"""Longer than `dead_s`: whoever judged by a clock that went on would close every stay."""


def swarm_of(root: Path, peers: int, **sections: Any) -> Swarm:
    rules = {"start_peers": peers, **sections.pop("swarm", {})}
    return Swarm(root, quad_spec(**{**ENDLESS, **sections}, swarm=rules))


def suspend(running: Running, seconds: float) -> None:
    running.signal(signal.SIGSTOP)
    try:
        time.sleep(seconds)
    finally:
        running.signal(signal.SIGCONT)


def closed(swarm: Swarm) -> list[tuple[str, str]]:
    return [(e.name, e.reason) for e in swarm.events("host", GenerationClosed)]


def assert_verified(swarm: Swarm) -> None:
    swarm.kill_all()
    done = swarm.verify()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "duplicated 0" in done.stdout


def test_a_suspended_coordinator_closes_nobodys_stay(tmp_path: Path) -> None:
    with swarm_of(tmp_path, 3) as swarm:
        host = swarm.host()
        for name in "abc":
            swarm.join(name)
        swarm.committed(5)
        for _ in range(2):
            suspend(host, SUSPENDED_S)
            swarm.more(5)
        assert closed(swarm) == []
        assert_verified(swarm)


def test_a_suspended_peer_is_fenced_and_comes_back(tmp_path: Path) -> None:
    with swarm_of(tmp_path, 3) as swarm:
        swarm.host()
        peers = {name: swarm.join(name) for name in "abc"}
        swarm.committed(5)
        suspend(peers["b"], 2.0)
        swarm.more(5)
        assert closed(swarm) == []
        peers["b"].signal(signal.SIGSTOP)
        until(lambda: closed(swarm), "the suspended peer is out")
        swarm.more(5)
        peers["b"].signal(signal.SIGCONT)
        assert [name for name, _ in closed(swarm)] == ["b"]
        until(lambda: contributes(swarm, "b", generation=2), "it contributes again")
        assert_verified(swarm)


def contributes(swarm: Swarm, name: str, generation: int) -> bool:
    node = swarm.events(name)[0].node
    last = swarm.commits()[-1].contributors
    return any((c.node, c.generation) == (node, generation) for c in last)


def torch_spec(**swarm: Any) -> RunSpec:
    return from_table(
        {
            "name": "hung",
            "outer": {"rounds": 1_000_000, "inner_steps": 5, "chunk_elements": 32_768},
            "swarm": {"start_peers": 2, **swarm},
        }
    )


def trainer_of(swarm: Swarm, name: str) -> int:
    """Process id of a peer's trainer: the one whose environment names the peer's home."""
    mark = f"FARFLUNG_HOME={swarm.home(name)}".encode()
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes()
            if b"farflung.inner.trainer" in command and mark in (entry / "environ").read_bytes():
                return int(entry.name)
        except (OSError, ValueError):
            continue  # not a process, gone, or not ours
    raise AssertionError(f"{name} has no trainer")


def test_a_hung_trainer_ends_the_stay_of_its_living_agent_until_it_moves(tmp_path: Path) -> None:
    with Swarm(tmp_path, torch_spec()) as swarm:
        swarm.host()
        for name in "ab":
            swarm.join(name)
        swarm.committed(4, 180)
        trainer = trainer_of(swarm, "b")
        os.kill(trainer, signal.SIGSTOP)
        try:
            reasons = until(lambda: closed(swarm), "the hung peer is out", 120)
            swarm.more(30, 120)  # a stay that was opened again at once would be closed again
            assert len(closed(swarm)) == 1
        finally:
            os.kill(trainer, signal.SIGCONT)
        assert reasons[0][0] == "b"
        assert reasons[0][1].startswith("alive but no progress for ")
        until(lambda: contributes(swarm, "b", generation=2), "it contributes again", 120)
        assert_verified(swarm)


def step_takes(seconds: float) -> str:
    """Python that makes the process's inner steps slow."""
    return (
        "from farflung.trainers import numpy_trainer as t\n"
        "first = t.NumpyTrainer.__init__\n"
        "def slow(self, shared, spec, step_s=0.0):\n"
        f"    first(self, shared, spec, {seconds})\n"
        "t.NumpyTrainer.__init__ = slow\n"
    )


def credited(swarm: Swarm, name: str) -> int:
    node = swarm.events(name)[0].node
    return sum(
        ranges.count(c.credited)
        for commit in swarm.commits()
        for c in commit.contributors
        if c.node == node
    )


def test_a_peer_at_a_tenth_of_the_speed_gets_a_tenth_of_the_work_and_is_credited(
    tmp_path: Path,
) -> None:
    """benchmarks/slow_peer.py measures what it costs the others."""
    with swarm_of(tmp_path, 4, outer={"rounds": 1_000_000, "inner_steps": 50}) as swarm:
        swarm.host()
        for name, step_s in (("a", 0.02), ("b", 0.02), ("c", 0.02), ("slow", 0.2)):
            patch = step_takes(step_s)
            swarm.spawn(name, "join", swarm.invite, "--name", name, patch=patch)
        swarm.committed(20, 180)
        assert closed(swarm) == []
        steps = [e.steps for e in swarm.events("slow", Trained)]
        assert 1 <= max(steps[2:]) <= 10
        rows = {name: credited(swarm, name) for name in ("a", "slow")}
        assert 0.04 * rows["a"] <= rows["slow"] <= 0.25 * rows["a"]
        assert_verified(swarm)


JUMPING_CLOCK = (
    "import time\n"
    "real = time.time\n"
    "def jumping():\n"
    "    return real() + (3600 if int(time.monotonic() / 2) % 2 else -3600)\n"
    "time.time = jumping\n"
)


def test_wall_clocks_that_jump_by_an_hour_change_nothing(tmp_path: Path) -> None:
    with swarm_of(tmp_path, 3) as swarm:
        swarm.host()
        for name in "ab":
            peer = swarm.spawn(name, "join", swarm.invite, "--name", name, patch=JUMPING_CLOCK)
            until(lambda peer=peer: "this machine's clock is 3," in peer.text, "it is told")
        swarm.join("c")
        swarm.committed(5)
        start = time.monotonic()
        while time.monotonic() - start < 10:
            swarm.more(3)
        lines = (swarm.folder("a") / "events.jsonl").read_bytes().splitlines()[:-1]
        stamps = [json.loads(line)["wall"] for line in lines]
        assert max(stamps) - min(stamps) > 7000  # the clock did jump
        assert closed(swarm) == []
        assert not swarm.events("host", AttemptFailed)
        assert not swarm.events("host", RoundAbandoned)
        assert_verified(swarm)


def test_below_min_peers_the_run_pauses_and_goes_on_by_itself(tmp_path: Path) -> None:
    rules = {"min_peers": 2, "beat_s": 0.3, "suspect_s": 1.0, "dead_s": 2.0}
    with swarm_of(tmp_path, 3, swarm=rules) as swarm:
        host = swarm.host()
        peers = {name: swarm.join(name) for name in "abc"}
        swarm.committed(5)
        for name in "ab":
            peers[name].kill()
        until(lambda: paused(swarm), "the run pauses")
        held = swarm.n_committed()
        until(lambda: len(closed(swarm)) == 2, "both stays are closed")
        assert swarm.n_committed() == held
        assert host.process.poll() is None and peers["c"].process.poll() is None
        swarm.join_again("a")
        swarm.more(5)
        assert swarm.events("host", Resumed)
        assert_verified(swarm)


def paused(swarm: Swarm) -> bool:
    """After the start, when it waits for its first peers."""
    return any(e.reason.startswith("paused") for e in swarm.events("host", Paused))
