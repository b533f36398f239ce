"""`farflung report`: a run as files, for people and for other programs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from farflung.cli.which_run import which_node
from farflung.disk import storage_errors
from farflung.errors import UserError
from farflung.events import printable
from farflung.run.home import running_process
from farflung.words import counted

if TYPE_CHECKING:
    from farflung.monitor.view import View


def report(
    run: Annotated[
        str,
        typer.Argument(
            metavar="[RUN]", help="A run's name in FARFLUNG_HOME, or a folder: a demo's --out too."
        ),
    ] = "",
    html: Annotated[
        Path | None, typer.Option(help="Folder for the page: empty, or an earlier report.")
    ] = None,
    rounds_csv: Annotated[
        Path | None, typer.Option("--csv", help="File for the rounds, one line each.")
    ] = None,
    frame_json: Annotated[
        Path | None, typer.Option("--json", help="File for all figures (docs/api.md).")
    ] = None,
    png: Annotated[
        Path | None, typer.Option(help="File for a picture of the run, for a README.")
    ] = None,
    dark: Annotated[bool, typer.Option("--dark", help="The picture on a dark ground.")] = False,
    no_map: Annotated[bool, typer.Option("--no-map", help="Leave out where peers are.")] = False,
) -> None:
    """Keep a run as files: a web page that opens from a disk and replays it, a table, JSON.

    The run may go on meanwhile; a peer's folder tells less than its host's.

    Examples:

      farflung report my-run --html my-run-report

      farflung report demo-out --html page --csv rounds.csv

      farflung report my-run --png my-run.png --dark
    """
    wanted = [path for path in (html, rounds_csv, frame_json, png) if path is not None]
    if not wanted:
        raise UserError(
            "nothing is asked for; give --html FOLDER, --png FILE, --csv FILE or --json FILE"
        )
    role, folder = which_node(run)
    served = running_process(folder) is not None if role == "host" else True
    for path in (rounds_csv, frame_json, png):
        _check_file(path)
    if html is not None:
        _write_html(folder, html, served=served, map_shown=not no_map)
    if rounds_csv is not None or frame_json is not None or png is not None:
        view = _view_of(folder, served=served, map_shown=not no_map)
        _write_files(view, rounds_csv, frame_json)
        if png is not None:
            _draw(view, png, dark=dark)


def _check_file(path: Path | None) -> None:
    """UserError, before the work, when no file can be written there."""
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        what = "that is a folder" if path.is_dir() else f"{path.absolute().parent} is no folder"
        raise UserError(f"cannot write {path}: {what}; name a file in a folder that is there")


def _write_html(folder: Path, out: Path, *, served: bool, map_shown: bool) -> None:
    from farflung.window.export import check_out, write_report
    from farflung.window.reading import events_of, records_of, resolved_rounds

    check_out(out)
    began = time.monotonic()
    written = write_report(
        records_of(folder),
        events_of(folder),
        out,
        resolved=resolved_rounds(folder),
        served=served,
        map_shown=map_shown,
    )
    typer.echo(
        f"{out / 'index.html'}: {counted(written.rounds, 'round')}, "
        f"{counted(written.moments, 'moment')} to replay, {written.bytes / 1e6:,.1f} MB "
        f"in {time.monotonic() - began:.1f} s; open it in a browser"
    )


def _write_files(view: View, rounds_file: Path | None, frame_file: Path | None) -> None:
    from farflung.window.export import rounds_csv

    if rounds_file is not None:
        _write(rounds_file, rounds_csv(view))
    if frame_file is not None:
        frame = view.frame(view.newest or 0.0)
        _write(frame_file, json.dumps(frame, allow_nan=False, indent=1) + "\n")


def _draw(view: View, path: Path, *, dark: bool) -> None:
    from farflung.window.summary import write_summary

    write_summary(view.frame(view.newest or 0.0), path, dark=dark)
    typer.echo(printable(f"{path}: {path.stat().st_size / 1e6:,.2f} MB"))


def _view_of(folder: Path, *, served: bool, map_shown: bool) -> View:
    from farflung.monitor.view import View
    from farflung.window.reading import events_of, records_of

    view = View(map_shown=map_shown)
    view.take(records_of(folder), events_of(folder))
    view.serve(served, view.newest or 0.0)
    return view


def _write(path: Path, text: str) -> None:
    with storage_errors(path):
        path.write_text(text, encoding="utf-8")
    typer.echo(printable(f"{path}: {len(text) / 1e6:,.2f} MB"))
