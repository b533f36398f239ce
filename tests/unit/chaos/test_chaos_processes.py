"""What the watcher of a storm's process reads in its output."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from farflung.chaos.processes import ProcessLife, Program
from farflung.events import Event, TaskFailed

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


def test_a_process_that_cannot_be_watched_is_told_and_killed(tmp_path: Path) -> None:
    async def main() -> None:
        events: list[Event] = []
        program = Program(
            name="p0",
            home=tmp_path,
            arguments=(),
            logs=tmp_path / "nowhere",
            on_end=lambda _: None,
            emit=events.append,
            prefix=(sys.executable, "-c", "import time; time.sleep(60)"),
        )
        await program.start()
        await asyncio.wait_for(program.gone(), 30)
        (failed,) = events
        assert isinstance(failed, TaskFailed) and failed.task == "watch p0"
        assert program._process is not None and await program._process.wait() < 0

    asyncio.run(main())


@pytest.mark.parametrize(("code", "told"), [(PLAIN, True), (GROUP, True), (WORDS, False)])
def test_every_kind_of_traceback_is_seen(code: str, told: bool, tmp_path: Path) -> None:
    """Those of exception groups are indented: an hour of chaos once read past them."""
    life = asyncio.run(_run(code, tmp_path))
    assert bool(life.traceback) == told
    assert [text for _, text in life.warnings] == ([] if told else ["! a warning, no Traceback"])
