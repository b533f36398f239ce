"""The options of `host` and `resume` that say where the keeper's snapshots are archived."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from farflung.archive.settings import UploadChoice

UploadTo = Annotated[
    str | None,
    typer.Option(
        "--upload",
        help="Archive the keeper's snapshots in the background: s3://BUCKET/PREFIX or a folder. "
        "Remembered.",
    ),
]
NoUpload = Annotated[
    bool, typer.Option("--no-upload", help="Upload nothing from now on; what is there stays.")
]
UploadKeep = Annotated[
    int | None, typer.Option(help="Snapshots that stay in the archive. Default: 4.")
]
UploadKeepDays = Annotated[
    float | None,
    typer.Option(help="Remove older ones too, but never the newest. Default: 0, any age."),
]
UploadRate = Annotated[
    str | None, typer.Option(help="At most this much per second: 2MB. Default: no limit.")
]
UploadData = Annotated[
    bool | None,
    typer.Option(
        "--upload-data/--no-upload-data",
        help="Archive the token shards too, so that `resume` needs nothing else. Default: no.",
    ),
]


def upload_choice(
    to: str | None,
    off: bool,
    keep: int | None,
    keep_days: float | None,
    rate: str | None,
    data: bool | None,
) -> UploadChoice:
    """Raises ConfigError for a rate that is no size."""
    from farflung.archive.settings import UploadChoice
    from farflung.peer.disk_budget import parse_size

    per_s = None if rate is None else float(parse_size(rate.removesuffix("/s"), "--upload-rate"))
    return UploadChoice(
        address=to, off=off, keep=keep, keep_days=keep_days, bytes_per_s=per_s, data=data
    )
