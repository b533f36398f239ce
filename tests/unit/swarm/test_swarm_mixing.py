"""A running run changes the weights of its sources: one record, known to every trainer in time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from swarm_samples import genesis

from farflung.config.load import from_table
from farflung.data.samples import mixture_of
from farflung.errors import UserError
from farflung.events import RunAmended
from farflung.inner.channel import Work
from farflung.run.history import picture_of
from farflung.run.source_figures import per_source, wrong_change
from farflung.sim.loop import run_virtual
from farflung.sim.world import SimSwarm
from farflung.swarm.amendments import differs_in_amendable, granted
from farflung.swarm.course import check_course
from farflung.swarm.ledger import audit
from farflung.swarm.mixing import changes
from farflung.swarm.records import Amend, Commit, DataPart, Genesis, Lease, Mix
from farflung.swarm.replay import replay
from farflung.swarm.state import Amending, State
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


def played(monkeypatch: pytest.MonkeyPatch, *wishes: str) -> tuple[list[Any], list[Work]]:
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
        for wish in wishes:
            swarm.extend(wish)
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
    records, given = played(monkeypatch, "weights=web:1,notes:3")
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
        (("weights=web:9,notes:1", "weights=notes:2,web:18"), []),
        (("weights=web:1", "weights=web:1,notes:1e-9", "weights=web:2,notes:1"), [(2, 1)]),
        (("weights=web:1,notes:1", "weights=web:0.1,notes:0.2"), [(1, 1), (1, 2)]),
    ],
    ids=["as it is", "nonsense", "twice"],
)
def test_only_a_change_that_makes_sense_is_journalled(
    monkeypatch: pytest.MonkeyPatch,
    wishes: tuple[str, ...],
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


def test_a_request_that_is_repeated_is_journalled_once_and_a_restart_knows_it() -> None:
    async def main() -> list[Any]:
        swarm = await SimSwarm.start(from_table(SPEC), peers=2)
        await swarm.committed(1)
        assert swarm.coordinator is not None
        asked = Amending(request="r1", wishes=("weights=web:1,notes:1", "rounds=+2"))
        other = Amending(request="r2", wishes=("weights=web:1,notes:2",))
        swarm.coordinator.submit(asked)
        swarm.coordinator.submit(other)
        await swarm.coordinator.drained()
        await swarm.kill_coordinator()
        await swarm.start_coordinator("weights=web:3,notes:2")
        assert swarm.coordinator is not None
        swarm.coordinator.submit(asked)
        await swarm.finished()
        await swarm.stop()
        told = [e.changes for e in swarm.events if isinstance(e, RunAmended)]
        assert told == [
            f"weights=web:1,notes:1, outer.rounds={ROUNDS + 2}",
            "weights=web:1,notes:2",
            "weights=web:3,notes:2",
        ]
        return list(swarm.records())

    records = run_virtual(main())
    assert [r.weights for r in records if isinstance(r, Mix)] == [(1, 1), (1, 2), (3, 2)]
    assert [r.request for r in records if isinstance(r, Amend)][:2] == ["r1", "r2"]
    assert check_course(records) == 3
    assert len([r for r in records if isinstance(r, Commit)]) == ROUNDS + 2
    picture = picture_of(records)
    audited = per_source(records[0], records, audit(records))
    assert [(s.name, s.weight) for s in picture.sources] == [("web", 3), ("notes", 2)]
    assert [s.consumed for s in picture.sources] == [s.consumed for s in audited]
    assert [s.epoch_rows for s in picture.sources] == [10_000, 50]


def state_of(**more: object) -> State:
    parts = tuple(
        DataPart(name=name, rows=1000, manifest=b"", manifest_bytes=0) for name in ("web", "notes")
    )
    born = msgspec.structs.replace(genesis(from_table({**SPEC, **more})), data=parts)
    return replay([born], (512,), 0.0)


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ("weights=", "must give every source its weight, as in weights=web:9,notes:1"),
        ("weights=web", "must give every source its weight"),
        ("weights=web:,notes:1", "must give every source its weight"),
        ("weights=web:many,notes:1", "must give every source its weight"),
        ("weights=5,5", "must give every source its weight"),
        ("weights=web:5", "leaves out notes; weights are shares, so name every source (now"),
        ("weights=web:5,books:5", "has no source 'books'; it has: web, notes"),
        ("weights=web:5,notes:5,web:1", "gives 'web' two weights"),
        ("weights=web:0,notes:5", "must be positive numbers"),
        ("weights=web:-1,notes:5", "must be positive numbers"),
        ("data.weights=web:nan,notes:5", "must be positive numbers"),
        ("weights=web:inf,notes:5", "must be positive numbers"),
        ("weights=web:1,notes:1001", "below 1/1000 of their sum"),
        ("weights=web:0.123456789,notes:1", "too many digits"),
    ],
)
def test_weights_that_make_no_sense_are_one_sentence(wish: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        granted(state_of(), Amending(request="r", wishes=("grace_s=9", wish)))
    assert words in str(caught.value)
    assert wish in str(caught.value) and "\n" not in str(caught.value)


def test_weights_alone_do_not_open_a_finished_run_and_need_a_mixture() -> None:
    wish = "weights=web:1,notes:1"
    over = replace(state_of(), committed=ROUNDS, next_round=ROUNDS, finished=True, ended=True)
    with pytest.raises(UserError, match="open it again with rounds"):
        granted(over, Amending(request="r", wishes=(wish,)))
    mix, amend = granted(over, Amending(request="r", wishes=(wish, "rounds=+1")))
    assert isinstance(mix, Mix) and isinstance(amend, Amend)
    single = state_of(data={"source": "synthetic", "seq_len": 16})
    with pytest.raises(UserError, match=r"one source, 'data'; weights are for runs with several"):
        granted(single, Amending(request="r", wishes=(wish,)))


def test_a_spec_file_with_other_weights_is_told_how_to_change_them() -> None:
    born, other = from_table(SPEC), from_table(SPEC)
    web, notes = other.data.sources
    sources = (msgspec.structs.replace(web, weight=5.0), notes)
    data = msgspec.structs.replace(other.data, sources=sources)
    assert differs_in_amendable(born, msgspec.structs.replace(other, data=data))
    renamed = msgspec.structs.replace(data, sources=(msgspec.structs.replace(web, name="w"), notes))
    assert not differs_in_amendable(born, msgspec.structs.replace(other, data=renamed))
