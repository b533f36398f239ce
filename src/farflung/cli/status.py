"""`farflung status`: ask the coordinator for the picture of the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from farflung.cli import aio
from farflung.cli.which_run import which_node
from farflung.errors import LinkDown
from farflung.events import printable
from farflung.run.home import JOURNAL
from farflung.words import counted


def status(
    run: Annotated[
        str,
        typer.Argument(
            metavar="[RUN]", help="A run's name in FARFLUNG_HOME, or a folder: a demo's --out too."
        ),
    ] = "",
    run_name: Annotated[str, typer.Option("--run", help="Which run of FARFLUNG_HOME.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole picture.")] = False,
) -> None:
    """Show rounds, peers, loss and bytes of a run that this machine hosts or has joined.

    Examples:

      farflung status

      farflung status my-run --json

      farflung status demo-out
    """
    role, folder = which_node(run, run_name)
    try:
        picture = aio.run(_ask(role, folder))
    except LinkDown as error:
        from farflung.run.status import offline

        if not (folder / JOURNAL).exists():
            raise LinkDown(f"the coordinator does not answer ({error}); is the host up?") from None
        picture = offline(folder)
        if not as_json:
            _say(f"the host does not answer ({error}); from the journal here:")
    if as_json:
        typer.echo(json.dumps(picture, indent=2))
    else:
        _print(picture)


async def _ask(role: str, folder: Path) -> dict[str, Any]:
    from farflung.run.status import ask_as_host, ask_as_peer

    return await (ask_as_host if role == "host" else ask_as_peer)(folder)


def _print(picture: dict[str, Any]) -> None:
    state = "complete" if picture["finished"] else picture["paused"] or "running"
    if not picture["running"] and not picture["finished"]:
        state = "not running"
    if picture["blocked"]:
        state = f"paused; journal: {picture['blocked']}"
    size = f"{picture['parameters']:,} parameters  " if picture["parameters"] else ""
    _say(f"{picture['name']} ({picture['run']})  {size}term {picture['term']}  {state}")
    if picture["descent"]:
        _say(f"from {picture['descent']}")
    loss = picture["loss_last"]  # in no journal
    root = picture["state_root"]
    typer.echo(
        f"round {picture['committed']:,} of {picture['rounds_wanted']:,}  "
        + ("" if loss is None else f"loss {loss:.4f}  ")
        + f"{counted(picture['tokens'], 'token')}  abandoned {picture['abandoned']:,}"
        + (f"  state {root[:16]}" if root else "")
    )
    if picture["scores"]:
        rounds, bits = picture["scores"][-1]
        _say(f"held-out text: {bits:.3f} bits per byte after {counted(rounds, 'round')}")
    for prompt, text in picture["samples"]:
        _say(f"  {shown_sample(prompt, text)}")
    _print_sources(picture["sources"])
    for line in _table(list(picture["peers"].values()), picture["running"]):
        _say(f"  {line}".rstrip())
    if picture.get("archived", -1) >= 0 or picture.get("uploading"):
        _say(f"archive  up to round {picture['archived']}  {picture['uploading']}".rstrip())
    if disk := picture.get("keeper_disk"):
        _say(f"  keeper's disk: {disk}")
    for note in picture["notes"]:
        _say(f"  ! {note}")


def _say(line: str) -> None:
    """Peers choose their names, and a host its run's: nothing of it may steer the terminal."""
    typer.echo(printable(line))


def _print_sources(sources: list[dict[str, Any]]) -> None:
    total = sum(source["weight"] for source in sources)
    for source in sources:
        share = f"weight {source['weight']} of {total}  " if len(sources) > 1 else ""
        epochs, rows = source["consumed"] / source["epoch_rows"], source["epoch_rows"]
        _say(
            f"  data {source['name']}: {share}samples {source['consumed']:,}  "
            f"{epochs:.2f} epochs of {rows:,}"
        )


def shown_sample(prompt: str, text: str, width: int = 100) -> str:
    """A drawn text on one line, without anything that a terminal would obey."""
    whole = " ".join(printable(prompt + text).split())
    return f'"{whole[:width]}{"..." if len(whole) > width else ""}"'


def _table(peers: list[dict[str, Any]], running: bool) -> list[str]:
    """One line per peer under a heading; below 80 columns where names are short."""
    heads = ["name", "role", "state", "rounds", "steps", "samples"]
    heads += ["loss", "MB up", "MB down"] if running else []  # of the rest no journal knows
    rows = [heads, *(_cells(peer) for peer in peers)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    return ["  ".join(_aligned(row, widths)) for row in rows if len(rows) > 1]


def _aligned(row: list[str], widths: list[int]) -> list[str]:
    """Words to the left, numbers to the right."""
    words = 3
    return [
        cell.ljust(width) if column < words else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=False))
    ]


def _cells(peer: dict[str, Any]) -> list[str]:
    return [
        peer["name"],
        peer["role"],
        peer["state"],
        *(f"{peer[key]:,}" for key in ("rounds", "steps", "samples")),
        "-" if peer["loss"] is None else f"{peer['loss']:.4f}",
        *(f"{peer[key] / 1e6:,.1f}" for key in ("bytes_up", "bytes_down")),
    ]
