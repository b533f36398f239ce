"""`farflung snapshots`: what a run's folder or archive holds to resume from."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated

import typer

from farflung.cli import aio
from farflung.cli.loading import ProgressLine

if TYPE_CHECKING:
    from farflung.archive.source import SnapshotSource
    from farflung.archive.survey import Survey


def snapshots(
    source: Annotated[
        str,
        typer.Argument(help="A run of FARFLUNG_HOME, a folder, an archive, or s3://BUCKET/PREFIX."),
    ],
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Read every chunk and compare it with its hash."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List snapshots: round, tokens, bytes, age, whole or damaged.

    Exit code 1 when one is damaged; the first damaged object is named.

    Examples:

      farflung snapshots my-run

      farflung snapshots s3://my-bucket/runs/first --verify
    """
    found = aio.run(_look(source, verify))
    if as_json:
        typer.echo(json.dumps(_table(found), indent=2))
    else:
        _print(found, verify)
    damage = next((row.damage for row in found.rows if row.damage), "")
    if damage:
        typer.echo(f"DAMAGED: {damage}", err=True)
        raise typer.Exit(1)


async def _look(source: str, verify: bool) -> Survey:
    from farflung.archive.survey import steady_survey
    from farflung.clock import ThreadWorkers
    from farflung.run.sources import locate

    workers = ThreadWorkers(2)
    progress = ProgressLine("checking", in_bytes=True)
    try:

        async def reopen() -> SnapshotSource:
            return (await locate(source, workers)).source

        return await steady_survey(reopen, workers, verify=verify, on_bytes=progress)
    finally:
        progress.clear()
        workers.close()


def _print(found: Survey, verify: bool) -> None:
    typer.echo(f"{found.run_name} ({found.run})  {found.records:,} records  {found.address}")
    if not found.rows:
        typer.echo("no snapshot")
    word = "whole" if verify else "complete"
    for number, row in enumerate(found.rows, 1):
        place = row.place
        age = "" if place.written_at <= 0 else _age(time.time() - place.written_at)
        note = "initial weights" if place.genesis else ""
        if number == len(found.rows):
            note = f"newest; results lead to round {row.reaches}" if row.reaches >= 0 else "newest"
        typer.echo(
            f"  round {place.next_round:6d}  {row.tokens:15,d} tokens  "
            f"{row.n_bytes / 1e6:11,.1f} MB  {age:>9s}  "
            f"{'DAMAGED' if row.damage else word:8s}  {note}".rstrip()
        )


def _age(age_s: float) -> str:
    for unit, length_s in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if age_s >= 2 * length_s:
            return f"{age_s / length_s:.0f} {unit} ago"
    return f"{max(0.0, age_s):.0f} s ago"


def _table(found: Survey) -> dict[str, object]:
    rows = [
        {
            "manifest": row.place.name,
            "round": row.place.next_round,
            "tokens": row.tokens,
            "bytes": row.n_bytes,
            "written_at": row.place.written_at or None,
            "initial_weights": row.place.genesis,
            "reaches": row.reaches if row.reaches >= 0 else None,
            "damage": row.damage,
        }
        for row in found.rows
    ]
    return {
        "address": found.address,
        "run": found.run,
        "name": found.run_name,
        "records": found.records,
        "checked_bytes": found.checked_bytes,
        "snapshots": rows,
    }
