"""Two and four ranks over Gloo do what one process does; each check is a program of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from farflung.inner.channel import ENV_STORE

PROGRAM = Path(__file__).parent / "rank_checks.py"


def play(check: str, world: int, folder: Path) -> None:
    """Run a check in `world` processes; the first that fails tells why."""
    store = folder / f"store-{check}-{world}"
    started = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), check, str(folder)],
            env={
                **os.environ,
                "RANK": str(rank),
                "WORLD_SIZE": str(world),
                ENV_STORE: str(store),
                "OMP_NUM_THREADS": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(world)
    ]
    try:
        said = [each.communicate(timeout=600)[0].decode() for each in started]
    finally:
        for each in started:
            each.kill()
    assert [each.returncode for each in started] == [0] * world, "\n".join(said)[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_step_of_shards_is_the_step_of_the_whole(
    tmp_path: Path, optimizer: str, world: int
) -> None:
    play(f"step-{optimizer}", world, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_every_landing_gives_the_bits_of_the_whole_vector(tmp_path: Path, world: int) -> None:
    play("landings", world, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_state_of_two_ranks_is_loaded_by_one_and_by_four(tmp_path: Path, optimizer: str) -> None:
    play(f"save-{optimizer}", 2, tmp_path)
    play(f"load-{optimizer}", 4, tmp_path)


@pytest.mark.slow
def test_other_ways_of_sharding_are_refused(tmp_path: Path) -> None:
    play("refusals", 2, tmp_path)
