"""A running run changes the weights of its sources: one record, known to every trainer in time."""

from __future__ import annotations

from typing import Any

import pytest

from farflung.config.load import from_table
from farflung.data.samples import mixture_of
from farflung.inner.channel import Work
from farflung.run.source_figures import per_source, wrong_change
from farflung.sim.loop import run_virtual
from farflung.sim.world import SimSwarm
from farflung.swarm.ledger import audit
from farflung.swarm.mixing import changes
from farflung.swarm.records import Genesis, Lease, Mix
from farflung.swarm.state import Remixing
from farflung.trainers.numpy_trainer import NumpyTrainer

ROUNDS = 14
SPEC = {
    "name": "sim",
    "model": {"preset": "quadratic", "parameters": 512},
    "data": {
        "seq_len": 16,
        "sources": [
            {"name": "web", "source": "synthetic", "rows": 10_000, "weight": 9},
            {"name": "notes", "source": "synthetic", "rows": 50, "weight": 1},
        ],
    },
    "inner": {"batch_rows": 20, "lr": 0.1},
    "outer": {"inner_steps": 8, "rounds": ROUNDS, "chunk_elements": 256},
    "swarm": {"start_peers": 2, "min_peers": 1, "snapshot_every": 4},
}


def played(
    monkeypatch: pytest.MonkeyPatch, *wishes: tuple[float, ...]
) -> tuple[list[Any], list[Work]]:
    """Records of a run that was told other weights after a round, with a restart of the
    coordinator and a killed peer, and all work that trainers were given."""
    given: list[Work] = []
    train = NumpyTrainer.train

    async def spied(self: NumpyTrainer, lease: Work) -> Any:
        given.append(lease)
        return await train(self, lease)

    monkeypatch.setattr(NumpyTrainer, "train", spied)

    async def main() -> list[Any]:
        swarm = await SimSwarm.start(from_table(SPEC), peers=3)
        await swarm.committed(1)
        assert swarm.coordinator is not None
        for weights in wishes:
            swarm.coordinator.submit(Remixing(weights=weights))
        await swarm.committed(4)
        await swarm.kill("p1")
        await swarm.kill_coordinator()
        await swarm.start_coordinator()
        swarm.spawn("p1")
        await swarm.finished()
        await swarm.stop()
        return list(swarm.records())

    return run_virtual(main()), given


def test_a_change_is_journalled_and_known_to_every_trainer_that_reaches_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    records, given = played(monkeypatch, (1.0, 3.0))
    (mix,) = [r for r in records if isinstance(r, Mix)]
    genesis = records[0]
    assert isinstance(genesis, Genesis)
    assert (mix.start_row, mix.weights, mix.bases) == (1000, (1, 3), (900, 100))
    assert wrong_change(genesis, records) == ""
    leased = [r.ranges for x in records if isinstance(x, Lease) for r in x.grants]
    assert max(stop for ranges in leased for _, stop in ranges) > 4000
    beyond = [w for w in given if any(stop > mix.start_row for _, stop in w.ranges)]
    assert beyond and all(w.mixture == changes([mix]) for w in beyond)
    web, notes = per_source(genesis, records, audit(records))
    assert web.consumed + notes.consumed == audit(records).credited
    assert notes.consumed > 0.5 * web.consumed > 0
    assert (web.duplicated, web.lost, notes.duplicated, notes.lost) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("wishes", "weights"),
    [
        (((9.0, 1.0), (18.0, 2.0)), []),
        (((1.0,), (1.0, 1e-9), (2.0, 1.0)), [(2, 1)]),
        (((1.0, 1.0), (1.0, 2.0)), [(1, 1), (1, 2)]),
    ],
    ids=["as it is", "nonsense", "twice"],
)
def test_only_a_change_that_makes_sense_is_journalled(
    monkeypatch: pytest.MonkeyPatch,
    wishes: tuple[tuple[float, ...], ...],
    weights: list[tuple[int, ...]],
) -> None:
    records, _ = played(monkeypatch, *wishes)
    genesis = records[0]
    assert isinstance(genesis, Genesis)
    mixes = [r for r in records if isinstance(r, Mix)]
    assert [m.weights for m in mixes] == weights
    assert wrong_change(genesis, records) == ""
    timeline = mixture_of(from_table(SPEC), changes(mixes))
    assert timeline.at(5000).parts == (weights[-1] if weights else (9, 1))
