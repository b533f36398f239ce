"""One seed, one history: a swarm, a storm of faults, and the invariants afterwards."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from dataclasses import dataclass
from typing import Any

from farflung.config.load import from_table
from farflung.config.run import RunSpec
from farflung.sim.checks import BrokenInvariant, check
from farflung.sim.faults import Storm
from farflung.sim.loop import run_virtual
from farflung.sim.world import SimSwarm

FAULTS = 6
STEP_S = 0.15
LATENCY_S = (0.002, 0.12)
WEDGED_S = 120.0
"""Virtual seconds without three more commits, all links healed, that count as a wedge."""
ROUNDS_AFTER = 3


@dataclass(frozen=True, kw_only=True)
class Outcome:
    seed: int
    rounds: int
    faults: tuple[str, ...]
    counts: Counter[str]
    """What was checked, by invariant."""
    digest: str
    """Over every event of every node, in order: equal runs have equal digests."""


def spec_for(seed: int) -> RunSpec:
    """Half of the seeds run blocking DiLoCo, half several fragments and rounds in flight."""
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
            "record": rng.choice(["results", "all"]),
            "model": {"preset": "quadratic", "parameters": 2048},
            "data": {"source": "synthetic", "rows": 100_000, "seq_len": 16},
            "inner": {"batch_rows": 4, "lr": 0.1},
            "outer": outer,
            "swarm": {
                "start_peers": rng.choice([2, 3, 3]),
                "min_peers": rng.choice([1, 1, 2]),
                "snapshot_every": rng.choice([2, 4]),
                "keep_rounds": rng.choice([2, 4, 64]),
            },
        }
    )


def run_seed(seed: int, faults: int = FAULTS) -> Outcome:
    """Play one seed to its end. Raises BrokenInvariant."""

    async def main() -> Outcome:
        spec, rng = spec_for(seed), random.Random(f"shape {seed}")
        swarm = await SimSwarm.start(
            spec,
            peers=spec.swarm.start_peers + rng.choice([0, 0, 1, 2]),
            keeper=rng.random() < 0.85,
            seed=seed,
            step_s=STEP_S,
            latency_s=LATENCY_S,
        )
        storm = Storm(swarm, random.Random(seed))
        try:
            await swarm.committed(1)
            await storm.rage(faults)
            await swarm.committed(swarm.picture.committed + ROUNDS_AFTER, WEDGED_S)
            counts = check(swarm, storm.harms)
            counts["L1"] += 1
            return Outcome(
                seed=seed,
                rounds=counts["rounds"],
                faults=tuple(storm.done),
                counts=counts,
                digest=digest_of(swarm),
            )
        except TimeoutError as error:
            raise BrokenInvariant(f"seed {seed}: wedged after {storm.done}: {error}") from None
        except BrokenInvariant as broken:
            raise BrokenInvariant(f"seed {seed}: {broken} after {storm.done}") from None
        finally:
            await swarm.stop()

    return run_virtual(main())


def digest_of(swarm: SimSwarm) -> str:
    """Hash of all that happened."""
    hasher = hashlib.sha256()
    for event in swarm.events:
        hasher.update(repr(event).encode())
    for label in sorted(swarm.nodes):
        for event in swarm.nodes[label].events:
            hasher.update(repr(event).encode())
    return hasher.hexdigest()
