"""`farflung host`: start or continue a run on this machine."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from farflung.cli import aio
from farflung.cli.news import News
from farflung.config.load import check_advertised, check_endpoints, load_json, load_spec
from farflung.config.run import RunSpec
from farflung.errors import UserError
from farflung.events import (
    Event,
    ForkDetected,
    GenerationClosed,
    GenerationOpened,
    JournalBlocked,
    JournalWritable,
    Paused,
    RoundAbandoned,
    RoundCommitted,
    RunFinished,
)
from farflung.run.home import find_run, home_folder, locked, nothing_left, role_folder
from farflung.swarm.recovery import Recovery

Bind = Annotated[
    str | None,
    typer.Option(
        help="HOST:PORT for peers; 0.0.0.0:PORT accepts other machines. "
        "Default: as before, at first 127.0.0.1:7000."
    ),
]
Advertise = Annotated[
    list[str] | None,
    typer.Option(help="HOST:PORT that peers dial (repeatable; a DNS name is best)."),
]
WithKeeper = Annotated[
    bool | None,
    typer.Option(
        "--keeper/--no-keeper",
        help="Run a keeper beside the coordinator (second copy of all state). Default: yes.",
    ),
]
RecoveryFile = Annotated[
    Path | None,
    typer.Option(help="Write the recovery key to this file instead of showing it."),
]
RestoreFrom = Annotated[
    list[str] | None,
    typer.Option(
        help="Make a lost host again from a node's copy of the journal: its folder, or HOST:PORT "
        "of its data port (repeatable: name all that you can reach)."
    ),
]
RecoveryKey = Annotated[
    str, typer.Option(help="With --restore-from: the recovery key's file, or its text.")
]
OldHostIsStopped = Annotated[
    bool,
    typer.Option(
        "--old-host-is-stopped",
        help="With --restore-from: I assert that the old host will never run again.",
    ),
]


def host(
    spec_file: Annotated[
        Path | None, typer.Argument(help="Run spec (TOML). Leave out to continue a run.")
    ] = None,
    bind: Bind = None,
    advertise: Advertise = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override a setting: outer.rounds=100")
    ] = None,
    keeper: WithKeeper = None,
    max_disk: Annotated[
        str,
        typer.Option(
            help="Limit on the keeper's log and snapshots: 20GiB. Default: half of what is free."
        ),
    ] = "",
    keep_results: Annotated[
        str,
        typer.Option(
            help="How long the keeper keeps results for `verify`: 1000 rounds, or 36h, 7d. "
            "Default: until --max-disk."
        ),
    ] = "",
    run_name: Annotated[
        str, typer.Option("--run", help="Which run of FARFLUNG_HOME to continue.")
    ] = "",
    recovery_file: RecoveryFile = None,
    restore_from: RestoreFrom = None,
    recovery_key: RecoveryKey = "",
    old_host_is_stopped: OldHostIsStopped = False,
    spec_json: Annotated[
        Path | None, typer.Option(help="A resolved spec (JSON), as a run's folder keeps it.")
    ] = None,
) -> None:
    """Start a run (coordinator and keeper) and print its invite.

    Examples:

      farflung host run.toml --bind 0.0.0.0:7000 --advertise train.example.org:7000

      farflung host            (continue after a stop or a crash)

      farflung host --restore-from keeper/ --restore-from peer.example.org:7100
      --recovery-key recovery.key --old-host-is-stopped      (after a lost disk)
    """
    from farflung.peer.disk_budget import parse_keep, parse_size
    from farflung.run.host import check_ports, open_host
    from farflung.run.host_folder import (
        UNBORN,
        HostOptions,
        has_run,
        load_settings,
        wanted_settings,
    )
    from farflung.run.restore import restore

    options = HostOptions(
        bind=bind,
        advertise=tuple(advertise) if advertise else None,
        keeper=keeper,
        recovery_file=recovery_file,
        max_disk_bytes=parse_size(max_disk) if max_disk else 0,
        keep=parse_keep(keep_results) if keep_results else None,
    )
    check_endpoints([*([bind] if bind else []), *(advertise or ())])
    spec = _spec(spec_file, spec_json, overrides, run_name)
    recovery = _recovery(spec, restore_from, recovery_key, old_host_is_stopped)
    folder = _folder(spec, recovery.run_name if recovery else run_name, recovery is not None)
    wanted = wanted_settings(load_settings(folder), options)
    check_advertised(wanted.bind, wanted.advertise)
    with locked(folder), nothing_left(folder, UNBORN, lambda: has_run(folder)):
        aio.run(check_ports(wanted.bind, wanted.advertise))
        if recovery is not None:
            aio.run(restore(folder, restore_from or (), recovery, options, typer.echo))
        this = open_host(folder, spec, options, typer.echo, _Printer().see)
        aio.run(_serve(this))


def _recovery(
    spec: RunSpec | None, restore_from: list[str] | None, key: str, asserted: bool
) -> Recovery | None:
    """The recovery key when a host is to be restored, None otherwise. UserError."""
    from farflung.run.restore import read_recovery

    if not restore_from:
        if key or asserted:
            raise UserError(
                "--recovery-key and --old-host-is-stopped restore a lost host; say from which "
                "nodes with --restore-from"
            )
        return None
    if spec is not None:
        raise UserError("a restored run has the spec of its journal; leave spec and --set out")
    if not key:
        raise UserError(
            "restoring needs the recovery key, which `farflung host` showed at the run's birth; "
            "give its file or its text with --recovery-key"
        )
    if not asserted:
        raise UserError(
            "two coordinators would fork the run; stop the old host for good and say so with "
            "--old-host-is-stopped"
        )
    return read_recovery(key)


def _spec(
    spec_file: Path | None, spec_json: Path | None, overrides: list[str] | None, run_name: str
) -> RunSpec | None:
    """The spec of a new run; None: one that exists goes on. UserError."""
    if spec_file is None and spec_json is None:
        if overrides:
            raise UserError(
                f"--set {overrides[0]} is for a new run, and no spec is given: farflung host "
                f"run.toml --set {overrides[0]}; a run that exists keeps the settings it was "
                f"born with"
            )
        return None
    if spec_file is not None and spec_json is not None:
        raise UserError("a run has one spec; give the file or --spec-json")
    spec = (
        load_spec(spec_file, overrides or ())
        if spec_json is None
        else load_json(spec_json, overrides or ())
    )
    if run_name and run_name != spec.name:
        raise UserError(
            f"--run {run_name} names a run to continue, the spec's name is {spec.name!r}; leave "
            f"one of the two out"
        )
    return spec


def _folder(spec: RunSpec | None, run_name: str, new: bool = False) -> Path:
    if spec is not None:
        return role_folder(home_folder(), spec.name, "host")
    if new:
        return role_folder(home_folder(), run_name, "host")
    return find_run(home_folder(), run_name, "host")


async def _serve(this: object) -> None:
    from farflung.run.host import Host
    from farflung.run.join import leaving_on_signals

    assert isinstance(this, Host)
    await this.start()
    _announce(this.invite, this.only_local, this.forecast())
    me = asyncio.current_task()
    assert me is not None
    with leaving_on_signals(lambda _: _cancel(me)):
        try:
            outcome = await this.run()
        except asyncio.CancelledError:
            me.uncancel()
            outcome = "stopped; `farflung host` continues"
    typer.echo(f"run {outcome}")


def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()


def _announce(invite: str, only_local: bool, disk: str) -> None:
    if disk:
        typer.echo(f"keeper's disk: {disk}")
    typer.echo("\nInvite (give it only to people whom you trust):\n")
    typer.echo(f"  farflung join {invite}\n")
    if only_local:
        typer.echo("This invite works on this machine only; give --advertise HOST:PORT")


class _Printer:
    """One line per round, one per thing an operator should know."""

    def __init__(self) -> None:
        self._news = News(time.monotonic)

    def see(self, event: Event) -> None:
        trouble = self._news.of(event)
        if isinstance(event, ForkDetected):
            return  # the command ends with its sentence
        if trouble:
            typer.echo(f"! {trouble}", err=True)
        else:
            _print_progress(event)


def _print_progress(event: Event) -> None:
    match event:
        case RoundCommitted():
            extra = "" if event.replicated else "  not replicated"
            typer.echo(
                f"round {event.round:5d}  loss {event.loss:7.4f}  {event.contributors} peers  "
                f"{event.total_tokens:,} tokens  {event.took_s:5.1f} s{extra}"
            )
        case RoundAbandoned():
            typer.echo(f"round {event.round:5d}  abandoned: {event.reason}")
        case GenerationOpened():
            typer.echo(f"+ {event.name} takes part from round {event.next_round}")
        case GenerationClosed():
            typer.echo(f"- {event.name}: {event.reason}; {event.returned} samples returned")
        case Paused():
            typer.echo(f"  {event.reason}")
        case JournalBlocked():
            since = f" for {event.for_s / 60:.0f} min" if event.for_s >= 60 else ""
            typer.echo(f"! journal: {event.reason}; paused{since}: nothing is committed", err=True)
        case JournalWritable():
            typer.echo(f"  journal: written again after {event.after_s:.0f} s; the run goes on")
        case RunFinished():
            typer.echo(f"complete: {event.rounds} rounds, {event.tokens:,} tokens")
        case _:
            pass
