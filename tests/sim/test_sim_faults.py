"""Random faults in virtual time; a failing seed is one command: farflung sim --seeds N:N+1."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from farflung.sim.seeds import run_seed

SEEDS = range(16)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_storm_of_faults_neither_forks_nor_wedges_nor_loses(seed: int) -> None:
    outcome = run_seed(seed)
    assert outcome.rounds >= 3
    assert len(outcome.faults) == 8


@pytest.mark.slow
@pytest.mark.parametrize("first", [1000, 1020, 1040, 1060])
def test_more_storms(first: int) -> None:
    for seed in range(first, first + 20):
        run_seed(seed)


def test_a_seed_gives_the_same_history_under_any_hash_seed() -> None:
    outputs = set()
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "farflung", "sim", "--seeds", "3:5", "--digests"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        outputs.add("\n".join(done.stdout.splitlines()[:2]))
    assert len(outputs) == 1
