"""The node of this machine that a command is about: RUN, or `--run NAME`."""

from __future__ import annotations

from pathlib import Path

from farflung.errors import UserError
from farflung.run.home import MEMBERSHIP, SETTINGS, find_run, home_folder, run_names


def which_node(run: str, run_name: str = "") -> tuple[str, Path]:
    """("host" or "peer", its folder). `run`: a name in FARFLUNG_HOME, or a folder at or above a
    node's, a demo's `--out` too. UserError when there is none, or a choice."""
    if run and run_name:
        raise UserError(f"{run!r} and --run {run_name!r} both name a run; leave one of them out")
    return _in_folder(Path(run).expanduser()) or _find(run or run_name)


def _in_folder(path: Path) -> tuple[str, Path] | None:
    """The node at or below a folder that was named, the host's before a peer's; None when there
    is none. UserError for several hosts."""
    if path == Path() or not path.is_dir():
        return None
    for role, file in (("host", SETTINGS), ("peer", MEMBERSHIP)):
        found = sorted(p.parent for p in path.rglob(file))
        if len(found) > 1 and role == "host":
            names = ", ".join(map(str, found))
            raise UserError(f"{path} holds several runs; name one of their folders: {names}")
        if found:
            return role, found[0]
    return None


def _find(run_name: str) -> tuple[str, Path]:
    """The role of this machine in the run, and its folder; the host's before a peer's."""
    home = home_folder()
    for role in ("host", "peer"):
        names = run_names(home, role)
        if run_name in names or (names and not run_name):
            return role, find_run(home, run_name, role)
    known = sorted({*run_names(home, "host"), *run_names(home, "peer")})
    if run_name and known:
        raise UserError(f"{home} holds no run named {run_name!r}; it has: {', '.join(known)}")
    what = f"run named {run_name!r}" if run_name else "run"
    raise UserError(f"{home} holds no {what}; host or join one first")
