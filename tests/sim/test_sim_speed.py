"""A peer at a tenth of the speed costs the others nothing, and its work counts."""

from __future__ import annotations

import asyncio
import functools
from dataclasses import dataclass

import pytest

from farflung.config.load import from_table
from farflung.config.run import RunSpec
from farflung.events import GenerationClosed
from farflung.sim.loop import run_virtual
from farflung.sim.world import SimSwarm
from farflung.swarm import ranges
from farflung.swarm.ledger import audit

FAST_STEP_S = 0.1
MEASURED_S = 200.0
MODES = {
    "blocking": {"fragments": 1, "window": 1, "inner_steps": 40},
    "window 2": {"fragments": 4, "window": 2, "inner_steps": 160},
    "window 3": {"fragments": 4, "window": 3, "inner_steps": 160, "merge": "carry"},
    "short rounds": {"fragments": 1, "window": 1, "inner_steps": 5},
}
"""Rounds last 4 s at full speed; in the short ones half a second, half a step of the slow peer."""


@dataclass(frozen=True)
class Measured:
    rounds: int
    credited: dict[str, int]
    """Tokens by node label."""
    steps: dict[str, int]
    contributions: dict[str, int]


def spec(mode: str) -> RunSpec:
    return from_table(
        {
            "name": "speed",
            "model": {"preset": "quadratic", "parameters": 512},
            "data": {"source": "synthetic", "rows": 1_000_000, "seq_len": 16},
            "inner": {"batch_rows": 4, "optimizer": "adamw", "lr": 0.01},
            "outer": {"rounds": 1_000_000, "chunk_elements": 256, **MODES[mode]},
            "swarm": {"start_peers": 3},
        }
    )


@functools.cache
def measure(mode: str, slow_step_s: float | None, seed: int = 0) -> Measured:
    """Three equal peers, with or without a fourth one, over the same virtual time."""
    run_spec = spec(mode)

    async def main() -> Measured:
        swarm = await SimSwarm.start(run_spec, peers=3, seed=seed, step_s=FAST_STEP_S)
        try:
            if slow_step_s is not None:
                swarm.add("slow", "trainer", step_s=slow_step_s)
                swarm.spawn("slow")
            await swarm.committed(3)
            await asyncio.sleep(20)
            before, steps = len(swarm.commits()), steps_of(swarm)
            await asyncio.sleep(MEASURED_S)
            commits, after = swarm.commits()[before:], steps_of(swarm)
        finally:
            closed = [e for e in swarm.events if isinstance(e, GenerationClosed)]
            await swarm.stop()
        assert not closed, closed
        result = audit(swarm.records())
        assert (result.duplicated, result.lost) == (0, 0)
        labels = {n.node: n.label for n in swarm.nodes.values()}
        credited = dict.fromkeys(labels.values(), 0)
        times = dict.fromkeys(labels.values(), 0)
        for commit in commits:
            for c in commit.contributors:
                credited[labels[c.node]] += ranges.count(c.credited) * run_spec.data.seq_len
                times[labels[c.node]] += 1
        return Measured(len(commits), credited, {n: after[n] - steps[n] for n in after}, times)

    return run_virtual(main())


def steps_of(swarm: SimSwarm) -> dict[str, int]:
    return {n.label: n.trainer.steps for n in swarm.nodes.values() if n.trainer is not None}


@pytest.mark.parametrize(
    ("mode", "slow_step_s"),
    [
        ("blocking", 1.0),
        ("blocking", 1.03),
        ("window 2", 0.97),
        ("window 3", 1.0),
        ("short rounds", 1.0),
        ("short rounds", 0.97),
    ],
)
def test_a_peer_at_a_tenth_of_the_speed_costs_the_others_nothing(
    mode: str, slow_step_s: float
) -> None:
    alone = measure(mode, None)
    with_slow = measure(mode, slow_step_s)
    assert with_slow.rounds >= 0.98 * alone.rounds, (with_slow, alone)
    fast = sum(with_slow.credited[f"p{i}"] for i in range(3))
    assert fast >= 0.98 * sum(alone.credited[f"p{i}"] for i in range(3))
    # What it trained counts, but for what is still on its way.
    trained = with_slow.steps["slow"] * 4 * 16
    assert with_slow.credited["slow"] >= 0.9 * trained > 0
