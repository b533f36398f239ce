"""What the watcher of a storm's process reads in its output."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from farflung.chaos.processes import ProcessLife, Program

PLAIN = "raise ValueError"
GROUP = "import asyncio\nasync def a(): raise ValueError\nasync def b():\n"
GROUP += " async with asyncio.TaskGroup() as g: g.create_task(a())\nasyncio.run(b())"
WORDS = "print('! a warning, no Traceback')"


async def _run(code: str, logs: Path) -> ProcessLife:
    ended = asyncio.Event()
    # The words before a command come first, so that this is the program that runs.
    program = Program(
        name="p0",
        home=logs,
        arguments=(),
        logs=logs,
        on_end=lambda _: ended.set(),
        emit=print,
        prefix=(sys.executable, "-c", code),
    )
    life = await program.start()
    await asyncio.wait_for(ended.wait(), 30)
    return life


@pytest.mark.parametrize(("code", "told"), [(PLAIN, True), (GROUP, True), (WORDS, False)])
def test_every_kind_of_traceback_is_seen(code: str, told: bool, tmp_path: Path) -> None:
    """Those of exception groups are indented: an hour of chaos once read past them."""
    life = asyncio.run(_run(code, tmp_path))
    assert bool(life.traceback) == told
    assert [text for _, text in life.warnings] == ([] if told else ["! a warning, no Traceback"])
