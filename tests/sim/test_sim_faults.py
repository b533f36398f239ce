"""Random faults in virtual time; a failing seed is one command: pytest -k 'seed[N]'."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest

from farflung.config.load import from_table
from farflung.config.run import RunSpec
from farflung.events import Applied, StateReported
from farflung.sim.faults import Storm
from farflung.sim.loop import run_virtual
from farflung.sim.world import SimSwarm
from farflung.swarm.ledger import audit

SEEDS = range(
    int(os.environ.get("FARFLUNG_SIM_FROM", "0")), int(os.environ.get("FARFLUNG_SIM_TO", "24"))
)


def spec_for(seed: int) -> RunSpec:
    rng = random.Random(seed)
    outer: dict[str, Any] = {"inner_steps": 5, "rounds": 2000, "chunk_elements": 256}
    if rng.random() < 0.5:
        outer |= {
            "fragments": 4,
            "window": rng.choice([1, 2, 3]),
            "inner_steps": 12,
            "merge": rng.choice(["overwrite", "blend", "carry"]),
        }
    return from_table(
        {
            "name": "storm",
            "model": {"preset": "quadratic", "parameters": 2048},
            "data": {"source": "synthetic", "rows": 100_000, "seq_len": 16},
            "inner": {"batch_rows": 4, "lr": 0.1},
            "outer": outer,
            "swarm": {"start_peers": 3, "min_peers": 1, "snapshot_every": 4},
        }
    )


def storm(seed: int) -> tuple[SimSwarm, Storm]:
    async def main() -> tuple[SimSwarm, Storm]:
        swarm = await SimSwarm.start(spec_for(seed), peers=3, seed=seed)
        weather = Storm(swarm, random.Random(seed))
        try:
            await swarm.committed(1)
            await weather.rage(8)
            before = len(swarm.commits())
            try:
                await swarm.until(lambda: len(swarm.commits()) >= before + 3, 120)
            except TimeoutError as error:
                raise AssertionError(f"wedged after {weather.done}: {error}") from None
            check(swarm, weather)
        finally:
            await swarm.stop()
        return swarm, weather

    return run_virtual(main())


def check(swarm: SimSwarm, weather: Storm) -> None:
    commits = {c.round: c for c in swarm.commits()}
    for node in swarm.nodes.values():
        for event in node.events:
            if isinstance(event, Applied):
                assert event.round in commits, f"{node.label} applied an unlogged round"
                assert event.state_root == commits[event.round].state_root.hex(), weather.done
    assert not [e for e in swarm.events if isinstance(e, StateReported) and not e.agrees]
    result = audit(swarm.records(), swarm.spec.data.rows)
    assert (result.duplicated, result.lost) == (0, 0), weather.done


@pytest.mark.parametrize("seed", SEEDS)
def test_a_storm_of_faults_neither_forks_nor_wedges_nor_loses(seed: int) -> None:
    storm(seed)
