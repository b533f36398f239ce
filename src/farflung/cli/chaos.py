"""`farflung chaos`: check on this machine that the promises hold."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from farflung.cli import aio
from farflung.cli.reports import check_report, write_report
from farflung.errors import UserError

if TYPE_CHECKING:
    from farflung.chaos.storm import Look, StormOutcome

FEWEST = 3
MOST = 50
LINE_S = 10.0
SHORTEST_MIN = 0.1


def chaos(
    minutes: Annotated[float, typer.Option(help="Length of the storm.")] = 6.0,
    peers: Annotated[int, typer.Option(help="Trainers at the start (3 or more).")] = 5,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal schedules of faults.")] = 0,
    report: Annotated[Path | None, typer.Option(help="Write everything as JSON.")] = None,
    keep: Annotated[
        Path | None,
        typer.Option(help="Keep all folders and logs here (default: kept on failure only)."),
    ] = None,
    netns: Annotated[
        bool,
        typer.Option("--netns", help="Emulate the network by the kernel's namespaces (root)."),
    ] = False,
) -> None:
    """Run a swarm of real processes under random faults, then judge what it wrote.

    Peers and host are killed, stopped, cut off, slowed down and given full disks; new peers join
    and leave. Then everything is healed, three more rounds must be committed, every process must
    stop politely, and `verify` recomputes all rounds.

    Exit code 0: every promise held; 1: one did not, and the folders are kept; 130: ended by
    Ctrl-C (what happened until then is judged all the same).

    The network between them is emulated by relays on this machine, which need no privileges, or
    with --netns by network namespaces.

    Examples:

      farflung chaos

      farflung chaos --minutes 60 --seed 7 --report chaos.json

      farflung chaos --minutes 1 --peers 3 --keep chaos-out
    """
    from farflung.chaos.netns import missing
    from farflung.chaos.report import repeat, to_json
    from farflung.chaos.storm import ChaosOptions, run_chaos

    _check(minutes, peers, report)
    skipped = missing() if netns else ""
    if skipped:
        typer.echo(f"! network namespaces skipped: {skipped}; relays are used instead", err=True)
    options = ChaosOptions(
        minutes=minutes, peers=peers, seed=seed, folder=keep, netns=netns and not skipped
    )
    with _ChaosScreen(minutes * 60) as screen:
        outcome = aio.run(run_chaos(options, screen.show))
    write_report(report, to_json(outcome))
    _print(outcome)
    if not outcome.verdict.passed:
        typer.echo(f"repeat with: {repeat(outcome)}")
    if outcome.interrupted:
        raise typer.Exit(130)
    if not outcome.verdict.passed:
        raise typer.Exit(1)


def _check(minutes: float, peers: int, report: Path | None) -> None:
    """UserError for the first option that breaks a rule."""
    if not SHORTEST_MIN <= minutes < float("inf"):
        raise UserError(f"--minutes {minutes:g} must be at least {SHORTEST_MIN:g}")
    if not FEWEST <= peers <= MOST:
        raise UserError(
            f"--peers {peers} must be {FEWEST} to {MOST}: two stay sound while others are struck"
        )
    check_report(report)


class _ChaosScreen:
    """One live line on a terminal, a line every ten seconds elsewhere."""

    def __init__(self, length_s: float) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._console = Console(highlight=False)
        self._live = self._console.is_terminal
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._live,
            transient=True,
        )
        self._task = self._bar.add_task("starting", total=length_s)
        self._shown_s = 0.0
        self._stage = ""

    def __enter__(self) -> _ChaosScreen:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, look: Look) -> None:
        text = (
            f"{look.stage}: {look.commits} rounds, {look.faults} faults ({look.kills} kills), "
            f"{look.running} peers run"
        )
        self._bar.update(self._task, completed=look.elapsed_s, description=text)
        now_s = time.monotonic()
        if not self._live and (look.stage != self._stage or now_s - self._shown_s >= LINE_S):
            self._shown_s, self._stage = now_s, look.stage
            self._console.print(f"{look.elapsed_s:6.0f} s  {text}")


def _print(outcome: StormOutcome) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="farflung chaos" + (" (interrupted)" if outcome.interrupted else ""))
    for name in ("", "promise", "checks", "violations", ""):
        table.add_column(name, justify="right" if name in ("checks", "violations") else "left")
    for row in outcome.verdict.rows:
        word = "ok" if row.passed else "FAILED" if row.violations else "NOT CHECKED"
        table.add_row(row.key, row.promise, f"{row.checks:,}", str(row.violations), word)
    console = Console(highlight=False)
    console.print(table)
    for row in outcome.verdict.rows:
        if row.note:
            console.print(f"{row.key}: {row.note}", markup=False)
        for sentence in row.first[:5]:
            console.print(f"{row.key}: {sentence}", markup=False)
    for name, value in _lines(outcome.verdict.figures):
        console.print(f"{name}: {value}", markup=False)
    if outcome.kept:
        console.print(f"everything is in {outcome.folder}", markup=False)


def _lines(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """Figures for people: names without underscores, spreads in one line."""
    lines = []
    for name, value in figures.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items())
        if value not in ("", 0):
            lines.append((name.replace("_", " "), str(value)))
    return lines
