"""`farflung watch`: a run, live."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import termios
import time
import tty
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from farflung.cli import aio
from farflung.cli.answers import FrameSource
from farflung.cli.screens.frame import Json, frame_of
from farflung.cli.screens.line import ScreenLine, plain, strung
from farflung.cli.screens.numbers import fixed, percent, short, span
from farflung.cli.screens.parts import rounds_text
from farflung.cli.screens.terminal import Terminal, console_of, show, styled, this_terminal
from farflung.cli.screens.text import ascii_only, inert
from farflung.cli.screens.watch_screen import watch_lines
from farflung.cli.waiting import QUIET, Reminder, Waiting, of_run, wait_of_run
from farflung.cli.which_run import which_node
from farflung.clock import ThreadWorkers
from farflung.errors import LinkDown, UserError
from farflung.tasks import first_ended
from farflung.words import counted

if TYPE_CHECKING:
    from rich.text import Text

EVERY_S = 1.0
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
    role, folder = which_node(run, run_name)
    workers = ThreadWorkers(1)
    viewer = WatchedRun(FrameSource(role, folder, workers), every)
    try:
        with contextlib.suppress(KeyboardInterrupt):  # a viewer's usual end
            aio.run(_watch(viewer, once=once))
    finally:
        viewer.close()
        workers.close()


async def _watch(viewer: WatchedRun, *, once: bool) -> None:
    terminal = this_terminal()
    if once:
        await viewer.ask()
        above_prompt = replace(terminal, height=terminal.height - 1)
        show(viewer.lines(above_prompt, keys=""), terminal)
    elif terminal.live:
        await _on_screen(viewer)
    else:
        await _in_lines(viewer)


class WatchedRun:
    """The newest frame of a run, and what stands in the way of a newer one."""

    def __init__(self, source: FrameSource, every_s: float) -> None:
        self._source = source
        self._every_s = every_s
        self._note = ""
        self.frame: Json | None = None

    async def ask(self) -> None:
        """Raises what a person must mend; a coordinator that is away later on is only noted."""
        try:
            answer = await self._source.answer()
        except LinkDown as error:
            if self.frame is None:
                raise
            self._note = inert(str(error))
            return
        self.frame = frame_of(answer.frame)
        self._note = f"not running: {inert(answer.silent)}" if answer.silent else ""

    async def keep_asking(self) -> NoReturn:
        """Raises as `ask`."""
        while True:
            await self.ask()
            await asyncio.sleep(self._every_s)

    def lines(self, terminal: Terminal, *, keys: str = "q quits") -> list[ScreenLine]:
        if self.frame is None:
            share = self._source.reading
            return [[(f"reading the run's journal and log, {percent(share)}", "dim")]]
        return watch_lines(self.frame, terminal, time.time(), note=self._note, keys=keys)

    def close(self) -> None:
        self._source.close()


# ---- on a terminal -------------------------------------------------------------------------


async def _on_screen(viewer: WatchedRun) -> None:
    over = asyncio.Event()
    with _keys(over):
        await first_ended(viewer.keep_asking(), _drawn(viewer, over))


async def _drawn(viewer: WatchedRun, over: asyncio.Event) -> None:
    """Draw what is new until it is over: a frame, another size, a second that has passed."""
    from rich.live import Live

    console = console_of(this_terminal())
    live = Live(
        console=console,
        screen=True,
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    with live:
        before: object = None
        while not over.is_set():
            terminal = this_terminal()
            now = (id(viewer.frame), terminal, int(time.time()))
            if now != before:
                before = now
                console.size = (terminal.width, terminal.height)
                live.update(_picture(viewer.lines(terminal), terminal), refresh=True)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), LOOK_S)


def _picture(lines: list[ScreenLine], terminal: Terminal) -> Text:
    from rich.text import Text

    picture = Text("\n", no_wrap=True, overflow="crop", end="")
    return picture.join(styled(line, terminal) for line in lines)


@contextlib.contextmanager
def _keys(over: asyncio.Event) -> Iterator[None]:
    """Until the end of this, q, Q and Escape set `over`; nothing that is typed is shown."""
    if not sys.stdin.isatty():
        yield
        return
    loop, number = asyncio.get_running_loop(), sys.stdin.fileno()
    before = termios.tcgetattr(number)

    def typed() -> None:
        keys = os.read(number, 64)
        if not keys or keys[:1] in b"qQ" or keys == b"\x1b":
            over.set()

    tty.setcbreak(number)
    loop.add_reader(number, typed)
    try:
        yield
    finally:
        loop.remove_reader(number)
        termios.tcsetattr(number, termios.TCSADRAIN, before)


# ---- without a terminal --------------------------------------------------------------------


async def _in_lines(viewer: WatchedRun) -> None:
    await first_ended(viewer.keep_asking(), _told(viewer))


async def _told(viewer: WatchedRun) -> None:
    """A line when rounds were committed, every ten seconds at most; a state that lasts as often as
    waiting.py says. Ends with the run."""
    reminder = Reminder()
    told, told_s, shown = -1, -PLAIN_EVERY_S, ""
    while True:
        await asyncio.sleep(LOOK_S)
        frame, now_s = viewer.frame, time.monotonic()
        if frame is None:
            continue
        head = frame["head"]
        if head["rounds"] != told and now_s - told_s >= PLAIN_EVERY_S:
            told, told_s = head["rounds"], now_s
            _print(plain_line(frame))
        wait = wait_of_run(head["state"], head["reason"], head["uploading"])
        lasting = None if wait in QUIET else Waiting(wait=wait, since_s=None)
        due = reminder.due(lasting, now_s)
        text = of_run(head["state"], head["reason"], head["uploading"], head["since"], time.time())
        if due or (head["state"] in ("finished", "stopped") and text != shown):
            shown = text
            _print(text)
        if head["state"] == "finished":
            return


def plain_line(frame: Json) -> str:
    """`round 212 of 1,000 · loss 2.313 · 21.3k tok/s · 4 peers · eta 2 h 14 m`."""
    head = frame["head"]
    return plain(
        strung(
            [
                rounds_text(head),
                f"loss {fixed(head['loss'], 3)}" if head["loss"] is not None else "",
                f"{short(head['tokens_per_s'])} tok/s" if head["tokens_per_s"] else "",
                counted(head["peers_active"], "peer"),
                f"eta {span(head['eta_s'])}" if head["eta_s"] is not None else "",
            ]
        )
    )


def _print(text: str) -> None:
    typer.echo(text if this_terminal().unicode else ascii_only(text))
