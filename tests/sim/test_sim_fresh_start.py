"""Every stay begins with local parameters that are the anchor, whatever was committed meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from farflung.config.load import from_table
from farflung.ids import NodeId
from farflung.sim.loop import run_virtual
from farflung.sim.world import SimSwarm
from farflung.trainers.numpy_trainer import NumpyTrainer
from farflung.trainers.port import Work, WorkReport

SPEC = from_table(
    {
        "name": "fresh",
        "model": {"preset": "quadratic", "parameters": 512},
        "data": {"source": "synthetic", "rows": 1_000_000, "seq_len": 16},
        "inner": {"batch_rows": 4, "optimizer": "adamw", "lr": 0.1},
        "outer": {"inner_steps": 20, "rounds": 1_000_000, "chunk_elements": 256},
        "swarm": {"start_peers": 2},
    }
)


@pytest.mark.parametrize("delay_s", [0.0, 0.15, 0.4, 0.7])
def test_a_stay_begins_at_the_anchor_of_its_first_plan(
    delay_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The joiner's request is on its way while the others commit."""
    gaps: dict[int, list[float]] = {}
    train: Any = NumpyTrainer.train

    async def watched(self: NumpyTrainer, lease: Work) -> WorkReport:
        if lease.generation not in gaps.setdefault(id(self), []) and lease.steps:
            gaps[id(self)].append(lease.generation)
            starts.append(float(np.abs(self.local - anchor_of(self)).max()))
        return await train(self, lease)

    def anchor_of(trainer: NumpyTrainer) -> Any:
        return np.concatenate(
            [trainer.shared.anchor[a:b] for f in trainer.shared.fragments for a, b in f]
        )

    starts: list[float] = []
    monkeypatch.setattr(NumpyTrainer, "train", watched)

    async def main() -> None:
        swarm = await SimSwarm.start(SPEC, peers=2)
        try:
            await swarm.committed(3)
            late = swarm.add("late", "trainer")
            swarm.network.set_delay(late.node, NodeId("coordinator"), delay_s)
            swarm.spawn("late")
            await swarm.until(lambda: len(starts) == 3, 60)
            swarm.network.freeze(late.node)
            await asyncio.sleep(8)
            swarm.network.thaw(late.node)
            await swarm.until(lambda: len(starts) == 4, 60)
        finally:
            await swarm.stop()

    run_virtual(main())
    assert starts == [0.0] * 4
