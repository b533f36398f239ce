"""One seed, one history: a swarm, a storm of faults, and the invariants afterwards."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import Any

from farflung.config.load import from_table
from farflung.config.run import RunSpec
from farflung.errors import FarflungError
from farflung.events import Applied, StateReported
from farflung.sim.faults import Storm
from farflung.sim.loop import run_virtual
from farflung.sim.world import SimSwarm
from farflung.swarm.ledger import audit

FAULTS = 8
WEDGED_S = 120.0
"""Virtual seconds without three more commits, all links healed, that count as a wedge."""


class BrokenInvariant(FarflungError):
    """A seed found a bug; the message names the seed, the faults and the violation."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    seed: int
    rounds: int
    faults: tuple[str, ...]
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
            "model": {"preset": "quadratic", "parameters": 2048},
            "data": {"source": "synthetic", "rows": 100_000, "seq_len": 16},
            "inner": {"batch_rows": 4, "lr": 0.1},
            "outer": outer,
            "swarm": {"start_peers": 3, "min_peers": 1, "snapshot_every": 4},
        }
    )


def run_seed(seed: int, faults: int = FAULTS) -> Outcome:
    """Play one seed to its end. Raises BrokenInvariant."""

    async def main() -> Outcome:
        swarm = await SimSwarm.start(spec_for(seed), peers=3, seed=seed)
        storm = Storm(swarm, random.Random(seed))
        try:
            await swarm.committed(1)
            await storm.rage(faults)
            before = len(swarm.commits())
            await swarm.until(lambda: len(swarm.commits()) >= before + 3, WEDGED_S)
            check(swarm)
            return Outcome(
                seed=seed,
                rounds=len(swarm.commits()),
                faults=tuple(storm.done),
                digest=digest_of(swarm),
            )
        except TimeoutError:
            raise BrokenInvariant(f"seed {seed}: wedged after {storm.done}") from None
        except AssertionError as error:
            raise BrokenInvariant(f"seed {seed}: {error} after {storm.done}") from error
        finally:
            await swarm.stop()

    return run_virtual(main())


def check(swarm: SimSwarm) -> None:
    """Agreement, durability, exactly-once. AssertionError names the first violation."""
    commits = {c.round: c for c in swarm.commits()}
    for node in swarm.nodes.values():
        for event in node.events:
            if isinstance(event, Applied):
                commit = commits.get(event.round)
                assert commit, f"{node.label} applied round {event.round}, which is not logged"
                same = event.state_root == commit.state_root.hex()
                assert same, f"{node.label} has another state after round {event.round}"
    differing = [e for e in swarm.events if isinstance(e, StateReported) and not e.agrees]
    assert not differing, f"a node reported another state: {differing}"
    result = audit(swarm.records(), swarm.spec.data.rows)
    assert result.duplicated == 0, f"{result.duplicated} samples were credited twice"
    assert result.unleased == 0, f"{result.unleased} samples were credited without a lease"
    assert result.lost == 0, f"{result.lost} samples were lost"


def digest_of(swarm: SimSwarm) -> str:
    """Hash of all that happened."""
    hasher = hashlib.sha256()
    for event in swarm.events:
        hasher.update(repr(event).encode())
    for label in sorted(swarm.nodes):
        for event in swarm.nodes[label].events:
            hasher.update(repr(event).encode())
    return hasher.hexdigest()
