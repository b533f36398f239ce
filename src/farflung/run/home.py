"""FARFLUNG_HOME: where identity and state of runs live, one folder per run and role.

<home>/<run name>/host/    run and CA keys, journal, spec, events   (`farflung host`)
<home>/<run name>/keeper/  the keeper's node
<home>/<run name>/peer/    a trainer's node                          (`farflung join`)
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from farflung.errors import UserError

JOURNAL = "journal.bin"
EVENTS = "events.jsonl"
LOCK = "lock"


def home_folder() -> Path:
    """FARFLUNG_HOME, or ~/.farflung."""
    return Path(os.environ.get("FARFLUNG_HOME") or Path.home() / ".farflung")


def role_folder(home: Path, run_name: str, role: str) -> Path:
    return home / run_name / role


def find_only(home: Path, role: str) -> Path:
    """The one folder of this role in the home. UserError when there is none, or a choice."""
    found = sorted(p for p in home.glob(f"*/{role}") if p.is_dir())
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
def locked(folder: Path) -> Iterator[None]:
    """One process per folder. UserError names the one that has it, or says why the disk refuses."""
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
