"""What a trainer's program counts is shown, what weighs is the ledger's; losses that are not finite
neither poison a figure nor hide in it."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from farflung.config.load import from_table
from farflung.events import Abstained, PeerReady, RoundCommitted, RunFinished, Trained
from farflung.sim.loop import run_virtual
from farflung.sim.world import SimSwarm
from farflung.swarm import ranges
from farflung.trainers.numpy_trainer import NumpyTrainer
from farflung.trainers.port import Work, WorkReport

TOKENS_OF_A_ROW = 7


def spec_of(window: int) -> Any:
    return from_table(
        {
            "name": "reported",
            "model": {"preset": "quadratic", "parameters": 1024},
            "data": {"source": "synthetic", "rows": 100_000, "seq_len": 16},
            "inner": {"batch_rows": 4, "optimizer": "adamw", "lr": 0.1},
            "outer": {
                "inner_steps": 8,
                "rounds": 12,
                "chunk_elements": 256,
                "fragments": window,
                "window": window,
            },
            "swarm": {"start_peers": 2},
        }
    )


@pytest.mark.parametrize("window", [1, 2])
def test_tokens_are_shown_as_counted_and_weighed_by_rows(
    window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    train: Any = NumpyTrainer.train

    async def counting(self: NumpyTrainer, lease: Work) -> WorkReport:
        report = await train(self, lease)
        return msgspec.structs.replace(report, tokens=TOKENS_OF_A_ROW * report.rows)

    monkeypatch.setattr(NumpyTrainer, "train", counting)

    async def main() -> SimSwarm:
        swarm = await SimSwarm.start(spec_of(window), peers=2)
        try:
            await swarm.finished()
        finally:
            await swarm.stop()
        return swarm

    swarm = run_virtual(main())
    shares = [c for commit in swarm.commits() for c in commit.contributors]
    rows = sum(ranges.count(c.credited) for c in shares)
    assert sum(c.reported for c in shares) == TOKENS_OF_A_ROW * rows > 0
    first = swarm.commits()[0]
    assert [c.tokens for c in first.contributors] == [
        16 * ranges.count(c.credited) for c in first.contributors
    ]
    told = [e for e in swarm.events if isinstance(e, RoundCommitted)]
    assert sum(e.tokens for e in told) == told[-1].total_tokens == TOKENS_OF_A_ROW * rows
    (finished,) = [e for e in swarm.events if isinstance(e, RunFinished)]
    assert finished.tokens == swarm.picture.tokens == TOKENS_OF_A_ROW * rows


def test_losses_that_are_not_finite_are_counted_and_the_others_are_the_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step: Any = NumpyTrainer._step
    victims: list[NumpyTrainer] = []

    def poisoned(self: NumpyTrainer, batch: Any, factor: float) -> float:
        victims.append(self)
        loss: float = step(self, batch, factor)
        return math.nan if self is victims[0] and self.steps in (5, 7) else loss

    monkeypatch.setattr(NumpyTrainer, "_step", poisoned)

    async def main() -> SimSwarm:
        swarm = await SimSwarm.start(spec_of(1), peers=2)
        try:
            await swarm.committed(3)
        finally:
            await swarm.stop()
        return swarm

    swarm = run_virtual(main())
    (node,) = [n for n in swarm.nodes.values() if any(isinstance(e, Abstained) for e in n.events)]
    (abstained,) = [e for e in node.events if isinstance(e, Abstained)]
    assert abstained.reason == "non-finite loss at step 5 (of 8 steps, 2 were not finite)"
    ready = [e for e in swarm.events if isinstance(e, PeerReady)]
    (told,) = [e for e in ready if e.note]
    assert told.note == abstained.reason and told.node == node.node
    first = next(e for e in node.events if isinstance(e, Trained))
    other = next(e for e in ready if not e.note)
    assert told.loss_sum / told.steps == pytest.approx(first.loss)
    # Over the finite steps: dividing by all eight would be a quarter less.
    assert first.loss == pytest.approx(other.loss_sum / other.steps, rel=0.15)
