"""The model of many rounds: the rules hold in every state, each mutant breaks its promise."""

from __future__ import annotations

import pytest
from model_runs import COMMIT, COMMIT_MUTANTS, ROUNDS, ROUNDS_MUTANTS, Run


@pytest.mark.parametrize("run", [r for r in ROUNDS if not r.deep], ids=lambda r: r.name)
def test_the_rules_hold_in_every_state(run: Run) -> None:
    found = run.search()
    print(found.line())
    assert not run.failure(found)


@pytest.mark.parametrize("run", [r for r in ROUNDS_MUTANTS if not r.deep], ids=lambda r: r.name)
def test_each_mutant_is_caught(run: Run) -> None:
    found = run.search()
    print(found.line())
    assert not run.failure(found)


def test_every_mutant_has_a_name_of_its_own_and_breaks_a_promise() -> None:
    mutants = COMMIT_MUTANTS + ROUNDS_MUTANTS
    names = [r.name for r in mutants + COMMIT + ROUNDS]
    assert len(set(names)) == len(names)
    assert all(r.wrong and r.depth for r in mutants)
    assert not any(r.wrong for r in COMMIT + ROUNDS)
