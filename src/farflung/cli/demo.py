"""`farflung demo`: see it work on this machine."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from farflung.cli.host_lines import shown_window
from farflung.cli.reports import check_report, write_report
from farflung.cli.status import shown_sample
from farflung.config.load import from_table
from farflung.config.run import RunSpec
from farflung.errors import UserError
from farflung.events import WindowOpened
from farflung.words import counted

SIZES = ("demo", "tiny")


def demo(
    peers: Annotated[int, typer.Option(help="Trainers at the start (2 or more).")] = 3,
    rounds: Annotated[int, typer.Option(help="Rounds to commit.")] = 50,
    size: Annotated[str, typer.Option(help="Model preset: demo or tiny.")] = "demo",
    seed: Annotated[int, typer.Option(help="Seed of weights and sample order.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for all state and logs (default: a new one).")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write the report card as JSON to this file.")
    ] = None,
    fault: Annotated[
        bool, typer.Option("--fault/--no-fault", help="Kill one peer, let a new one join.")
    ] = True,
    solo: Annotated[
        bool, typer.Option("--solo/--no-solo", help="Train one peer alone for comparison.")
    ] = True,
    record: Annotated[
        str, typer.Option(help="results, or all (contributions too: verify checks reductions).")
    ] = "results",
) -> None:
    """Train a small Llama on Shakespeare with several peers: coordinator, keeper and peers are
    separate processes, talk over mutual TLS on loopback, and survive a kill.

    Examples:

      farflung demo

      farflung demo --peers 4 --rounds 20 --out demo-out --record all
    """
    from farflung.run.demo import DemoOptions, run_demo

    if peers < 2:
        raise UserError(f"--peers {peers} must be at least 2; one peer alone is the comparison")
    if size not in SIZES:
        raise UserError(
            f"--size {size!r} must be {' or '.join(SIZES)}: the demo trains on this machine's "
            f"processor; a run of your own takes any preset (farflung host run.toml)"
        )
    check_report(report)
    spec = demo_spec(peers, rounds, size, seed, record)
    folder = out or Path(tempfile.mkdtemp(prefix="farflung-demo-"))
    screen = _DemoScreen(rounds)
    with screen:
        result = run_demo(
            DemoOptions(spec=spec, out=folder, peers=peers, fault=fault, solo=solo), screen.watch
        )
    _print(result, folder)
    write_report(report, result, indent=2)
    if not result["hashes_equal"] or result["samples_duplicated"] or result["samples_lost"]:
        raise typer.Exit(1)


def demo_spec(peers: int, rounds: int, size: str, seed: int, record: str) -> RunSpec:
    """The demo's run: measured defaults (docs/decisions/0002)."""
    table: dict[str, Any] = {
        "name": "demo",
        "seed": seed,
        "record": record,
        "model": {"preset": size},
        "data": {"seed": seed},
        "outer": {"rounds": rounds},
        "swarm": {"start_peers": peers, "dead_s": 6.0},
    }
    return from_table(table)


