"""Random faults in virtual time; a failing seed is one command: farflung sim --seeds N:N+1."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from farflung.sim.checks import NAMES
from farflung.sim.seeds import FAULTS, run_seed

SEEDS = range(16)
MANY = 400
TWICE = 16


@pytest.mark.parametrize("seed", SEEDS)
def test_a_storm_of_faults_neither_forks_nor_wedges_nor_loses(seed: int) -> None:
    outcome = run_seed(seed)
    assert outcome.rounds >= 3
    assert len(outcome.faults) >= FAULTS


def test_a_seed_gives_the_same_history_under_any_hash_seed(tmp_path: Path) -> None:
    total = play(tmp_path, "3:6", "--twice", "3")
    assert total["twice"] == 3


@pytest.mark.slow
def test_four_hundred_storms_and_some_of_them_twice(tmp_path: Path) -> None:
    total = play(tmp_path, f"0:{MANY}", "--twice", str(TWICE), "--jobs", "2")
    assert total["seeds"] == MANY
    assert total["twice"] == TWICE
    assert not total["broken"]
    assert set(NAMES) <= set(total["counts"]), "an invariant was never checked"
    print(json.dumps(total["counts"], sort_keys=True), total["kinds"])


def play(tmp_path: Path, seeds: str, *options: str) -> dict[str, Any]:
    """`farflung sim`; its output is the failure's message."""
    report = tmp_path / "sim.json"
    command = [sys.executable, "-m", "farflung", "sim", "--seeds", seeds, "--report", str(report)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    table: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return table
