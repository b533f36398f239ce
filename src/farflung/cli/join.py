"""`farflung join`: take part in a run."""

from __future__ import annotations

import functools
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from farflung import regions
from farflung.cli import aio
from farflung.cli.join_line import JoinLine
from farflung.cli.live_line import ticking
from farflung.config.load import check_advertised, check_endpoints
from farflung.errors import UserError
from farflung.events import Emit, Event
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

if TYPE_CHECKING:
    from farflung.run.join import Joined
    from farflung.run.membership import JoinOptions

MAX_PATH = 1024


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
    region: Annotated[
        str,
        typer.Option(help="Where it is, for the map: a city, or its airport's code (FRA)."),
    ] = "",
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
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Only say what the run would need of this machine. An invite is redeemed for it.",
        ),
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

      farflung join ff1... --dry-run  # memory, speed and bytes; trains nothing

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
            region=regions.resolve(region) if region else "",
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
    if dry_run:
        from farflung.cli.dry_run import show_dry_run

        show_dry_run(folder, invite, known, options)
        return
    if no_compile:
        os.environ[ENV_COMPILE] = "off"
    if profile:
        os.environ[ENV_PROFILE] = "on"
        typer.echo(f"a trace of a few steps will be in {folder / 'profile'}")
    hidden = options.outbound_only and not (outbound_only or (known and known.outbound_only))
    with locked(folder), nothing_left(folder, UNBORN, lambda: _has_run(folder)):
        line = JoinLine(options.name, hidden=hidden)
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


async def _take_part(folder: Path, invite: str, options: JoinOptions, line: JoinLine) -> None:
    from farflung.run.history import picture_of
    from farflung.run.join import finished_before, the_end

    if end := await finished_before(folder):
        typer.echo(end)
        return
    joined, outcome = None, ""
    try:
        joined, outcome = await _live(folder, invite, options, line)
    finally:
        line.end()
    if outcome == "finished":
        picture = picture_of(joined.agent.node.follower.journal.records())
        typer.echo(the_end(folder, picture))
    else:
        typer.echo(f"{options.name}: {outcome}; `farflung join` continues")


async def _live(
    folder: Path, invite: str, options: JoinOptions, line: JoinLine
) -> tuple[Joined, str]:
    """Take part until the end, with the live line beside it."""
    from farflung.run.join import prepare

    told: list[Emit] = []  # where a fault of the line is told; before the log is there, nowhere

    def tell(event: Event) -> None:
        for emit in told:
            emit(event)

    async with ticking(line.tick, tell):
        joined = await prepare(folder, invite, options, line.fetched, line.see)
        told.append(joined.files.log.emit)
        _acquaint(line, joined)
        try:
            return joined, await joined.run()
        finally:
            line.end()
            if given := joined.contribution():
                line.say(f"{options.name} {given}")


def _acquaint(line: JoinLine, joined: Joined) -> None:
    """The line may look at the node from now on."""
    from farflung.run.text_rate import bytes_per_token

    agent = joined.agent

    @functools.cache
    def rate() -> float:  # asked when something was trained: the data is here
        return bytes_per_token(joined.files.folder / "data", agent.node.follower.spec)

    line.host = agent.config.coordinators[0]
    line.glance = agent.glance
    line.bytes_per_token = rate
