"""`farflung join --role evaluator` with real processes and a real model."""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import Swarm, assert_one_sentence, until

from farflung.config.load import from_table
from farflung.events import GenerationOpened, ModelEvaluated
from farflung.swarm.records import AnyRecord, Commit, Evaluation, Join

pytestmark = pytest.mark.slow

SPEC = {
    "name": "measured",
    "outer": {"rounds": 4, "inner_steps": 4},
    "swarm": {"start_peers": 1, "snapshot_every": 2},
    "evaluation": {"every": 3, "rows": 4, "prompts": ["To be"], "sample_tokens": 4},
}


def node_of(records: list[AnyRecord], role: str) -> str:
    (join,) = [r for r in records if isinstance(r, Join) and r.role == role]
    return join.node


def test_an_evaluator_measures_and_the_trainer_is_never_asked(tmp_path: Path) -> None:
    with Swarm(tmp_path, from_table(SPEC)) as swarm:
        host = swarm.host()
        watcher = swarm.join("watcher", "--role", "evaluator")
        until(lambda: "watcher" in _taking_part(swarm), "the evaluator takes part")
        assert not swarm.commits(), "one that trains nothing is not one of start_peers"
        wrong = swarm.run("watcher", "join", swarm.invite, "--role", "trainer")
        assert_one_sentence(wrong, "takes part as evaluator, not as trainer")
        trainer = swarm.join("trainer")
        assert [p.wait(120) for p in (trainer, watcher, host)] == [0, 0, 0]

        records = swarm.records()
        me = node_of(records, "evaluator")
        found = [r for r in records if isinstance(r, Evaluation)]
        assert [(e.committed, e.node) for e in found] == [(3, me), (4, me)]
        assert found[-1].next_round == 4, "the last figure is of the final state"
        assert found[-1].samples[0].prompt == "To be"
        told = swarm.events("host", ModelEvaluated)
        assert [e.name for e in told] == ["watcher", "watcher"]
        for commit in (r for r in records if isinstance(r, Commit)):
            assert me not in {*commit.holders, *(c.node for c in commit.contributors)}
        assert not (swarm.folder("watcher") / "trainer.log").exists()
        assert "watcher measured the model 2 times" in watcher.text
        shown = swarm.run("host", "status").stdout
        assert "watcher (evalua" in shown and "bits per byte after 4 rounds" in shown
        verified = swarm.verify()
        assert verified.returncode == 0, verified.stdout + verified.stderr


def _taking_part(swarm: Swarm) -> set[str]:
    return {e.name for e in swarm.events("host", GenerationOpened)}
