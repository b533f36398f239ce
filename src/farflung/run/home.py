"""FARFLUNG_HOME: where identity and state of runs live, one folder per run and role.

<home>/<run name>/host/    run and CA keys, journal, spec, events   (`farflung host`)
<home>/<run name>/keeper/  the keeper's node
<home>/<run name>/peer/    a trainer's node                          (`farflung join`)
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager, suppress
from pathlib import Path

from farflung.errors import UserError
from farflung.events import EVENTS as EVENTS
from farflung.swarm.journal import JOURNAL as JOURNAL

SETTINGS = "host.json"
MEMBERSHIP = "membership.json"
LOCK = "lock"


def home_folder() -> Path:
    """FARFLUNG_HOME, or ~/.farflung. UserError for a user without a home."""
    if named := os.environ.get("FARFLUNG_HOME"):
        return Path(named)
    try:
        return Path.home() / ".farflung"
    except RuntimeError:
        raise UserError(
            f"user {os.getuid()} has no home folder; set FARFLUNG_HOME to a folder that it may "
            f"write to"
        ) from None


def role_folder(home: Path, run_name: str, role: str) -> Path:
    return home / run_name / role


def run_names(home: Path, role: str) -> list[str]:
    """Runs in the home that have a folder of this role, sorted."""
    return sorted(p.parent.name for p in home.glob(f"*/{role}") if p.is_dir())


def find_named(home: Path, run_name: str, role: str) -> Path:
    """The folder of a run that is there. UserError names the run, and those that are there."""
    names = run_names(home, role)
    if run_name not in names:
        rest = f"there are: {', '.join(names)}" if names else "there is none"
        verb = "hosts" if role == "host" else "has joined"
        raise UserError(f"{home} {verb} no run named {run_name!r}; {rest}")
    return role_folder(home, run_name, role)


def find_run(home: Path, run_name: str, role: str) -> Path:
    """The named run's folder, or the only one. UserError."""
    return find_named(home, run_name, role) if run_name else find_only(home, role)


def find_only(home: Path, role: str) -> Path:
    """The one folder of this role in the home. UserError when there is none, or a choice."""
    found = [role_folder(home, name, role) for name in run_names(home, role)]
    if not found:
        word = "farflung host run.toml" if role == "host" else "farflung join INVITE"
        raise UserError(f"{home} holds no run to continue; start one with: {word}")
    if len(found) > 1:
        names = ", ".join(p.parent.name for p in found)
        raise UserError(f"{home} holds several runs ({names}); name one with --run NAME")
    return found[0]


def private_folder(path: Path) -> Path:
    """Make a folder that only this user may read. UserError when the system refuses."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o700)
    except OSError as error:
        raise UserError(f"cannot use {path}: {error.strerror}; set FARFLUNG_HOME") from None
    return path


@contextmanager
def nothing_left(folder: Path, unborn: Set[str], lives: Callable[[], bool]) -> Iterator[None]:
    """What fails in here before `lives()` removes `folder`, and the run's folder above it when
    nothing else is in it. One that holds more than `unborn`, names that are worthless before
    `lives()`, is kept. Use it inside of `locked`: another process may be about to begin."""
    new = not lives() and all(p.name in unborn or p.name[0] == "." for p in folder.glob("*"))
    try:
        yield
    except (Exception, KeyboardInterrupt):
        if new and not lives():
            shutil.rmtree(folder, ignore_errors=True)
            _remove_empty(folder.parent)
        raise


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # somebody else's role is in it
        folder.rmdir()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process per folder. UserError names the one that has it, or says why the disk refuses."""
    new = not folder.exists()
    private_folder(folder)
    with (folder / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise UserError(
                f"{folder} is in use by process {owner}; stop it or use another FARFLUNG_HOME"
            ) from None
        try:  # past the buffer: closing the file must not try a failed write again
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), str(os.getpid()).encode())
        except OSError as error:
            if new:
                shutil.rmtree(folder, ignore_errors=True)
                _remove_empty(folder.parent)
            raise UserError(
                f"cannot write to {folder}: {error.strerror}; free space there or set FARFLUNG_HOME"
            ) from None
        yield


def running_process(folder: Path) -> int | None:
    """The process that holds the lock of a folder; None when nobody does."""
    path = folder / LOCK
    if not path.exists():
        return None
    with path.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = file.read().strip()
            return int(text) if text.isdigit() else None
        return None
