"""Real processes die, stop or fail at every named place; the run goes on and loses nothing.

Each row (a role and an action) is one swarm that goes through its places one after the other, see
failpoint_rows.py; the rows of a fixture run side by side. Each cell is a test of its own.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from failpoint_rows import NAMES, ROLES, Row
from processes import ENDLESS, QUICK_DEATH, Swarm, quad_spec

from farflung import failpoints
from farflung.events import AttemptFailed, RoundCommitted

ACTIONS = ("kill", "stop", "error")
AT_ONCE = 3
"""Rows side by side: waiting is most of what a row does."""

Cell = tuple[str, str, str]
"""(role, action, name)."""
RANKS: list[Cell] = [
    ("rank", "kill", "step.begun"),
    ("rank", "stop", "step.begun"),
    ("rank", "error", "step.memory"),
    ("rank", "error", "step.loss"),
]
"""A rank dies, hangs, runs out of memory, has a NaN: each where its place is meant for it."""
MATRIX = [
    *((r, action, name) for r in NAMES if r != "rank" for action in ACTIONS for name in NAMES[r]),
    *RANKS,
]
QUICK: list[Cell] = [
    ("peer", "kill", "contribution.before-frame"),
    ("peer", "kill", "vote.stored"),
    ("peer", "kill", "apply.stepped"),
    ("peer", "kill", "disk.before-rename"),
    ("peer", "stop", "statistics.sent"),
    ("peer", "error", "vote.stored"),
    ("peer", "error", "apply.stepped"),
    ("host", "kill", "coordinator.written"),
    ("host", "kill", "coordinator.appended"),
    ("host", "kill", "commit.half-sent"),
]
"""What `make test` has time for."""

Rows = dict[tuple[str, str], Row]


def played(cells: list[Cell], root: Path) -> Rows:
    """Every row that these cells need, played to its end."""
    rows: Rows = {}
    for role, action in dict.fromkeys((role, action) for role, action, _ in cells):
        names = [name for r, a, name in cells if (r, a) == (role, action)]
        rows[role, action] = ROLES[role](root / f"{role}-{action}", action, names)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda row: row.run(), rows.values()))
    return rows


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    return played(QUICK, tmp_path_factory.mktemp("quick"))


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    return played(MATRIX, tmp_path_factory.mktemp("matrix"))


def rows_of(cells: list[Cell]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((role, action) for role, action, _ in cells))


@pytest.mark.xdist_group("quick rows")
@pytest.mark.parametrize(("role", "action", "name"), QUICK)
def test_the_run_goes_on_after(quick: Rows, role: str, action: str, name: str) -> None:
    assert not quick[role, action].outcomes[name]


@pytest.mark.xdist_group("quick rows")
@pytest.mark.parametrize(("role", "action"), rows_of(QUICK))
def test_a_short_row_leaves_a_sound_run(quick: Rows, role: str, action: str) -> None:
    assert not quick[role, action].end


@pytest.mark.slow
@pytest.mark.xdist_group("rows")
@pytest.mark.parametrize(("role", "action", "name"), MATRIX)
def test_the_run_goes_on_after_each(matrix: Rows, role: str, action: str, name: str) -> None:
    assert not matrix[role, action].outcomes[name]


@pytest.mark.slow
@pytest.mark.xdist_group("rows")
@pytest.mark.parametrize(("role", "action"), rows_of(MATRIX))
def test_a_whole_row_leaves_a_sound_run(matrix: Rows, role: str, action: str) -> None:
    assert not matrix[role, action].end


def test_every_failpoint_has_its_cells() -> None:
    assert {name for _, _, name in MATRIX} == set(failpoints.NAMES)
    assert {action for _, action, _ in MATRIX} == set(failpoints.ACTIONS) - {"pass"}
    assert set(QUICK) <= set(MATRIX)


def test_an_attempt_without_the_dead_contributor_has_its_own_divisor(tmp_path: Path) -> None:
    outer = {**ENDLESS["outer"], "chunk_elements": 8192}
    spec = quad_spec(outer=outer, swarm={"start_peers": 3, **QUICK_DEATH})
    with Swarm(tmp_path, spec) as swarm:
        swarm.host()
        swarm.join("a")
        swarm.join("b")
        victim = swarm.join("c", failpoint="statistics.sent:3:kill")
        victim.wait()
        swarm.more(3)
        failed = swarm.events("host", AttemptFailed)
        assert failed, "nobody noticed the death"
        commit = next(c for c in swarm.commits() if c.round == failed[0].round)
        assert len(commit.contributors) == 2
        assert commit.divisor == sum(c.tokens for c in commit.contributors)
        told = [e for e in swarm.events("host", RoundCommitted) if e.round == commit.round]
        assert told[0].contributors == 2
