"""`farflung host`: start or continue a run on this machine."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from farflung.cli import aio
from farflung.cli.host_lines import HostLines
from farflung.cli.live_line import ticking
from farflung.cli.upload_options import (
    NoUpload,
    UploadData,
    UploadKeep,
    UploadKeepDays,
    UploadRate,
    UploadTo,
    upload_choice,
)
from farflung.config.load import check_advertised, check_endpoints, load_json, load_spec
from farflung.config.run import RunSpec
from farflung.errors import UserError
from farflung.run.home import (
    find_run,
    home_folder,
    locked,
    nothing_left,
    role_folder,
    running_process,
)
from farflung.swarm.recovery import Recovery

if TYPE_CHECKING:
    from farflung.run.host_folder import HostOptions

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
Extend = Annotated[
    list[str] | None,
    typer.Option(
        help="Change a run that is there, running or finished: rounds=+100, tokens=+N, min_peers=2,"
        " grace_s=5, schedule=wsd, weights=web:5,books:5 (every [[data.sources]]), ... "
        "(repeatable). A host that runs takes it over."
    ),
]
From = Annotated[
    str,
    typer.Option(
        "--from",
        help="Found the run from existing weights: a run's name or folder (its newest state), or a "
        "Hugging Face checkpoint's folder (Llama or Qwen3).",
    ),
]
Window = Annotated[
    str | None,
    typer.Option(
        help="HOST:PORT of the dashboard on this machine. Default: as before, at first the first "
        "free port from 127.0.0.1:7080 on."
    ),
]
NoWindow = Annotated[bool, typer.Option("--no-window", help="No dashboard.")]
Public = Annotated[
    str | None,
    typer.Option(help="HOST:PORT where everybody may see the dashboard: 0.0.0.0:7080."),
]
ShowMap = Annotated[
    bool | None,
    typer.Option("--map/--no-map", help="Show the regions that peers declare. Default: yes."),
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
    upload: UploadTo = None,
    no_upload: NoUpload = False,
    upload_keep: UploadKeep = None,
    upload_keep_days: UploadKeepDays = None,
    upload_rate: UploadRate = None,
    upload_data: UploadData = None,
    window: Window = None,
    no_window: NoWindow = False,
    public: Public = None,
    show_map: ShowMap = None,
    extend: Extend = None,
    found: From = "",
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

      farflung host run.toml --bind 0.0.0.0:7000 --advertise example.org:7000

      farflung host run.toml --upload s3://my-bucket/runs/first

      farflung host --public 0.0.0.0:7080    # the dashboard for everybody

      farflung host                          # continue after a stop or a crash

      farflung host next.toml --from my-run  # a new run from that one's weights

      farflung host --extend rounds=+100     # a finished run goes on, too

      farflung host --extend weights=web:5,books:5   # another mixture of sources

      farflung host --restore-from keeper/ --restore-from example.org:7100 \\
          --recovery-key recovery.key --old-host-is-stopped  # after a lost disk
    """
    from farflung.peer.disk_budget import parse_keep, parse_size
    from farflung.run.host import check_ports
    from farflung.run.host_folder import (
        UNBORN,
        HostOptions,
        has_run,
        load_settings,
        wanted_settings,
    )
    from farflung.run.restore import restore
    from farflung.run.upload import check_upload
    from farflung.run.window_settings import WindowChoice, check_window

    options = HostOptions(
        bind=bind,
        advertise=tuple(advertise) if advertise else None,
        keeper=keeper,
        recovery_file=recovery_file,
        max_disk_bytes=parse_size(max_disk) if max_disk else 0,
        upload=upload_choice(
            upload, no_upload, upload_keep, upload_keep_days, upload_rate, upload_data
        ),
        extend=tuple(extend or ()),
        keep=parse_keep(keep_results) if keep_results else None,
        window=WindowChoice(bind=window, public=public, none=no_window, map=show_map),
    )
    check_endpoints([*([bind] if bind else []), *(advertise or ())])
    spec = _spec(spec_file, spec_json, overrides, run_name)
    recovery = _recovery(spec, restore_from, recovery_key, old_host_is_stopped)
    folder = _folder(spec, recovery.run_name if recovery else run_name, recovery is not None)
    if extend and _handed_over(folder, extend):
        return
    wanted = wanted_settings(load_settings(folder), options)
    check_advertised(wanted.bind, wanted.advertise)
    check_upload(wanted.upload, keeper=wanted.keeper)
    if found:
        spec, options = _founded(found, spec, folder, options)
    with locked(folder), nothing_left(folder, UNBORN, lambda: has_run(folder)):
        aio.run(check_ports(wanted.bind, wanted.advertise))
        aio.run(check_window(options.window, wanted.bind))
        if recovery is not None:
            aio.run(restore(folder, restore_from or (), recovery, options, typer.echo))
        serve_folder(folder, spec, options)


def _handed_over(folder: Path, extend: list[str]) -> bool:
    """Whether a host that runs has taken the change. UserError when there is no run to change."""
    from farflung.run.extend import extend_running
    from farflung.run.host_folder import load_settings

    if load_settings(folder) is None:
        raise UserError(
            f"--extend changes a run that is there, and {folder} holds none; a new run takes its "
            "settings from its spec"
        )
    process = running_process(folder)
    if process is None:
        return False
    typer.echo(aio.run(extend_running(folder, process, extend)))
    return True


def _founded(
    found: str, spec: RunSpec | None, folder: Path, options: HostOptions
) -> tuple[RunSpec, HostOptions]:
    """The spec and options of a run that begins with existing weights. UserError."""
    from farflung.cli.loading import ProgressLine
    from farflung.run.genesis import founded
    from farflung.run.host_folder import check_unborn
    from farflung.trained.founding import found_from

    if spec is None:
        raise UserError(
            f"--from founds a new run, which needs a spec: host run.toml --from {found}"
        )
    check_unborn(folder)
    progress = ProgressLine("reading the weights", in_bytes=True)
    try:
        founding = found_from(found, progress)
    finally:
        progress.clear()
    return founded(spec, founding), dataclasses.replace(options, founding=founding)


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


def serve_folder(folder: Path, spec: RunSpec | None, options: HostOptions) -> None:
    """Open a locked folder, host its run and print what happens, until the end or Ctrl-C."""
    from farflung.run.host import open_host

    lines = HostLines()
    this = open_host(folder, spec, options, lines.say, lines.see)
    try:
        aio.run(_serve(this, lines))
    finally:
        lines.end()


async def _serve(this: object, lines: HostLines) -> None:
    from farflung.run.host import Host
    from farflung.run.join import leaving_on_signals

    assert isinstance(this, Host)
    await this.start()
    if disk := this.forecast():
        lines.note(f"keeper's disk: {disk}")
    _announce(this.invite, this.only_local)
    me = asyncio.current_task()
    assert me is not None
    with leaving_on_signals(lambda _: _cancel(me)):
        try:
            async with ticking(lines.tick, this.log.emit):
                outcome = await this.run()
        except asyncio.CancelledError:
            me.uncancel()
            outcome = "stopped; `farflung host` continues"
    lines.end()
    typer.echo(f"run {outcome}")
    if outcome == "finished":
        lines.say(
            f"see it again: farflung window {this.spec.name}; as files that open from a disk: "
            f"farflung report {this.spec.name} --html {this.spec.name}-report"
        )


def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()


def _announce(invite: str, only_local: bool) -> None:
    typer.echo("\nInvite (give it only to people whom you trust):\n")
    typer.echo(f"  farflung join {invite}\n")
    if only_local:
        typer.echo("This invite works on this machine only; give --advertise HOST:PORT")
