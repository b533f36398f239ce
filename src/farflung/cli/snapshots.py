"""`farflung snapshots`: what a run's folder or archive holds to resume from."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from farflung.cli import aio

if TYPE_CHECKING:
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
    from farflung.archive.survey import survey
    from farflung.clock import ThreadWorkers
    from farflung.run.sources import locate

    workers = ThreadWorkers(2)
    try:
        located = await locate(source, workers)
        bar = ByteBar() if verify and sys.stderr.isatty() else None
        on_bytes = None if bar is None else bar.see
        return await survey(located.source, workers, verify=verify, on_bytes=on_bytes)
    finally:
        workers.close()


class ByteBar:
    """One line that shows how far a long check is, some times in a second."""

    def __init__(self) -> None:
        self._started_s = self._last_s = time.monotonic()

    def see(self, here: int, total: int) -> None:
        now_s = time.monotonic()
        if now_s - self._last_s < 0.25 and here < total:
            return
        self._last_s = now_s
        rate = here / max(1e-3, now_s - self._started_s)
        left_s = (total - here) / rate if rate else 0.0
        end = "\r\x1b[K" if here >= total else ""
        sys.stderr.write(
            f"\r\x1b[K{here / 1e6:,.0f} of {total / 1e6:,.0f} MB  {rate / 1e6:,.1f} MB/s  "
            f"{left_s:,.0f} s left{end}"
        )
        sys.stderr.flush()


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
