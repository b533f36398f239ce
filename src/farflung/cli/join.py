"""`farflung join`: take part in a run."""

from __future__ import annotations

import math
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from farflung.cli import aio
from farflung.cli.news import News
from farflung.config.load import check_advertised, check_endpoints
from farflung.errors import UserError
from farflung.events import (
    Applied,
    Event,
    InnerStateLoaded,
    NoCoordinator,
    Reconnected,
    Resynced,
    SnapshotFetched,
    StateProgress,
    Trained,
    TrainerRestarted,
)
from farflung.run.home import find_only, home_folder, locked, role_folder


def join(
    invite: Annotated[
        str, typer.Argument(help="The host's invite (ff1...). Leave out to continue.")
    ] = "",
    name: Annotated[str, typer.Option(help="How others see this peer.")] = "",
    region: Annotated[str, typer.Option(help="Where it is, for people.")] = "",
    bind: Annotated[
        str | None,
        typer.Option(help="HOST:PORT for other peers. Default: as before, at first 127.0.0.1:0."),
    ] = None,
    advertise: Annotated[
        list[str] | None, typer.Option(help="HOST:PORT that other peers dial (repeatable).")
    ] = None,
    outbound_only: Annotated[
        bool, typer.Option("--outbound-only", help="Accept no connections (behind a NAT).")
    ] = False,
    trainer: Annotated[
        str, typer.Option(help="Own trainer program that calls farflung.attach.")
    ] = "",
    coordinator: Annotated[
        list[str] | None,
        typer.Option(help="HOST:PORT of a coordinator that moved (repeatable); kept."),
    ] = None,
    max_disk: Annotated[
        str,
        typer.Option(
            help="Limit on log, snapshots and data here: 20GiB. Default: most of the disk."
        ),
    ] = "",
    data_cache: Annotated[
        str,
        typer.Option(
            help="Limit on rows kept of sources in a store: 50GiB. Default: a quarter of what is "
            "free, at most 20GiB."
        ),
    ] = "",
    inner_state: Annotated[
        str,
        typer.Option(
            help="Optimizer of a new peer in mid-run: fresh, or a donor's state. "
            "(A peer that restarts goes on with its own.)"
        ),
    ] = "",
    run_name: Annotated[
        str, typer.Option("--run", help="Which run of FARFLUNG_HOME to continue.")
    ] = "",
) -> None:
    """Join a run: fetch spec, data and weights, then train until the run is complete.

    Examples:

      farflung join ff1...

      farflung join ff1... --bind 0.0.0.0:7100 --advertise my.example.org:7100

      farflung join            (continue with the same identity)
    """
    from farflung.peer.disk_budget import parse_size
    from farflung.run.join import JoinOptions, load_membership, wanted_options
    from farflung.swarm.invite import parse_invite

    if inner_state not in ("", "fresh", "donor"):
        raise UserError(f"--inner-state {inner_state!r} must be fresh or donor")
    if invite:
        folder = role_folder(home_folder(), parse_invite(invite).run_name, "peer")
    elif run_name:
        folder = role_folder(home_folder(), run_name, "peer")
    else:
        folder = find_only(home_folder(), "peer")
    known = load_membership(folder)
    if known is None and not invite:
        raise UserError(f"{folder} holds no membership; give the invite: farflung join ff1...")
    check_endpoints([*([bind] if bind else []), *(advertise or ()), *(coordinator or ())])
    options = wanted_options(
        known,
        JoinOptions(
            name=name,
            region=region,
            bind=bind,
            advertise=tuple(advertise or ()),
            outbound_only=outbound_only,
            trainer=tuple(shlex.split(trainer)),
            coordinators=tuple(coordinator or ()),
            max_disk_bytes=parse_size(max_disk) if max_disk else 0,
            data_cache_bytes=parse_size(data_cache, "--data-cache") if data_cache else 0,
            inner_state=inner_state,
        ),
        invite,
    )
    if not options.outbound_only:
        check_advertised(options.bind or "", options.advertise)
    with locked(folder):
        aio.run(_take_part(folder, invite or (known.invite if known else ""), options))