class _DemoScreen:
    """A progress bar on a terminal, a line now and then elsewhere."""

    def __init__(self, rounds: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        from farflung.run.demo import Watch

        self._console = Console(highlight=False)
        self._live = self._console.is_terminal
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._live,
        )
        self._rounds = self._bar.add_task("rounds", total=rounds)
        self._solo: Any = None
        self._shown = -1
        self._notes: tuple[str, ...] = ()
        self._score: tuple[int, float] = (0, 0.0)
        self._dashboard = ""
        self.watch = Watch(
            stage=self._stage, picture=self._picture, solo=self._step, window=self._window
        )

    def __enter__(self) -> None:
        self._bar.start()

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def _stage(self, text: str) -> None:
        self._console.print(f"{text} ...")

    def _window(self, event: WindowOpened) -> None:
        line = shown_window(event)
        if line != self._dashboard:
            self._dashboard = line
            self._console.print(line, soft_wrap=True, markup=False)

    def _picture(self, picture: Any) -> None:
        for note in picture.notes:
            if note not in self._notes:
                self._console.print(f"  {note}")
        self._notes = picture.notes
        if picture.scores and picture.scores[-1] != self._score:
            self._score = rounds, bits = picture.scores[-1]
            prompt, text = picture.samples[0] if picture.samples else ("", "")
            drawn = shown_sample(prompt, text, width=60) if prompt + text else ""
            self._console.print(
                f"  {bits:.3f} bits per byte after {counted(rounds, 'round')}  {drawn}",
                markup=False,
                no_wrap=True,
                overflow="ellipsis",
            )
        if picture.committed == self._shown:
            return
        self._shown = picture.committed
        loss = "" if math.isnan(picture.loss_last) else f"loss {picture.loss_last:.3f}"
        text = f"{counted(len(picture.active), 'peer')}  {loss}"
        self._bar.update(self._rounds, completed=picture.committed, description=text)
        if not self._live and picture.committed % 5 == 0 and picture.committed:
            self._console.print(f"  round {picture.committed}: {text}")

    def _step(self, step: int, total: int) -> None:
        if self._solo is None:
            self._solo = self._bar.add_task("one peer alone", total=total)
        self._bar.update(self._solo, completed=step)


def _print(result: dict[str, Any], folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from farflung.run.demo import PAGES

    table = Table(title="farflung demo", show_header=False)
    for name, value in _rows(result):
        table.add_row(name, value)
    console = Console(highlight=False)
    console.print(table)
    if result["sample"]:
        console.print("\nA sample of the swarm's model:\n", style="bold")
        console.print(result["sample"], markup=False)
    for line in (  # not wrapped: they are there to be copied
        f"\nEverything is in {folder}",
        f"Watch it again:          {folder / PAGES / 'index.html'} (open it in a browser)",
        f"A picture of it:         farflung report {folder} --png demo.png",
        f"Its dashboard:           farflung window {folder}",
        f"Recompute it:            farflung verify {folder}",
        f'Go on with its text:     farflung generate {folder} --prompt "What say you"',
        f"Take the model with you: farflung export {folder} --hf my-model",
    ):
        console.print(line, soft_wrap=True, markup=False)


def _rows(r: dict[str, Any]) -> list[tuple[str, str]]:
    def number(value: Any, form: str) -> str:
        return "-" if value is None else format(value, form)

    moved = max(r["bytes_up_per_peer"], r["bytes_down_per_peer"])
    return [
        ("rounds committed", f"{r['rounds_committed']} ({r['rounds_abandoned']} abandoned)"),
        ("deaths, joins", f"{r['deaths']}, {r['joins']}"),
        ("all peers bit-identical", "yes" if r["hashes_equal"] else "NO"),
        (
            "samples duplicated, lost",
            f"{r['samples_duplicated']}, {r['samples_lost']}",
        ),
        ("loss, first and last round", f"{r['loss_first']:.3f} -> {r['loss_last']:.3f}"),
        (
            "bits per byte, held out",
            f"swarm {number(r['bpb_last'], '.3f')}   one peer alone {number(r['solo_bpb'], '.3f')}",
        ),
        (
            "seconds",
            f"swarm {r['swarm_seconds']:.0f}   one peer alone {number(r['solo_seconds'], '.0f')}"
            f"   all {r['seconds']:.0f}",
        ),
        (
            "bytes per peer",
            f"{moved / 1e6:.1f} MB; data-parallel (bf16 ring) "
            f"{r['ddp_bytes_per_peer'] / 1e6:,.0f} MB: {number(r['reduction'], ',.0f')} times less",
        ),
        ("time training", f"{100 * r['utilisation']:.0f} %"),
        ("time lost to the death", f"{r['time_lost_to_death_s']:.1f} s"),
    ]
