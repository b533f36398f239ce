"""`farflung status`: ask the coordinator for the picture of the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from farflung.cli import aio
from farflung.errors import LinkDown, UserError
from farflung.run.home import JOURNAL, find_run, home_folder, run_names
from farflung.words import counted


def status(
    run_name: Annotated[str, typer.Option("--run", help="Which run of FARFLUNG_HOME.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole picture.")] = False,
) -> None:
    """Show rounds, peers, loss and bytes of a run that this machine hosts or has joined.

    Examples:

      farflung status

      farflung status --json
    """
    role, folder = _find(run_name)
    try:
        picture = aio.run(_ask(role, folder))
    except LinkDown as error:
        from farflung.run.status import offline

        if not (folder / JOURNAL).exists():
            raise LinkDown(f"the coordinator does not answer ({error}); is the host up?") from None
        picture = offline(folder)
        if not as_json:
            typer.echo(f"the host does not answer ({error}); from the journal here:")
    if as_json:
        typer.echo(json.dumps(picture, indent=2))
    else:
        _print(picture)


async def _ask(role: str, folder: Path) -> dict[str, Any]:
    from farflung.run.status import ask_as_host, ask_as_peer

    return await (ask_as_host if role == "host" else ask_as_peer)(folder)


def _find(run_name: str) -> tuple[str, Path]:
    """The role of this machine in the run, and its folder; the host's before a peer's."""
    home = home_folder()
    for role in ("host", "peer"):
        names = run_names(home, role)
        if run_name in names or (names and not run_name):
            return role, find_run(home, run_name, role)
    known = sorted({*run_names(home, "host"), *run_names(home, "peer")})
    if run_name and known:
        raise UserError(f"{home} holds no run named {run_name!r}; it has: {', '.join(known)}")
    what = f"run named {run_name!r}" if run_name else "run"
    raise UserError(f"{home} holds no {what}; host or join one first")


def _print(picture: dict[str, Any]) -> None:
    state = "complete" if picture["finished"] else picture["paused"] or "running"
    if not picture["running"] and not picture["finished"]:
        state = "not running"
    if picture["blocked"]:
        state = f"paused; journal: {picture['blocked']}"
    size = f"{picture['parameters']:,} parameters  " if picture["parameters"] else ""
    typer.echo(f"{picture['name']} ({picture['run']})  {size}term {picture['term']}  {state}")
    if picture["descent"]:
        typer.echo(f"from {picture['descent']}")
    loss = picture["loss_last"]
    typer.echo(
        f"round {picture['committed']} of {picture['rounds_wanted']}  "
        f"loss {'-' if loss is None else format(loss, '.4f')}  {picture['tokens']:,} tokens  "
        f"abandoned {picture['abandoned']}  state {picture['state_root'][:16] or '-'}"
    )
    if picture["scores"]:
        rounds, bits = picture["scores"][-1]
        typer.echo(f"held-out text: {bits:.3f} bits per byte after {counted(rounds, 'round')}")
    for prompt, text in picture["samples"]:
        typer.echo(f"  {shown_sample(prompt, text)}")
    for peer in picture["peers"].values():
        _print_peer(peer, picture["running"])
    if picture.get("archived", -1) >= 0 or picture.get("uploading"):
        typer.echo(f"archive  up to round {picture['archived']}  {picture['uploading']}".rstrip())
    if disk := picture.get("keeper_disk"):
        typer.echo(f"  keeper's disk: {disk}")
    for note in picture["notes"]:
        typer.echo(f"  ! {note}")


def shown_sample(prompt: str, text: str, width: int = 100) -> str:
    """A drawn text on one line, without anything that a terminal would obey."""
    whole = " ".join("".join(c if c.isprintable() else " " for c in prompt + text).split())
    return f'"{whole[:width]}{"..." if len(whole) > width else ""}"'


def _print_peer(peer: dict[str, Any], running: bool) -> None:
    line = (
        f"  {peer['name']:24s} {peer['role']:8s} {peer['state']:8s} rounds {peer['rounds']:5d}  "
        f"steps {peer['steps']:7,d}  samples {peer['samples']:9,d}"
    )
    if running:  # in no journal: since the host's last start
        loss = "-" if peer["loss"] is None else format(peer["loss"], ".4f")
        line += (
            f"  loss {loss:>7s}  up {peer['bytes_up'] / 1e6:8.2f} MB  "
            f"down {peer['bytes_down'] / 1e6:8.2f} MB"
        )
    typer.echo(line)
