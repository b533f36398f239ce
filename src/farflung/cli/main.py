"""The `farflung` command: one file per subcommand; mistakes become one sentence, exit code 2."""

from __future__ import annotations

import sys
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
    generate,
    host,
    join,
    leave,
    resume,
    sim,
    snapshots,
    status,
    verify,
)
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


app.command("demo")(demo.demo)
app.command("host")(host.host)
app.command("join")(join.join)
app.command("status")(status.status)
app.command("leave")(leave.leave)
app.command("resume")(resume.resume)
app.command("snapshots")(snapshots.snapshots)
app.command("verify")(verify.verify)
app.command("export")(export.export)
app.command("generate")(generate.generate)
app.command("chat")(chat.chat)
app.command("eval")(eval.evaluate)
app.command("sim")(sim.sim)
app.command("chaos")(chaos.chaos)
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
