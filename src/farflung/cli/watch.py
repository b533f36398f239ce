"""`farflung watch`: a run, live."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import termios
import time
import tty
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from farflung.cli import aio
from farflung.cli.answers import answer_of
from farflung.cli.screens.frame import Json, frame_of
from farflung.cli.screens.parts import rounds_text
from farflung.cli.screens.line import ScreenLine, plain, strung
from farflung.cli.screens.numbers import fixed, short, span
from farflung.cli.screens.terminal import Terminal, console_of, show, styled, this_terminal
from farflung.cli.screens.text import inert
from farflung.cli.screens.watch_screen import watch_lines
from farflung.cli.waiting import QUIET, Reminder, Waiting, of_run, sentence
from farflung.cli.where import Place, find_place
from farflung.errors import FarflungError, LinkDown, UserError
from farflung.tasks import Tasks
from farflung.words import counted

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

EVERY_S = 2.0
"""Between two questions to the coordinator."""
LOOK_S = 0.2
"""Between two looks at the keyboard and at the size of the window."""
PLAIN_EVERY_S = 10.0
"""Between two lines where the screen cannot be written over."""


def watch(
    run: Annotated[
        str,
        typer.Argument(
            metavar="[RUN]", help="A run's name in FARFLUNG_HOME, or a folder: a demo's --out too."
        ),
    ] = "",
    run_name: Annotated[str, typer.Option("--run", help="Which run of FARFLUNG_HOME.")] = "",
    once: Annotated[bool, typer.Option("--once", help="Print one picture and end.")] = False,
    every: Annotated[float, typer.Option(help="Seconds between two questions.")] = EVERY_S,
) -> None:
    """Watch a run that this machine hosts or has joined: loss, peers, what each of them does, the
    newest lines of its log. q or Ctrl-C leaves; the run goes on.

    Without a terminal it prints a line now and then.

    Examples:

      farflung watch

      farflung watch my-run --every 5

      farflung watch demo-out --once
    """
    if not 0.2 <= every <= 3600:
        raise UserError(f"--every {every:g} must be 0.2 to 3600 seconds")
    place = find_place(run, run_name)
    terminal = this_terminal()
    if once:
        viewer = Viewer(place)
        aio.run(viewer.ask())
        show(viewer.lines(terminal, keys=""), terminal)
        return
    with contextlib.suppress(KeyboardInterrupt):  # a viewer's usual end
        aio.run(_on_screen(place, every) if terminal.live else _in_lines(place, every))


class Viewer:
    """The newest frame of a run, and what stands in the way of a newer one."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.frame: Json | None = None
        self._note = ""

    async def ask(self) -> None:
        """Raises what a person must mend; a coordinator that is away is only noted."""
        try:
            answer, silent = await answer_of(self._place)
        except LinkDown as error:
            if self.frame is None:
                raise
            self._note = inert(str(error))
            return
        self.frame = frame_of(answer)
        self._note = f"the host does not answer ({inert(silent)}); asking again" if silent else ""

    async def keep_asking(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            await self.ask()

    def lines(self, terminal: Terminal, *, keys: str = "q quits") -> list[ScreenLine]:
        assert self.frame is not None
        return watch_lines(self.frame, terminal, time.time(), note=self._note, keys=keys)


# ---- on a terminal -------------------------------------------------------------------------


async def _on_screen(place: Place, every_s: float) -> None:
    viewer = Viewer(place)
    await viewer.ask()
    over = asyncio.Event()
    tasks = Tasks(lambda _: None)
    async with _closing(tasks):
        tasks.start(viewer.keep_asking(every_s), "ask", expects=(FarflungError,))
        asking = tasks.start(_drawn(viewer, over), "draw")
        with _keys(over):
            await asking


async def _drawn(viewer: Viewer, over: asyncio.Event) -> None:
    """Draw what is new until it is over: a frame, another size, a second that has passed."""
    from rich.live import Live

    terminal = this_terminal()
    console = console_of(terminal)
    with Live(
        console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
    ) as live:
        before: object = None
        while not over.is_set():
            terminal = this_terminal()
            console.size = _dimensions(terminal)
            now = (id(viewer.frame), terminal, int(time.time()))
            if now != before:
                before = now
                live.update(_picture(viewer.lines(terminal), terminal), refresh=True)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), LOOK_S)
