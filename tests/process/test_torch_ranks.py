"""Peers of one, two and four ranks and a NumPy peer in one swarm: minutes, run by `make test-slow`.

What they train differs in rounding, and the NumPy peer trains something else altogether. What is
committed must be the same to the bit on all of them.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import Swarm, until

from farflung.config.load import from_table
from farflung.config.run import RunSpec
from farflung.events import Applied, GenerationClosed, InnerStateLoaded

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "examples" / "ranks_loop.py"
PATIENCE_S = 600.0
"""A machine with other work recomputes and loads torch slowly."""
SNAPSHOT = 4
"""Rounds between two saves of an optimizer's state."""
NUMPY_PEER = "import farflung.run.assemble as a; a.trainer_program = lambda spec: None"
"""The quadratic twin over the run's layout, whatever the run trains."""


def ranks_spec(**sections: dict[str, Any]) -> RunSpec:
    table: dict[str, Any] = {
        "name": "ranks",
        "record": "all",
        "inner": {"batch_rows": 8},
        "outer": {"rounds": 6, "inner_steps": 4, "chunk_elements": 32_768},
        "swarm": {"start_peers": 2, "snapshot_every": 2},
    }
    for name, values in sections.items():
        table[name] = {**table.get(name, {}), **values}
    return from_table(table)


def test_peers_of_one_two_and_four_ranks_and_a_numpy_peer_hold_the_same_bits(
    tmp_path: Path,
) -> None:
    streaming = {"fragments": 2, "window": 2, "merge": "carry"}
    with Swarm(tmp_path, ranks_spec(outer=streaming, swarm={"start_peers": 4})) as swarm:
        host = swarm.host()
        for ranks in ("1", "2", "4"):
            swarm.join(ranks, "--ranks", ranks)
        swarm.spawn("numpy", "join", swarm.invite, "--name", "numpy", patch=NUMPY_PEER)
        assert host.wait(PATIENCE_S) == 0
        peers = ("1", "2", "4", "numpy")
        roots = [{e.round: e.state_root for e in swarm.events(p, Applied)} for p in peers]
        assert len(roots[0]) == 6
        assert all(r == roots[0] for r in roots)
        gave = [sum(e.contributed for e in swarm.events(p, Applied)) for p in peers]
        assert min(gave) > 0, gave
        done = swarm.verify(deadline_s=PATIENCE_S)
        assert done.returncode == 0, done.stdout
        assert "duplicated 0, lost 0" in done.stdout


def test_a_peer_goes_on_after_the_death_of_a_rank_and_with_another_number_of_ranks(
    tmp_path: Path,
) -> None:
    spec = ranks_spec(outer={"rounds": 1_000}, swarm={"snapshot_every": SNAPSHOT})
    with Swarm(tmp_path, spec) as swarm:
        swarm.host()
        several = swarm.join("a", "--ranks", "2")
        other = swarm.join("b")
        contributed(swarm, "a", 2)
        os.kill(rank_of(swarm, "a", 1), signal.SIGKILL)
        until(
            lambda: [
                e for e in swarm.events("host", GenerationClosed) if "trainer died" in e.reason
            ],
            "the stay of the peer without its rank ends",
            PATIENCE_S,
        )
        other.kill()  # a run that stands still does not outdate the state of the optimizer
        contributed(swarm, "a", 2 * SNAPSHOT)
        assert (swarm.folder("a") / "inner" / "newest.json").exists()
        several.signal(signal.SIGINT)
        assert several.wait(PATIENCE_S) == 0, several.text[-1000:]
        assert not [p for p in Path("/proc").iterdir() if is_rank(p, swarm, "a")]
        before = len(swarm.events("a", InnerStateLoaded))
        swarm.spawn("a", "join", "--ranks", "1")
        swarm.join_again("b")
        contributed(swarm, "a", 2)
        loaded = swarm.events("a", InnerStateLoaded)[before:]
        assert [e.source for e in loaded] == ["own"]
        swarm.kill_all()
        assert swarm.verify(deadline_s=PATIENCE_S).returncode == 0


def test_a_loop_under_torchrun_trains_as_a_peer_of_two_ranks(tmp_path: Path) -> None:
    program = [sys.executable, str(EXAMPLE)]
    spec = from_table(
        {
            "name": "own",
            "model": {"preset": "custom", "program": program},
            "data": {"source": "synthetic", "rows": 10_000, "seq_len": 32},
            "inner": {"batch_rows": 16, "warmup_steps": 5},
            "outer": {"rounds": 5, "inner_steps": 5},
            "swarm": {"start_peers": 2},
        }
    )
    torchrun = f"{sys.executable} -m torch.distributed.run --standalone --nproc-per-node 2"
    with Swarm(tmp_path, spec) as swarm:
        host = swarm.host()
        swarm.join("a", "--trainer", f"{torchrun} {EXAMPLE}")
        swarm.join("b")
        assert host.wait(PATIENCE_S) == 0
        assert any(e.contributed for e in swarm.events("a", Applied))
        assert swarm.verify(deadline_s=PATIENCE_S).returncode == 0


def contributed(swarm: Swarm, name: str, times: int) -> None:
    wanted = b'"contributed": true'
    goal = swarm.counted(name, wanted) + times
    until(lambda: swarm.counted(name, wanted) >= goal, f"{name} contributes", PATIENCE_S)


def is_rank(process: Path, swarm: Swarm, name: str, rank: int | None = None) -> bool:
    try:
        env = (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return False
    numbered = b"RANK=" if rank is None else b"RANK=%d" % rank
    home = f"FARFLUNG_HOME={swarm.home(name)}".encode()
    return home in env and any(v.startswith(numbered) for v in env)


def rank_of(swarm: Swarm, name: str, rank: int) -> int:
    found = [int(p.name) for p in Path("/proc").iterdir() if is_rank(p, swarm, name, rank)]
    assert len(found) == 1, found
    return found[0]
