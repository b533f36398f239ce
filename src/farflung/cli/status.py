"""`farflung status`: one screen about a run."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Annotated

import typer

from farflung.cli import aio
from farflung.cli.answers import Answer, FrameSource
from farflung.cli.screens.frame import frame_of
from farflung.cli.screens.line import ScreenLine
from farflung.cli.screens.status_screen import PEERS, status_lines
from farflung.cli.screens.terminal import Terminal, show, this_terminal
from farflung.cli.screens.text import inert, wrapped
from farflung.cli.which_run import which_node
from farflung.clock import InlineWorkers
from farflung.errors import FarflungError, UserError


def status(
    run: Annotated[
        str,
        typer.Argument(
            metavar="[RUN]", help="A run's name in FARFLUNG_HOME, or a folder: a demo's --out too."
        ),
    ] = "",
    run_name: Annotated[str, typer.Option("--run", help="Which run of FARFLUNG_HOME.")] = "",
    as_json: Annotated[
        bool,
        typer.Option("--json", help='Print all of it as JSON; mistakes too, as {"error": ...}.'),
    ] = False,
    peers: Annotated[int, typer.Option(help="How many peers to list.")] = PEERS,
) -> None:
    """Show state, progress, loss and peers of a run that this machine hosts or has joined: as the
    coordinator tells it, or from the journal here when it does not answer.

    Examples:

      farflung status

      farflung status my-run --json

      farflung status demo-out --peers 100
    """
    if as_json:
        _print_json(run, run_name)
        return
    if peers < 1:
        raise UserError(f"--peers {peers} must be at least 1")
    answer = aio.run(_ask(run, run_name))
    terminal = this_terminal()
    lines = status_lines(frame_of(answer.frame), terminal, time.time(), most_peers=peers)
    show([*_silent(answer.silent, terminal), *lines], terminal)


async def _ask(run: str, run_name: str) -> Answer:
    with contextlib.closing(FrameSource(*which_node(run, run_name), InlineWorkers())) as source:
        return await source.answer()


def _silent(why: str, terminal: Terminal) -> list[ScreenLine]:
    """In front of what only the journal says."""
    if not why:
        return []
    text = f"not running ({inert(why)}); from what is on this disk:"
    return [[(line, "warn")] for line in wrapped(text, terminal.sentence_width, 3)]


def _print_json(run: str, run_name: str) -> None:
    """Whatever happens, JSON is what comes out; exit code 2 for a mistake."""
    try:
        answer = aio.run(_ask(run, run_name))
    except FarflungError as error:
        typer.echo(json.dumps({"error": inert(str(error))}))
        raise typer.Exit(2) from None
    running = answer.frame["head"].get("state") != "stopped" and not answer.silent
    typer.echo(json.dumps({**answer.frame, "running": running}, indent=2))


def shown_sample(prompt: str, text: str, width: int = 100) -> str:
    """A drawn text on one line, without anything that a terminal would obey."""
    whole = inert(prompt + text)
    return f'"{whole[:width]}{"..." if len(whole) > width else ""}"'
