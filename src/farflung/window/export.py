"""A run as files for ever: the window's page with the end of the run and moments of it.

    index.html, app.js, ...    the page, as it is in the package
    data/run.js                `farflung({...})`: a Replay of web/src/types.ts
    data/moment-NNN.js         `farflung_moment(NNN, {...})`: a Moment of it

They open from a disk, without a server. The same folder gives the same bytes.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farflung.errors import StorageError, UserError
from farflung.monitor.view import View
from farflung.monitor.weave import Stamped, weave
from farflung.swarm.records import Abandon, AnyRecord, Commit

STATIC = Path(__file__).with_name("static")
PAGE = "index.html"
LIVE, REPLAY = 'name="farflung-source" content="auto"', 'name="farflung-source" content="replay"'
"""How the page tells a report from a run that is served."""

MAX_MOMENTS = 240
LEAST_MOMENTS = 60
MOMENTS_BYTES = 32 << 20
"""What all moments of a large run may take together, as far as `LEAST_MOMENTS` allows."""
MOMENT_PEERS = 300
"""Of a moment: the largest contributors."""
MOMENT_TIMELINES, MOMENT_TIMELINE_PEERS = 3, 32
MOMENT_LINKS = 24
"""Nodes of a moment's matrix."""
MOMENT_LINES = 100
PEER_BYTES, REST_BYTES = 420, 120_000
"""Of a moment with many peers, about."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was written."""

    folder: Path
    rounds: int
    moments: int
    bytes: int


def write_report(
    records: Iterable[AnyRecord],
    events: Iterable[Stamped],
    out: Path,
    *,
    resolved: int,
    served: bool,
    map_shown: bool = True,
) -> Report:
    """Write the page and its data into `out`, a folder that `check_out` has looked at.

    `resolved`: rounds that the records resolve, for the moments' places. Raises StorageError when
    the disk refuses, UserError for a package without the page.
    """
    files = page_files()
    view = View(map_shown=map_shown)
    try:
        data = out / "data"
        data.mkdir(parents=True, exist_ok=True)
        for old in data.glob("moment-*.js"):
            old.unlink()
        size = 0
        moments: list[dict[str, Any]] = []
        for index, moment in enumerate(_moments(view, records, events, resolved)):
            name = f"moment-{index:03}.js"
            size += _write(data / name, f"farflung_moment({index}, {script_json(moment)});\n")
            head = moment["head"]
            place = {"round": _shown_round(view, head), "at": head["at"], "file": f"data/{name}"}
            moments.append(place)
        view.serve(served, view.newest or 0.0)
        frame = view.frame(view.newest or 0.0)
        replay = {"version": 1, "frame": frame, "moments": moments}
        size += _write(data / "run.js", f"farflung({script_json(replay)});\n")
        size += sum(_copy(name, content, out) for name, content in files.items())
    except OSError as error:
        raise StorageError(f"cannot write to {out}: {error.strerror or error}") from error
    rounds = int(frame["head"]["rounds"])
    return Report(folder=out, rounds=rounds, moments=len(moments), bytes=size)


def check_out(out: Path) -> None:
    """UserError for a folder that holds something else than an earlier report, or no folder."""
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"{out} is a file; give a folder for the report")
    if any(out.iterdir()) and not (out / "data" / "run.js").exists():
        raise UserError(f"{out} holds other files; give --html an empty folder, or a new name")


def page_files() -> dict[str, bytes]:
    """The built page by path. UserError when the package comes without."""
    if not (STATIC / PAGE).exists():
        raise UserError(
            "this farflung comes without its web page; build it with `make web`, or ask for "
            "--json and --csv only"
        )
    found = sorted(p for p in STATIC.rglob("*") if p.is_file())
    return {str(p.relative_to(STATIC)): p.read_bytes() for p in found}


def script_json(value: Any) -> str:
    """JSON that is inert inside a script: ASCII, without `<`, `>` and `&`, so that neither a tag's
    end nor a line separator (U+2028) can be in it. ValueError for what is no JSON (NaN)."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def rounds_csv(view: View) -> str:
    """All rounds, one line each; empty where something is not known."""
    length = view.head(0.0)["round"] + 1
    table = view.rounds(0, None, max(1, length))
    names = [name for name, column in table.items() if isinstance(column, list)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(zip(*(table[name] for name in names), strict=True))
    return out.getvalue()


# ---- moments -----------------------------------------------------------------------------------


def moments_for(resolved: int, peers: int) -> int:
    """How many moments a run of so many rounds and peers gets."""
    each = REST_BYTES * min(1.0, peers / 64) + PEER_BYTES * min(peers, MOMENT_PEERS)
    room = max(LEAST_MOMENTS, int(MOMENTS_BYTES / max(1.0, each)))
    return min(MAX_MOMENTS, resolved, room)


def _moments(
    view: View, records: Iterable[AnyRecord], events: Iterable[Stamped], resolved: int
) -> Iterator[dict[str, Any]]:
    """Fold everything, and tell of moments on the way: right before a round is committed, so that
    all is known of the round before it. The last one is the end."""
    done, shown, told_at = 0, 0, -1
    for one in weave(records, events):
        if isinstance(one, Commit | Abandon) and done:
            # As many as by now, at the pace of the peers that are known by now.
            due = done * moments_for(resolved, len(view)) / max(1, resolved)
            if due >= shown + 1 and done != told_at:
                yield _moment(view)
                shown, told_at = shown + 1, done
        if isinstance(one, tuple):
            view.event(*one)
        else:
            done += isinstance(one, Commit | Abandon)
            view.record(one)
    if done:
        yield _moment(view)


def _moment(view: View) -> dict[str, Any]:
    now = view.newest or 0.0
    return {
        "head": view.head(now),
        "peers": view.peers(now)[:MOMENT_PEERS],
        "timelines": view.newest_timelines(MOMENT_TIMELINES, MOMENT_TIMELINE_PEERS),
        "links": view.links(MOMENT_LINKS),
        "lines": view.lines(limit=MOMENT_LINES),
    }


def _shown_round(view: View, head: dict[str, Any]) -> int:
    """The newest resolved round of a moment."""
    newest = int(head["round"])
    while newest > 0 and view.row(newest) is None:
        newest -= 1
    return newest


def _write(path: Path, text: str) -> int:
    data = text.encode("ascii")
    path.write_bytes(data)
    return len(data)


def _copy(name: str, content: bytes, out: Path) -> int:
    if name == PAGE:
        content = content.replace(LIVE.encode(), REPLAY.encode())
    path = out / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return len(content)
