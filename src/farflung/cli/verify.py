"""`farflung verify`: recompute a run offline."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from farflung.errors import FarflungError
from farflung.events import printable
from farflung.run.home import home_folder
from farflung.words import counted

if TYPE_CHECKING:
    from farflung.run.source_figures import SourceFigures


def verify(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="A run's name in FARFLUNG_HOME, or a folder: a demo's "
            "--out, or the run's on the host's machine.",
        ),
    ],
    data: Annotated[
        bool, typer.Option("--data", help="Show what became of each source's samples.")
    ] = False,
) -> None:
    """Recompute every round from journal, event logs and recorded bytes.

    Exit code 0: everything that could be checked holds; 1: the first violation, in one sentence.

    Examples:

      farflung verify demo-out

      farflung verify my-run --data

      farflung verify /backup/my-run
    """
    from farflung.run.verify import Findings, Violation, verify_folder

    try:
        found: Findings = verify_folder(_folder(run), _progress if sys.stderr.isatty() else None)
    except Violation as violation:
        typer.echo(f"VIOLATION: {violation}")
        raise typer.Exit(1) from None
    except FarflungError:
        raise
    _print(found)
    if data:
        _print_sources(found.sources)


def _folder(run: Path) -> Path:
    """A folder that is here before a run's name."""
    named = home_folder() / run
    return named if not run.exists() and named.exists() else run


def _print_sources(sources: Iterable[SourceFigures]) -> None:
    for s in sources:
        typer.echo(
            f"data         {s.name}: {s.epochs:.2f} epochs of {s.epoch_rows:,} rows; consumed "
            f"{s.consumed:,}, leased {s.leased:,}, returned {s.returned:,}, duplicated "
            f"{s.duplicated}, lost {s.lost}"
        )


def _progress(done: int, total: int) -> None:
    sys.stderr.write(f"\r\x1b[Krecomputing round {done} of {total}")
    if done == total:
        sys.stderr.write("\r\x1b[K")


def _print(found: object) -> None:
    from farflung.run.verify import Findings

    assert isinstance(found, Findings)
    f = found
    typer.echo(
        f"journal      {counted(f.journals, 'copy', 'copies')} "
        f"{'agrees' if f.journals == 1 else 'agree'}, "
        f"{counted(f.records, 'record')}, {counted(f.terms, 'term')}, "
        f"{f.commits} commits, {f.abandoned} abandoned, {f.signatures} signed votes: ok"
    )
    if f.descent:
        typer.echo(f"weights      from {printable(f.descent)}")
    if f.amended:
        typer.echo(f"settings     amended {counted(f.amended, 'time')}, each in its place: ok")
    typer.echo(
        f"samples      credited {f.credited:,}, duplicated {f.duplicated}, lost {f.lost}, "
        f"partial {f.partial}"
    )
    word = "ok" if not f.missing_results else f"bytes of round {f.missing_results[0]} not kept"
    typer.echo(f"outer steps  {f.steps_recomputed} of {f.commits} recomputed bit by bit: {word}")
    if f.reductions_recomputed:
        typer.echo(f"reductions   {f.reductions_recomputed} slices recomputed bit by bit: ok")
    else:
        typer.echo("reductions   not checked: contributions were not recorded (--record all)")
    typer.echo(f"event logs   {f.events_compared} statements agree with the journal")
