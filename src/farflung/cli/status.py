"""`farflung status`: ask the coordinator for the picture of the run."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from farflung.cli import aio
from farflung.errors import LinkDown, UserError
from farflung.run.home import find_only, home_folder, role_folder


def status(
    run_name: Annotated[str, typer.Option("--run", help="Which run of FARFLUNG_HOME.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole picture.")] = False,
) -> None:
    """Show rounds, peers, loss and bytes of a run that this machine hosts or has joined.

    Examples:

      farflung status

      farflung status --json
    """
    try:
        picture = aio.run(_ask(run_name))
    except (LinkDown, TimeoutError) as error:
        folder = _folder(run_name, "host")
        if folder is None:
            raise LinkDown(f"the coordinator does not answer ({error}); is the host up?") from None
        _print_offline(folder)
        return
    if as_json:
        typer.echo(json.dumps(picture, indent=2))
    else:
        _print(picture)


async def _ask(run_name: str) -> dict[str, Any]:
    from farflung.run.status import ask_as_host, ask_as_peer

    for role, ask in (("host", ask_as_host), ("peer", ask_as_peer)):
        folder = _folder(run_name, role)
        if folder is not None:
            async with asyncio.timeout(10):
                return await ask(folder)
    raise UserError(f"{home_folder()} holds no run; host or join one first")


def _folder(run_name: str, role: str) -> Path | None:
    if run_name:
        folder = role_folder(home_folder(), run_name, role)
        return folder if folder.is_dir() else None
    if not any(p.is_dir() for p in home_folder().glob(f"*/{role}")):
        return None
    return find_only(home_folder(), role)


def _print_offline(folder: Path) -> None:
    from farflung.run.status import offline

    last = offline(folder)
    typer.echo(f"{folder.parent.name} ({last.run})  the host does not run; from its journal:")
    typer.echo(
        f"round {last.committed}  abandoned {last.abandoned}  {last.rows:,} samples credited  "
        f"state {last.state_root[:16] or '-'}"
    )
    for name, rows, epoch in last.sources if len(last.sources) > 1 else ():
        typer.echo(f"  {name:24s} {rows:,} samples, {rows / epoch:.2f} epochs")
    for name, role, rounds, rows in last.members:
        typer.echo(f"  {name:24s} {role:8s} rounds {rounds:5d}  samples {rows:9,d}")


def _print(picture: dict[str, Any]) -> None:
    state = "complete" if picture["finished"] else picture["paused"] or "running"
    if picture["blocked"]:
        state = f"paused; journal: {picture['blocked']}"
    typer.echo(
        f"{picture['name']} ({picture['run']})  {picture['parameters']:,} parameters  "
        f"term {picture['term']}  {state}"
    )
    loss = picture["loss_last"]
    typer.echo(
        f"round {picture['committed']} of {picture['rounds_wanted']}  "
        f"loss {'-' if loss is None else format(loss, '.4f')}  {picture['tokens']:,} tokens  "
        f"abandoned {picture['abandoned']}  state {picture['state_root'][:16] or '-'}"
    )
    for peer in picture["peers"].values():
        loss = peer["loss"]
        typer.echo(
            f"  {peer['name']:24s} {peer['role']:8s} {peer['state']:8s} "
            f"rounds {peer['rounds']:5d}  steps {peer['steps']:7d}  "
            f"loss {'-' if loss is None else format(loss, '.4f'):>7s}  "
            f"up {peer['bytes_up'] / 1e6:8.2f} MB  down {peer['bytes_down'] / 1e6:8.2f} MB"
        )
    for note in picture["notes"]:
        typer.echo(f"  ! {note}")
