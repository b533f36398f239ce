"""One seed, one history: a swarm, a storm of faults, and the invariants afterwards."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from dataclasses import dataclass
from typing import Any

from farflung.config.load import from_table
from farflung.config.run import RunSpec
from farflung.ids import Role
from farflung.sim.checks import BrokenInvariant, check
from farflung.sim.ending import open_again, play_out
from farflung.sim.faults import Storm
from farflung.sim.loop import run_virtual
from farflung.sim.world import SimSwarm

FAULTS = 6
STEP_S = 0.15
LATENCY_S = (0.002, 0.12)
WEDGED_S = 120.0
"""Virtual seconds without three more commits, all links healed, that count as a wedge."""
ROUNDS_AFTER = 3
ENDLESS_ROUNDS = 2000
ENDING = 0.25
"""Share of the storms with a keeper that fall into the end of the run."""
LAST_ROUNDS = (4, 30)
AGAIN = 0.5
"""Share of the runs that are over which are extended and played to a second end."""
MORE_ROUNDS = (1, 8)
EVALUATOR = 0.3
"""Share of the storms with an evaluator."""


@dataclass(frozen=True, kw_only=True)
class SeedOutcome:
    seed: int
    rounds: int
    faults: tuple[str, ...]
    counts: Counter[str]
    """What was checked, by invariant."""
    digest: str
    """Over every event of every node, in order: equal runs have equal digests."""


def spec_for(seed: int, rounds: int) -> RunSpec:
    """Half of the seeds run blocking DiLoCo, half several fragments and rounds in flight; half
    read a mixture, whose smallest source wraps many times."""
    rng = random.Random(seed)
    outer: dict[str, Any] = {"inner_steps": 5, "rounds": rounds, "chunk_elements": 256}
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
            "data": {"seq_len": 16, **_sources(random.Random(f"sources {seed}"))},
            "inner": {"batch_rows": 4, "lr": 0.1},
            "outer": outer,
            "swarm": {
                "start_peers": rng.choice([2, 3, 3]),
                "min_peers": rng.choice([1, 1, 2]),
                "snapshot_every": rng.choice([2, 4]),
                "keep_rounds": rng.choice([2, 4, 64]),
            },
            "evaluation": {"every": random.Random(f"evaluation {seed}").choice([0, 2, 3])},
        }
    )


def _sources(rng: random.Random) -> dict[str, Any]:
    if rng.random() < 0.5:
        return {"source": "synthetic", "rows": 100_000}
    rows = {"web": 100_000, "books": rng.randint(100, 2000), "notes": rng.randint(1, 60)}
    return {
        "sources": [
            {"name": name, "source": "synthetic", "rows": n, "weight": rng.randint(1, 9)}
            for name, n in rows.items()
        ]
    }


def run_seed(seed: int, faults: int = FAULTS) -> SeedOutcome:
    """Play one seed to its end. Raises BrokenInvariant."""

    async def main() -> SeedOutcome:
        rng, end = random.Random(f"shape {seed}"), random.Random(f"end {seed}")
        late, keeper = rng.choice([0, 0, 1, 2]), rng.random() < 0.85
        inner = random.Random(f"inner {seed}")
        ends = keeper and end.random() < ENDING
        spec = spec_for(seed, end.randint(*LAST_ROUNDS) if ends else ENDLESS_ROUNDS)
        swarm = await SimSwarm.start(
            spec,
            peers=spec.swarm.start_peers + late,
            keeper=keeper,
            seed=seed,
            step_s=STEP_S,
            latency_s=LATENCY_S,
            momentum=inner.choice([0.0, 0.5]),
            inner_state=inner.choice(["fresh", "donor"]),
        )
        if random.Random(f"evaluator {seed}").random() < EVALUATOR:
            swarm.add("evaluator", Role.EVALUATOR)
            swarm.spawn("evaluator")
        storm = Storm(swarm, random.Random(seed))
        try:
            ended = await _played(swarm, storm, faults, ends, random.Random(f"again {seed}"))
            counts = check(swarm, storm.harms)
            counts["L1"] += 1
            counts["L1e"] += ended
            return SeedOutcome(
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


async def _played(
    swarm: SimSwarm, storm: Storm, faults: int, ends: bool, again: random.Random
) -> int:
    """The storm and what must follow it; returns how many trainers saw the run's end."""
    await swarm.committed(1)
    await storm.rage(faults)
    if ends:
        held = await play_out(swarm, WEDGED_S)
        if again.random() < AGAIN:
            held += await open_again(swarm, again.randint(*MORE_ROUNDS), WEDGED_S)
        return held
    await swarm.committed(swarm.picture.committed + ROUNDS_AFTER, WEDGED_S)
    return 0


def digest_of(swarm: SimSwarm) -> str:
    """Hash of all that happened."""
    hasher = hashlib.sha256()
    for event in swarm.events:
        hasher.update(repr(event).encode())
    for label in sorted(swarm.nodes):
        for event in swarm.nodes[label].events:
            hasher.update(repr(event).encode())
    return hasher.hexdigest()
