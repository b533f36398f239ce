"""`farflung sim`: the real code under seeded faults, in virtual time."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from farflung.errors import UserError


def sim(
    seeds: Annotated[str, typer.Option(help="Half-open range of seeds, A:B.")] = "0:20",
    digests: Annotated[bool, typer.Option("--digests", help="Print each seed's digest.")] = False,
) -> None:
    """Run the real coordinator and agents over simulated links and disks, with kills, torn
    writes, partitions, freezes, joins and coordinator kills. A seed is an exact history.

    Exit code 1: a seed broke an invariant; the command that replays it is printed.

    Examples:

      farflung sim --seeds 0:100

      farflung sim --seeds 141:142 --digests
    """
    from farflung.sim.checks import BrokenInvariant
    from farflung.sim.seeds import run_seed

    first, last = _range(seeds)
    started, rounds, faults = time.monotonic(), 0, 0
    for seed in range(first, last):
        try:
            outcome = run_seed(seed)
        except BrokenInvariant as broken:
            typer.echo(f"{broken}")
            typer.echo(f"replay: farflung sim --seeds {seed}:{seed + 1}")
            raise typer.Exit(1) from None
        rounds += outcome.rounds
        faults += len(outcome.faults)
        if digests:
            typer.echo(f"{seed} {outcome.digest}")
        elif sys.stdout.isatty():
            sys.stdout.write(f"\r\x1b[Kseed {seed}: {outcome.rounds} rounds")
    if sys.stdout.isatty() and not digests:
        sys.stdout.write("\r\x1b[K")
    typer.echo(
        f"{last - first} seeds, {faults} faults, {rounds} rounds: no violation "
        f"({time.monotonic() - started:.0f} s)"
    )


def _range(text: str) -> tuple[int, int]:
    first, colon, last = text.partition(":")
    if not (colon and first.isdigit() and last.isdigit() and int(first) < int(last)):
        raise UserError(f"--seeds {text!r} must be A:B with A < B, for example 0:100")
    return int(first), int(last)
