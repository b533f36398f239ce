"""The commit model: the rules hold in every state, each mutant breaks its promise."""

from __future__ import annotations

import pytest
from model_runs import COMMIT, COMMIT_MUTANTS, Run


@pytest.mark.parametrize("run", [r for r in COMMIT if not r.deep], ids=lambda r: r.name)
def test_the_rules_hold_in_every_state(run: Run) -> None:
    found = run.search()
    print(found.line())
    assert not run.failure(found)


@pytest.mark.parametrize("run", COMMIT_MUTANTS, ids=lambda r: r.name)
def test_each_mutant_is_caught(run: Run) -> None:
    found = run.search()
    print(found.line())
    assert not run.failure(found)
