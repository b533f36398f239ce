"""Swarms with real torch trainers: minutes of work, run by `make test-slow`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import Swarm, environment, until

from farflung.config.load import from_table
from farflung.config.run import RunSpec
from farflung.events import Applied, GenerationClosed, RoundCommitted

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_loop.py"


def demo_spec(**sections: dict[str, Any]) -> RunSpec:
    table: dict[str, Any] = {
        "name": "torch",
        "record": "all",
        "outer": {"rounds": 6, "inner_steps": 5, "chunk_elements": 32_768},
        "swarm": {"start_peers": 3, "snapshot_every": 2},
    }
    for name, values in sections.items():
        table[name] = {**table.get(name, {}), **values}
    return from_table(table)


def test_trainers_with_different_vector_units_stay_bit_identical(tmp_path: Path) -> None:
    best = torch.backends.cpu.get_cpu_capability().lower()
    peers = {"default": "default", "avx2": "avx2", "best": best}
    if best not in ("avx2", "avx512"):
        pytest.skip(f"1 test: this processor's vector units ({best}) have no second kind")
    with Swarm(tmp_path, demo_spec()) as swarm:
        host = swarm.host()
        before = os.environ.get("ATEN_CPU_CAPABILITY")
        try:
            for name, capability in peers.items():  # a trainer inherits its agent's environment
                os.environ["ATEN_CPU_CAPABILITY"] = capability
                swarm.join(name)
        finally:
            os.environ.pop("ATEN_CPU_CAPABILITY")
            if before is not None:
                os.environ["ATEN_CPU_CAPABILITY"] = before
        assert host.wait(200) == 0
        roots = [{e.round: e.state_root for e in swarm.events(c, Applied)} for c in peers]
        assert len(roots[0]) == 6
        assert roots[0] == roots[1] == roots[2]
        committed = swarm.events("host", RoundCommitted)
        assert committed[-1].loss < committed[0].loss
        done = swarm.verify()
        assert done.returncode == 0, done.stdout
        assert "reductions" in done.stdout
        assert "not checked" not in done.stdout


def test_a_dead_trainer_is_restarted_by_its_agent(tmp_path: Path) -> None:
    spec = demo_spec(outer={"rounds": 40}, swarm={"start_peers": 2})
    with Swarm(tmp_path, spec) as swarm:
        host = swarm.host()
        for name in ("a", "b"):
            swarm.join(name)
        swarm.committed(2, 120)
        found = subprocess.run(
            ["pgrep", "-f", "farflung.inner.trainer"], capture_output=True, text=True, check=True
        )
        mine = [int(p) for p in found.stdout.split() if _home_of(int(p)) == str(swarm.home("b"))]
        assert len(mine) == 1
        os.kill(mine[0], 9)
        until(
            lambda: [
                e for e in swarm.events("host", GenerationClosed) if "trainer died" in e.reason
            ],
            "the stay of the dead trainer ends",
        )
        assert host.wait(200) == 0
        both = [sorted(c.generation for c in commit.contributors) for commit in swarm.commits()]
        assert [1, 2] in both
        assert swarm.verify().returncode == 0


def _home_of(process: int) -> str:
    text = Path(f"/proc/{process}/environ").read_bytes().decode()
    return next(
        (v.split("=", 1)[1] for v in text.split("\0") if v.startswith("FARFLUNG_HOME=")), ""
    )


def test_a_foreign_loop_trains_through_attach_with_two_peers(tmp_path: Path) -> None:
    spec = from_table(
        {
            "name": "own",
            "model": {"preset": "custom", "program": [sys.executable, str(EXAMPLE)]},
            "data": {"source": "synthetic", "rows": 10_000, "seq_len": 32},
            "inner": {"batch_rows": 16, "warmup_steps": 5},
            "outer": {"rounds": 6, "inner_steps": 10},
            "swarm": {"start_peers": 2},
        }
    )
    assert len(EXAMPLE.read_text().splitlines()) <= 60
    with Swarm(tmp_path, spec) as swarm:
        host = swarm.host()
        for name in ("a", "b"):
            swarm.join(name)
        assert host.wait(200) == 0
        committed = swarm.events("host", RoundCommitted)
        # Rounds of a tenth of a second: on a busy machine either may miss one.
        assert len(committed) == 6 and [e.contributors for e in committed].count(2) >= 3
        assert committed[-1].loss < committed[0].loss - 0.5
        assert swarm.verify().returncode == 0


def test_the_demo_survives_its_fault_and_reports_everything(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "farflung",
            "demo",
            "--rounds",
            "10",
            "--no-solo",
            "--record",
            "all",
            "--out",
            str(tmp_path / "out"),
            "--report",
            str(report),
        ],
        env=environment(tmp_path / "home"),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(report.read_text())
    wanted = (
        "rounds_committed peers deaths joins hashes_equal loss_first loss_last bpb_last solo_bpb "
        "solo_seconds tokens_committed samples_duplicated samples_lost bytes_up_per_peer "
        "bytes_down_per_peer ddp_bytes_per_peer reduction utilisation seconds"
    )
    assert set(wanted.split()) <= set(result)
    assert result["rounds_committed"] == 10
    assert (result["deaths"], result["joins"]) == (1, 1)
    assert result["hashes_equal"] is True
    assert (result["samples_duplicated"], result["samples_lost"]) == (0, 0)
    assert result["loss_last"] < result["loss_first"]
    assert result["reduction"] > 20
