"""Failpoints: armed from the environment in a row, from code for one context, nearly free else."""

from __future__ import annotations

import asyncio
import contextvars
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import farflung
from farflung.errors import StorageError, UserError
from farflung.failpoints import (
    ACTIONS,
    EVERY,
    NAMES,
    VARIABLE,
    Killed,
    arm,
    fails,
    hit,
    parse,
    sent,
)

SOURCES = sorted(Path(farflung.__file__).parent.rglob("*.py"))
PASSED = re.compile(r'\b(?:hit|sent|fails)\(\s*"([^"]+)"\s*\)')


def test_every_name_stands_at_one_place_of_the_code_and_every_place_has_a_name() -> None:
    places = Counter(n for path in SOURCES for n in PASSED.findall(path.read_text("utf-8")))
    assert set(places) == set(NAMES)
    disks = {"disk.before-rename", "disk.renamed"}  # the real disk and its twin
    both = {"certificate.renewed"}  # a host's nodes and a peer's
    assert {n for n, count in places.items() if count > 1} == disks | both


def test_names_are_unique_and_look_alike() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert all(re.fullmatch(r"[a-z]+\.[a-z]+(-[a-z]+)*", name) for name in NAMES)


@pytest.mark.parametrize(
    "text",
    ["vote.stored", "vote.stored:1", "vote.stored:0:kill", "vote.stored:x:kill", "vote:1:kill"],
)
def test_a_malformed_variable_is_a_persons_mistake(text: str) -> None:
    with pytest.raises(UserError, match="must look like"):
        parse(f"vote.sent:1:pass,{text}")


def test_an_unknown_action_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=", ".join(ACTIONS)):
        parse("vote.stored:1:explode")


def test_the_command_says_a_mistake_in_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "farflung", "--version"],
        env={"PYTHONPATH": ":".join(sys.path), VARIABLE: "vote.stored"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("farflung: FARFLUNG_FAILPOINT='vote.stored'")
    assert len(done.stderr.splitlines()) == 1


def test_nothing_is_armed_without_the_variable() -> None:
    assert parse("") is None
    for name in NAMES:
        hit(name)


def test_the_next_one_counts_only_after_the_one_before_has_acted(
    capfd: pytest.CaptureFixture[str],
) -> None:
    plan = parse("vote.stored:2:pass,vote.sent:1:error")
    assert plan is not None
    assert plan.due("vote.sent") is None
    assert plan.due("vote.stored") is None
    assert plan.due("vote.sent") is None
    waited = plan.due("vote.stored")
    assert waited is not None
    waited()
    failing = plan.due("vote.sent")
    assert failing is not None
    with pytest.raises(StorageError, match=r"failpoint vote\.sent"):
        failing()
    assert plan.due("vote.sent") is None
    assert plan.passed == {"vote.stored": 2, "vote.sent": 4}
    assert capfd.readouterr().err.splitlines() == [
        "failpoint vote.stored: pass",
        "failpoint vote.sent: error",
    ]


def crash() -> None:
    raise Killed


def test_a_context_has_its_own_failpoint_and_its_tasks_inherit_it() -> None:
    async def node() -> str:
        try:
            hit("vote.stored")
            await asyncio.create_task(sent("vote.sent"))
        except Killed:
            return "killed"
        return "lives"

    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        armed = contextvars.copy_context()
        armed.run(arm, "vote.sent", 1, crash)
        tasks = [loop.create_task(node(), context=armed), loop.create_task(node())]
        return [await task for task in tasks]

    assert asyncio.run(main()) == ["killed", "lives"]


def test_every_counts_all_names() -> None:
    def history() -> None:
        hit("vote.stored")
        hit("vote.sent")
        hit("vote.stored")

    def play(count: int) -> bool:
        """Whether the history ends before its end."""
        arm(EVERY, count, crash)
        try:
            history()
        except Killed:
            return True
        return False

    plays = [contextvars.copy_context().run(play, n) for n in range(1, 5)]
    assert plays == [True, True, True, False]


@pytest.mark.parametrize(("name", "count"), [("vote", 1), ("vote.sent", 0)])
def test_what_cannot_happen_cannot_be_armed(name: str, count: int) -> None:
    with pytest.raises(ValueError, match="no failpoint"):
        arm(name, count, crash)


def test_a_place_whose_failure_is_a_value_tells_it_once() -> None:
    def refuse() -> None:
        raise StorageError("failpoint step.loss")

    def passes() -> list[bool]:
        arm("step.loss", 2, refuse)
        return [fails("step.loss") for _ in range(3)]

    assert contextvars.copy_context().run(passes) == [False, True, False]
