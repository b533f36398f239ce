"""`farflung sim`: the real code under seeded faults, in virtual time."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from farflung.cli.reports import check_report, write_report
from farflung.errors import UserError

if TYPE_CHECKING:
    from farflung.sim.batch import Total


def sim(
    seeds: Annotated[str, typer.Option(help="Half-open range of seeds, A:B.")] = "0:20",
    jobs: Annotated[int, typer.Option(min=1, help="Processes to play them in.")] = 1,
    twice: Annotated[
        int,
        typer.Option(min=0, help="Play this many again under another PYTHONHASHSEED."),
    ] = 0,
    faults: Annotated[int, typer.Option(min=1, help="Faults per seed.")] = 6,
    digests: Annotated[bool, typer.Option("--digests", help="Print each seed's digest.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write the sums as JSON.")] = None,
) -> None:
    """Run the real coordinator and agents over simulated links and disks: kills at any write or
    frame, torn writes, partitions, freezes, lost and doubled frames, full and slow disks, joins.
    A seed is an exact history.

    Exit code 1: a seed broke an invariant; the command that replays it is printed.

    Examples:

      farflung sim --seeds 0:100

      farflung sim --seeds 0:2000 --jobs 2 --twice 50

      farflung sim --seeds 141:142 --digests
    """
    from farflung.sim.batch import play_all

    wanted = _range(seeds)
    check_report(report)
    line = _SimLine(len(wanted) + min(twice, len(wanted)))
    total = play_all(wanted, faults=faults, jobs=jobs, twice=twice, on_seed=line.see)
    line.end()
    if digests:
        for seed in sorted(total.digests):
            typer.echo(f"{seed} {total.digests[seed]}")
    _show(total, line.elapsed_s)
    write_report(report, total.to_json(), sort=True)
    for broken in total.broken:
        typer.echo(broken)
        seed = int(broken.split()[1].rstrip(":"))
        typer.echo(f"replay: farflung sim --seeds {seed}:{seed + 1} --faults {faults}")
    if total.broken:
        raise typer.Exit(1)


def _range(text: str) -> range:
    first, colon, last = text.partition(":")
    if not (colon and first.isdigit() and last.isdigit() and int(first) < int(last)):
        raise UserError(f"--seeds {text!r} must be A:B with A < B, for example 0:100")
    return range(int(first), int(last))


def _show(total: Total, took_s: float) -> None:
    from farflung.sim.checks import NAMES

    for key, words in NAMES.items():
        typer.echo(f"{key:4} {total.counts.get(key, 0):12,}  {words}")
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in total.kinds.most_common())
    typer.echo(f"faults: {kinds}")
    verdict = f"{len(total.broken)} VIOLATIONS" if total.broken else "no violation"
    again = f" ({total.twice} of them twice)" if total.twice else ""
    typer.echo(
        f"{total.seeds:,} seeds{again}, {total.faults:,} faults, {total.counts['rounds']:,} "
        f"rounds: {verdict} ({took_s:.0f} s)"
    )


class _SimLine:
    """A live line on a terminal; elsewhere one line a minute."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._started_s = self._shown_s = time.monotonic()
        self._seen = 0
        self._live = sys.stdout.isatty()
        self._told = 0
        """Violations that were shown."""

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._started_s

    def see(self, total: Total) -> None:
        self._seen += 1
        for broken in total.broken[self._told :]:  # at once: a long run need not be waited for
            self.end()
            typer.echo(broken)
        self._told = len(total.broken)
        now_s = time.monotonic()
        if now_s - self._shown_s < (0.2 if self._live else 60.0):
            return
        self._shown_s = now_s
        left_s = self.elapsed_s / self._seen * (self._wanted - self._seen)
        text = (
            f"{self._seen:,} of {self._wanted:,} seeds, {total.counts['rounds']:,} rounds, "
            f"{len(total.broken)} violations, {left_s:.0f} s left"
        )
        if self._live:
            sys.stdout.write(f"\r\x1b[K{text}")
            sys.stdout.flush()
        else:
            typer.echo(text)

    def end(self) -> None:
        if self._live:
            sys.stdout.write("\r\x1b[K")
