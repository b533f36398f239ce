"""`farflung resume`: host a run again from an archive or a node's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from farflung.cli import aio
from farflung.cli.host import Advertise, Bind, serve_folder
from farflung.cli.loading import ProgressLine
from farflung.cli.upload_options import (
    UploadData,
    UploadKeep,
    UploadKeepDays,
    UploadRate,
    UploadTo,
    upload_choice,
)
from farflung.config.load import check_advertised, check_endpoints
from farflung.errors import UserError
from farflung.run.home import home_folder, locked, role_folder


def resume(
    source: Annotated[
        str,
        typer.Argument(help="An archive (s3://BUCKET/PREFIX or its folder), or a node's folder."),
    ],
    recovery_key: Annotated[
        str,
        typer.Option(
            help="The recovery key's file, or its text. Default: the one in a run's folder."
        ),
    ] = "",
    old_host_is_stopped: Annotated[
        bool,
        typer.Option(
            "--old-host-is-stopped", help="I assert that the old host will never run again."
        ),
    ] = False,
    restore_from: Annotated[
        list[str] | None,
        typer.Option(
            help="More copies of the journal: a node's folder, or HOST:PORT of its data port "
            "(repeatable). Name all that you can reach: the longest wins."
        ),
    ] = None,
    bind: Bind = None,
    advertise: Advertise = None,
    max_disk: Annotated[
        str, typer.Option(help="Limit on the keeper's log and snapshots: 20GiB.")
    ] = "",
    upload: UploadTo = None,
    upload_keep: UploadKeep = None,
    upload_keep_days: UploadKeepDays = None,
    upload_rate: UploadRate = None,
    upload_data: UploadData = None,
    fetch_only: Annotated[
        bool,
        typer.Option("--fetch-only", help="Make the folders and stop; `farflung host` continues."),
    ] = False,
) -> None:
    """Make host and keeper again and continue the run, with whatever peers then join.

    What is fetched is compared with its hash; a fetch that was cut off goes on when the same
    command is given again.

    Examples:

      farflung resume s3://my-bucket/runs/first --recovery-key recovery.key \\
          --old-host-is-stopped --bind 0.0.0.0:7000 --advertise example.org:7000

      farflung resume /backup/run --old-host-is-stopped  # the key is in it
    """
    from farflung.peer.disk_budget import parse_size
    from farflung.run.host_folder import HostOptions, wanted_settings
    from farflung.run.restore import read_recovery
    from farflung.run.resume import resume as make_folders
    from farflung.run.upload import check_upload

    aio.run(_check_source(source))
    if not old_host_is_stopped:
        raise UserError(
            "two coordinators would fork the run; stop the old host for good and say so with "
            "--old-host-is-stopped"
        )
    options = HostOptions(
        bind=bind,
        advertise=tuple(advertise) if advertise else None,
        max_disk_bytes=parse_size(max_disk) if max_disk else 0,
        upload=upload_choice(
            upload, False, upload_keep, upload_keep_days, upload_rate, upload_data
        ),
    )
    check_endpoints([*([bind] if bind else []), *(advertise or ())])
    wanted = wanted_settings(None, options)
    check_advertised(wanted.bind, wanted.advertise)
    check_upload(wanted.upload, keeper=wanted.keeper)
    recovery = read_recovery(recovery_key or _key_beside(source))
    folder = role_folder(home_folder(), recovery.run_name, "host")
    progress = ProgressLine("fetching", in_bytes=True)
    with locked(folder):
        aio.run(
            make_folders(
                folder,
                source,
                restore_from or (),
                recovery,
                options,
                typer.echo,
                progress,
            )
        )
        if fetch_only:
            typer.echo(f"{folder.parent} is ready; continue with: farflung host")
            return
        serve_folder(folder, None, options)


async def _check_source(source: str) -> None:
    """UserError, StoreError when there is nothing to resume from: told before all else."""
    from farflung.clock import ThreadWorkers
    from farflung.run.sources import locate

    workers = ThreadWorkers(1)
    try:
        await locate(source, workers)
    finally:
        workers.close()


def _key_beside(source: str) -> str:
    """A whole run's folder has its key."""
    for place in (Path(source), Path(source) / "host", home_folder() / source / "host"):
        if (place / "recovery.key").is_file():
            typer.echo(f"the recovery key is taken from {place / 'recovery.key'}")
            return str(place / "recovery.key")
    raise UserError(
        "resuming as the same run needs the recovery key, which `farflung host` showed at its "
        "birth and no archive holds; give its file or its text with --recovery-key"
    )