async def _take_part(folder: Path, invite: str, options: object) -> None:
    from farflung.run.join import JoinOptions, prepare

    assert isinstance(options, JoinOptions)
    line = _JoinLine()
    joined = await prepare(folder, invite, options, line.fetched, line.see)
    typer.echo(f"{joined.agent.config.name} joins run {joined.agent.config.run}")
    outcome = await joined.run()
    line.end()
    typer.echo(f"{joined.agent.config.name}: {outcome}")


PLAIN_EVERY_S = 10.0


def progress_line(event: StateProgress) -> str:
    """`fetching state 120.3 of 512.0 MiB, 14.2 MiB/s from 3 peers, ETA 0:28`."""
    mib = 2**20
    eta = f"{int(event.eta_s) // 60}:{int(event.eta_s) % 60:02d}" if event.eta_s >= 0 else "-:--"
    peers = f"{event.sources} peer{'s' if event.sources != 1 else ''}"
    return (
        f"fetching state {event.here / mib:.1f} of {event.total / mib:.1f} MiB, "
        f"{event.bytes_per_s / mib:.1f} MiB/s from {peers}, ETA {eta}"
    )


class _JoinLine:
    """One live line on a terminal; one plain line per round elsewhere."""

    def __init__(self) -> None:
        self._live = sys.stdout.isatty()
        self._loss = float("nan")
        self._rate = 0.0
        self._shown_s = -PLAIN_EVERY_S
        self._news = News(time.monotonic)

    def fetched(self, here: int, total: int) -> None:
        if self._live:
            self._show(f"fetching data {here / 2**20:.1f} of {total / 2**20:.1f} MiB")

    def see(self, event: Event) -> None:
        match event:
            case Trained():
                if event.steps:  # a plan without steps says nothing of either
                    self._loss = event.loss
                    self._rate = event.tokens / event.compute_s if event.compute_s else 0.0
            case Applied():
                loss = "      -" if math.isnan(self._loss) else f"{self._loss:7.4f}"
                self._show(
                    f"round {event.round:5d}  loss {loss}  {self._rate:,.0f} tok/s  "
                    f"{'contributed' if event.contributed else 'followed'}",
                    keep=not self._live,
                )
            case StateProgress():
                self._progress(event)
            case SnapshotFetched():
                self._show(
                    f"state of round {event.next_round} fetched in {event.took_s:.1f} s "
                    f"from {event.sources} peer{'s' if event.sources != 1 else ''}",
                    True,
                )
            case NoCoordinator() if event.tries == 1:
                self._show(f"! {event.reason}; trying again", True)
            case NoCoordinator():
                since = f"{event.for_s / 60:.0f} min, {event.tries} tries"
                self._show(f"! no coordinator for {since}: {event.reason}", True)
            case InnerStateLoaded():
                whose = "my own" if event.source == "own" else f"{event.source[:8]}'s"
                self._show(f"optimizer goes on with {whose} state of round {event.round}", True)
            case Reconnected():
                self._show(f"coordinator back after {event.after_s:.1f} s", True)
            case TrainerRestarted() | Resynced():
                self._show(f"! {event.reason}", True)
            case _:
                trouble = self._news.of(event)
                if trouble:
                    self._show(f"! {trouble}", True)

    def _progress(self, event: StateProgress) -> None:
        """The live line; a plain line per ten seconds elsewhere."""
        now_s = time.monotonic()
        if self._live or now_s - self._shown_s >= PLAIN_EVERY_S:
            self._shown_s = now_s
            self._show(progress_line(event))

    def _show(self, text: str, keep: bool = False) -> None:
        if self._live:
            sys.stdout.write(f"\r\x1b[K{text}" + ("\n" if keep else ""))
            sys.stdout.flush()
        else:
            typer.echo(text)

    def end(self) -> None:
        if self._live:
            sys.stdout.write("\n")
