"""`farflung join`: take part in a run."""

from __future__ import annotations

import math
import os
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from farflung.cli import aio
from farflung.cli.news import News
from farflung.config.load import check_advertised, check_endpoints
from farflung.errors import UserError
from farflung.events import (
    Applied,
    Event,
    InnerStateLoaded,
    ModelMeasured,
    NoCoordinator,
    Reconnected,
    Resynced,
    RunKnown,
    SnapshotFetched,
    StateProgress,
    Trained,
    TrainerRestarted,
)
from farflung.ids import GUESTS, Role
from farflung.inner.options import ENV_COMPILE, ENV_PROFILE
from farflung.inner.shards import MOST_RANKS
from farflung.run.home import (
    JOURNAL,
    find_run,
    home_folder,
    locked,
    nothing_left,
    role_folder,
)
from farflung.words import counted

if TYPE_CHECKING:
    from farflung.run.membership import JoinOptions

MAX_PATH = 1024
REMIND_S = 60.0


def join(
    pasted: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[INVITE]",
            help="The host's invite (ff1...), a file that holds it, or - to read it from the "
            "input. Leave out to continue.",
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="How others see this peer.")] = "",
    region: Annotated[str, typer.Option(help="Where it is, for people.")] = "",
    bind: Annotated[
        str | None,
        typer.Option(
            help="HOST:PORT where other peers can dial this one. Default: as before; at first "
            "none, except in a run on this machine."
        ),
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
            help="Limit on log, snapshots and data here: 20GiB. Default: half of what is free."
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
    role: Annotated[
        str,
        typer.Option(
            help="trainer, or evaluator: trains nothing and measures the model, so that no trainer "
            "has to. Default: as before, at first what the invite says."
        ),
    ] = "",
    gpus: Annotated[
        str,
        typer.Option(help="GPUs that train together as this one peer, a rank on each: 0,1. Kept."),
    ] = "",
    ranks: Annotated[
        int, typer.Option(help="Processes that train together on CPUs; with GPUs say --gpus.")
    ] = 0,
    no_compile: Annotated[
        bool,
        typer.Option("--no-compile", help="Train without torch.compile on a GPU; CPUs never do."),
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Write a torch trace of a few steps, once.")
    ] = False,
    run_name: Annotated[
        str, typer.Option("--run", help="Which run of FARFLUNG_HOME to continue.")
    ] = "",
) -> None:
    """Join a run: fetch spec, data and weights, then train until the run is complete.

    Examples:

      farflung join ff1...

      farflung join ff1... --bind 0.0.0.0:7100 --advertise example.org:7100

      farflung join ff1... --gpus 0,1        # one peer of two GPUs

      farflung join ff1... --role evaluator  # measures the model, trains nothing

      farflung join invite.txt  # a file keeps it out of the process list

      farflung join             # continue with the same identity

      farflung join --profile   # and write a torch trace of a few steps

    A host that does not answer yet is waited for. Ctrl-C leaves.
    """
    from farflung.peer.disk_budget import parse_size
    from farflung.run.join import UNBORN, check_same_role, check_same_run, wanted_options
    from farflung.run.membership import JoinOptions, load_membership
    from farflung.swarm.invite import parse_invite

    if inner_state not in ("", "fresh", "donor"):
        raise UserError(f"--inner-state {inner_state!r} must be fresh or donor")
    wanted_role = _role(role, trainer)
    devices = parse_gpus(gpus, ranks)
    invite = read_invite(pasted or [])
    if invite:
        name_of_run = parse_invite(invite).run_name
        if run_name and run_name != name_of_run:
            raise UserError(
                f"--run {run_name} names a run to continue, the invite is for {name_of_run!r}; "
                f"leave one of the two out"
            )
        folder = role_folder(home_folder(), name_of_run, "peer")
    else:
        folder = find_run(home_folder(), run_name, "peer")
    known = load_membership(folder)
    if known is None and not invite:
        raise UserError(f"{folder} holds no membership; give the invite: farflung join ff1...")
    check_same_run(known, invite, folder)
    check_same_role(known, wanted_role, folder)
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
            role=wanted_role,
            ranks=len(devices) or ranks,
            gpus=devices,
        ),
        invite,
    )
    if not options.outbound_only:
        check_advertised(options.bind or "", options.advertise)
    if no_compile:
        os.environ[ENV_COMPILE] = "off"
    if profile:
        os.environ[ENV_PROFILE] = "on"
        typer.echo(f"a trace of a few steps will be in {folder / 'profile'}")
    hidden = options.outbound_only and not (outbound_only or (known and known.outbound_only))
    with locked(folder), nothing_left(folder, UNBORN, lambda: _has_run(folder)):
        line = _JoinLine(options.name, hidden=hidden)
        aio.run(_take_part(folder, invite or (known.invite if known else ""), options, line))


