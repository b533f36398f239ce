"""`farflung host`: start or continue a run on this machine."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from farflung.cli import aio
from farflung.config.load import check_advertised, check_endpoints, load_json, load_spec
from farflung.config.run import RunSpec
from farflung.errors import UserError
from farflung.events import (
    Event,
    GenerationClosed,
    GenerationOpened,
    Paused,
    RoundAbandoned,
    RoundCommitted,
    RunFinished,
    Warned,
)
from farflung.run.home import find_only, home_folder, locked, role_folder


def host(
    spec_file: Annotated[
        Path | None, typer.Argument(help="Run spec (TOML). Leave out to continue a run.")
    ] = None,
    bind: Annotated[
        str, typer.Option(help="HOST:PORT for peers; 0.0.0.0:PORT accepts other machines.")
    ] = "127.0.0.1:7000",
    advertise: Annotated[
        list[str] | None,
        typer.Option(help="HOST:PORT that peers dial (repeatable; a DNS name is best)."),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override a setting: outer.rounds=100")
    ] = None,
    keeper: Annotated[
        bool, typer.Option(help="Run a keeper beside the coordinator (second copy of all state).")
    ] = True,
    max_disk: Annotated[
        str,
        typer.Option(help="Limit on the keeper's log and snapshots: 20GiB. Default: most of it."),
    ] = "",
    run_name: Annotated[
        str, typer.Option("--run", help="Which run of FARFLUNG_HOME to continue.")
    ] = "",
    spec_json: Annotated[
        Path | None, typer.Option(help="A resolved spec (JSON), as a run's folder keeps it.")
    ] = None,
) -> None:
    """Start a run (coordinator and keeper) and print its invite.

    Examples:

      farflung host run.toml --bind 0.0.0.0:7000 --advertise train.example.org:7000

      farflung host            (continue after a stop or a crash)
    """
    from farflung.run.disk_limit import parse_size
    from farflung.run.host import HostOptions, open_host

    check_endpoints([bind, *(advertise or ())])
    check_advertised(bind, advertise or ())
    spec = None
    if spec_json is not None:
        spec = load_json(spec_json)
    elif spec_file or overrides:
        spec = load_spec(spec_file, overrides or ())
    folder = _folder(spec, run_name)
    options = HostOptions(
        bind=bind,
        advertise=tuple(advertise or ()),
        keeper=keeper,
        max_disk_bytes=parse_size(max_disk) if max_disk else 0,
    )
    with locked(folder):
        this = open_host(folder, spec, options, typer.echo, _print_event)
        aio.run(_serve(this))


def _folder(spec: RunSpec | None, run_name: str) -> Path:
    if spec is not None:
        return role_folder(home_folder(), spec.name, "host")
    if run_name:
        folder = role_folder(home_folder(), run_name, "host")
        if not folder.is_dir():
            raise UserError(f"{home_folder()} holds no run named {run_name!r}")
        return folder
    return find_only(home_folder(), "host")


async def _serve(this: object) -> None:
    from farflung.run.host import Host
    from farflung.run.join import leaving_on_signals

    assert isinstance(this, Host)
    await this.start()
    _announce(this.invite, this.only_local)
    task = asyncio.create_task(this.run())
    with leaving_on_signals(lambda _: _cancel(task)):
        try:
            outcome = await task
        except asyncio.CancelledError:
            outcome = "stopped; `farflung host` continues"
    typer.echo(f"run {outcome}")


def _cancel(task: asyncio.Task[str]) -> None:
    task.cancel()


def _announce(invite: str, only_local: bool) -> None:
    typer.echo("\nInvite (give it only to people whom you trust):\n")
    typer.echo(f"  farflung join {invite}\n")
    if only_local:
        typer.echo("This invite works on this machine only; give --advertise HOST:PORT")


def _print_event(event: Event) -> None:
    """One line per round, one per thing an operator should know."""
    match event:
        case RoundCommitted():
            extra = "" if event.replicated else "  not replicated"
            typer.echo(
                f"round {event.round:5d}  loss {event.loss:7.4f}  {event.contributors} peers  "
                f"{event.total_tokens:,} tokens  {event.took_s:5.1f} s{extra}"
            )
        case RoundAbandoned():
            typer.echo(f"round {event.round:5d}  abandoned: {event.reason}")
        case GenerationOpened():
            typer.echo(f"+ {event.name} takes part from round {event.next_round}")
        case GenerationClosed():
            typer.echo(f"- {event.name}: {event.reason}; {event.returned} samples returned")
        case Paused():
            typer.echo(f"  {event.reason}")
        case RunFinished():
            typer.echo(f"complete: {event.rounds} rounds, {event.tokens:,} tokens")
        case Warned():
            typer.echo(f"! {event.sentence}", err=True)
        case _:
            pass
