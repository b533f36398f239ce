"""The `farflung` command: one file per subcommand; mistakes become one sentence, exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

import farflung
from farflung import failpoints
from farflung.cli import (
    chaos,
    chat,
    data,
    demo,
    eval,
    export,
    follow,
    generate,
    host,
    join,
    leave,
    plan,
    report,
    resume,
    sim,
    snapshots,
    status,
    verify,
    watch,
    window,
)
from farflung.cli.help import Command
from farflung.errors import FarflungError
from farflung.events import printable
from farflung.stopping import interrupt_on_stop_signals

app = typer.Typer(
    name="farflung",
    help="Train one language model on computers that are far apart.\n\n"
    "Start with `farflung demo` (three minutes on a laptop), then `farflung host run.toml` "
    "and `farflung join INVITE`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"farflung {farflung.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    del version


COMMANDS: tuple[tuple[str, Callable[..., None], str], ...] = (
    ("demo", demo.demo, "See it work on this machine: several peers, one is killed."),
    ("plan", plan.plan, "Memory, speed, bytes and time of a run, estimated."),
    ("host", host.host, "Start or continue a run, and print its invite."),
    ("join", join.join, "Take part in a run, until it is complete."),
    ("status", status.status, "Rounds, peers, loss and bytes of a run."),
    ("watch", watch.watch, "A run, live: loss, peers, what each of them does."),
    ("window", window.window, "A run's dashboard in a browser, at any time."),
    ("report", report.report, "Keep a run as a web page that opens from a disk."),
    ("follow", follow.follow, "Its figures to a tracker, its troubles to you."),
    ("leave", leave.leave, "Leave a run; `farflung join` continues later."),
    ("resume", resume.resume, "Host a run again from its archive."),
    ("snapshots", snapshots.snapshots, "List snapshots of a run or an archive."),
    ("verify", verify.verify, "Recompute every round of a run."),
    ("export", export.export, "Write the model for transformers, llama.cpp or Ollama."),
    ("generate", generate.generate, "Go on with a text."),
    ("chat", chat.chat, "Talk with a model, line by line."),
    ("eval", eval.evaluate, "How good a model is: bits per byte, questions."),
    ("sim", sim.sim, "The real code under seeded faults, in virtual time."),
    ("chaos", chaos.chaos, "Real processes under random faults, then judged."),
)
"""Name, function, and its line in `farflung --help`."""

for _name, _function, _line in COMMANDS:
    app.command(_name, cls=Command, short_help=_line)(_function)
app.add_typer(data.app, name="data")


def main() -> None:
    """Entry point. Farflung's own errors print one sentence; bugs keep their traceback."""
    try:
        failpoints.arm_process()
        interrupt_on_stop_signals()
        app()
    except FarflungError as error:
        sentence = printable(str(error), keep="\n")  # it may quote a stranger
        typer.echo(f"farflung: {sentence}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("stopped", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