def parse_gpus(text: str, ranks: int) -> tuple[str, ...]:
    """The devices of `--gpus`. UserError unless they are different numbers, or beside --ranks."""
    if ranks < 0 or ranks > MOST_RANKS:
        raise UserError(f"--ranks {ranks} must be in 1..{MOST_RANKS}")
    if not text:
        return ()
    devices = tuple(part.strip() for part in text.split(","))
    if not all(d.isdigit() for d in devices) or len({int(d) for d in devices}) < len(devices):
        raise UserError(f"--gpus {text!r} must be different numbers of GPUs, such as 0,1")
    if ranks not in (0, len(devices)):
        raise UserError(
            f"--gpus {text} starts {len(devices)} ranks, not {ranks}; leave --ranks out"
        )
    return devices


def _role(text: str, trainer: str) -> Role | None:
    """UserError for a role that nobody joins as."""
    if text not in ("", *GUESTS):
        raise UserError(f"--role {text!r} must be trainer or evaluator")
    if text == Role.EVALUATOR and trainer:
        raise UserError("an evaluator trains nothing; leave --trainer out, or --role evaluator")
    return Role(text) if text else None


def read_invite(pasted: list[str]) -> str:
    """The invite in what was pasted, in a file or in the input; empty when nothing was given.

    Raises UserError for a file that cannot be read.
    """
    from farflung.swarm.invite import tidy

    words = " ".join(pasted).strip()
    if words == "-":
        return tidy(sys.stdin.read())
    path = Path(words)
    if words and len(words) < MAX_PATH and not tidy(words).startswith("ff1") and path.is_file():
        try:
            return tidy(path.read_text("utf-8-sig"))
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise UserError(f"cannot read the invite in {path}: {reason}") from None
    return tidy(words)


def _has_run(folder: Path) -> bool:
    """The node has met its run: its copy of the journal holds more than a header."""
    from farflung.swarm.journal import HEADER

    path = folder / JOURNAL
    return path.exists() and path.stat().st_size > len(HEADER)


async def _take_part(folder: Path, invite: str, options: JoinOptions, line: _JoinLine) -> None:
    from farflung.run.history import picture_of
    from farflung.run.join import finished_before, prepare, the_end

    if end := await finished_before(folder):
        typer.echo(end)
        return
    joined = await prepare(folder, invite, options, line.fetched, line.see)
    line.host = joined.agent.config.coordinators[0]
    outcome = ""
    try:
        outcome = await joined.run()
    finally:
        line.end()
        if given := joined.contribution():
            typer.echo(f"{options.name} {given}")
    if outcome == "finished":
        picture = picture_of(joined.agent.node.follower.journal.records())
        typer.echo(the_end(folder, picture))
    else:
        typer.echo(f"{options.name}: {outcome}; `farflung join` continues")


PLAIN_EVERY_S = 10.0


def progress_line(event: StateProgress) -> str:
    """`fetching state 120.3 of 512.0 MiB, 14.2 MiB/s from 3 peers, ETA 0:28`."""
    mib = 2**20
    eta = f"{int(event.eta_s) // 60}:{int(event.eta_s) % 60:02d}" if event.eta_s >= 0 else "-:--"
    return (
        f"fetching state {event.here / mib:.1f} of {event.total / mib:.1f} MiB, "
        f"{event.bytes_per_s / mib:.1f} MiB/s from {counted(event.sources, 'peer')}, ETA {eta}"
    )


class _JoinLine:
    """One live line on a terminal; one plain line per round elsewhere."""

    def __init__(self, name: str = "", *, hidden: bool = False) -> None:
        """`hidden`: nobody asked for it, but this peer dials out only; it is told once."""
        self._name = name
        self._hidden = hidden
        self._met = False
        self.host = ""
        """Where the run's host is."""
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
                trained = f"loss {self._loss:7.4f}  {self._rate:,.0f} tok/s  "
                self._show(
                    f"round {event.round:5d}  {'' if math.isnan(self._loss) else trained}"
                    f"{'contributed' if event.contributed else 'followed'}",
                    keep=not self._live,
                )
            case ModelMeasured():
                self._show(
                    f"held-out text: {event.bits_per_byte:.3f} bits per byte after "
                    f"{event.next_round} rounds (measured here, {event.took_s:.0f} s)",
                    True,
                )
            case StateProgress():
                self._progress(event)
            case SnapshotFetched():
                self._show(
                    f"state of round {event.next_round} fetched in {event.took_s:.1f} s "
                    f"from {counted(event.sources, 'peer')}",
                    True,
                )
            case RunKnown():
                self._met = True
                self._begin(event)
            case NoCoordinator() if not self._met:
                since = f" for {event.for_s / 60:.0f} min" if event.for_s >= REMIND_S else ""
                self._show(f"waiting for the host{since}: {event.reason} (Ctrl-C leaves)", True)
            case NoCoordinator() if event.tries == 1:
                self._show(f"! {event.reason}; training goes on, trying again", True)
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

    def _begin(self, event: RunKnown) -> None:
        """The first line of a healthy start."""
        size = f"{event.model}, {event.parameters:,} parameters"
        self._show(
            f"{self._name} joins run {event.name} of {self.host}: {size}, "
            f"{counted(event.rounds, 'round')}",
            True,
        )
        if event.finished:
            self._show("the run is finished; fetching its last state", True)
        if self._hidden:
            self._show(
                "  it dials out only: the run is on other machines, and no --bind HOST:PORT says "
                "where they could dial this one",
                True,
            )

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
