"""Inner optimizer states between real torch trainers (slow; run by `make test-slow`)."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import msgspec
import pytest
from processes import DEADLINE_S, Swarm, assert_one_sentence, until
from torch_runs import twin_spec

from farflung.events import AgentStarted, Applied, InnerStateLoaded, RoundCommitted, Trained

pytestmark = pytest.mark.slow

PATIENCE_S = 10 * DEADLINE_S
ROUNDS = 200
"""More than the test waits for."""


def test_a_joiner_takes_a_donors_state_and_a_restarted_peer_its_own(tmp_path: Path) -> None:
    spec = twin_spec(peers=2, rounds=ROUNDS, seed=0, size="tiny", inner_steps=8, rows=4)
    rules = msgspec.structs.replace(spec.swarm, snapshot_every=4)
    spec = msgspec.structs.replace(spec, swarm=rules)
    with Swarm(tmp_path, spec) as swarm:
        swarm.host()
        swarm.join("a")
        swarm.join("b")
        swarm.committed(6, PATIENCE_S)
        warm = swarm.join("c", "--inner-state", "donor")
        swarm.join("d", "--inner-state", "fresh")
        for name in ("c", "d"):
            until(lambda n=name: _contributions(swarm, n) >= 4, f"{name} contributes", PATIENCE_S)

        donors = {e.node for name in "ab" for e in swarm.events(name, AgentStarted)}
        loaded = swarm.events("c", InnerStateLoaded)
        assert len(loaded) == 1 and loaded[0].source in donors
        assert loaded[0].bytes > 4 * 2 * 10_000
        assert f"optimizer goes on with {loaded[0].source[:8]}'s state of round" in warm.text
        assert swarm.events("d", InnerStateLoaded) == []
        losses = {name: _first_loss(swarm, name) for name in ("c", "d")}
        print("loss of the first rounds after the join:", losses)
        others = statistics.fmean(e.loss for e in swarm.events("host", RoundCommitted)[4:8])
        assert all(math.isfinite(x) and x < others + 0.3 for x in losses.values()), losses

        before = _contributions(swarm, "c")
        until(lambda: (swarm.folder("c") / "inner" / "newest.json").exists(), "c saves its own")
        swarm.more(5, PATIENCE_S)  # past a snapshot
        warm.kill()
        swarm.join_again("c")
        until(lambda: _contributions(swarm, "c") > before, "c is back", PATIENCE_S)
        until(lambda: len(swarm.events("c", InnerStateLoaded)) == 2, "c loads its own", PATIENCE_S)
        assert swarm.events("c", InnerStateLoaded)[-1].source == "own"
        swarm.more(2, PATIENCE_S)
        swarm.kill_all()
        assert swarm.verify().returncode == 0


def test_another_rule_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with Swarm(tmp_path, twin_spec(peers=2, rounds=2, seed=0)) as swarm:
        done = swarm.run("a", "join", "ff1x", "--inner-state", "warm")
        assert_one_sentence(done, "--inner-state 'warm' must be fresh or donor")


def _contributions(swarm: Swarm, name: str) -> int:
    return sum(e.contributed for e in swarm.events(name, Applied))


def _first_loss(swarm: Swarm, name: str) -> float:
    """Of its first plans with steps: who is late in its first round has none in the next."""
    return statistics.fmean([e.loss for e in swarm.events(name, Trained) if e.steps][:3])
