"""What a person names, resolved to a model: a name, a folder, an invite, an exported model."""

from __future__ import annotations

from pathlib import Path

from farflung.errors import UserError
from farflung.run.home import home_folder
from farflung.swarm.invite import PREFIX, tidy
from farflung.trained.hf_folder import is_hf_folder, read_hf
from farflung.trained.model import TrainedModel
from farflung.trained.reader import folder_of_invite
from farflung.trained.run_folders import node_folders, read_run
from farflung.trained.run_state import OnBytes

LONGEST_NAME = 64
"""Of a run; an invite is longer."""
LARGEST_INVITE = 1 << 14
"""Bytes of a file that may hold one."""


def resolve(what: str, on_bytes: OnBytes | None = None) -> TrainedModel:
    """A run's name in FARFLUNG_HOME, the folder of a node or of a demo, an exported folder, or an
    invite.

    A path that holds something comes before a name. Raises UserError with what is known, LinkDown
    and Refused (of an invite), CorruptState, StorageError.
    """
    path = Path(what).expanduser()
    try:
        invite = _invite_in(what) or _invite_in(_small_text(path))
        found = None if invite else _found(what, path, on_bytes)
    except OSError as error:  # a name that no file system takes, such as a damaged invite
        raise UserError(f"cannot look for {what[:40]!r}...: {error.strerror}") from None
    if invite:
        return read_run([folder_of_invite(invite, home_folder(), on_bytes)], on_bytes)
    if found is None:
        raise UserError(_nothing(what, path))
    return found


def _invite_in(text: str) -> str:
    """The invite that was pasted, as `join` takes it; empty when it is something else."""
    tidied = tidy(text)
    return tidied if tidied.startswith(PREFIX) and len(tidied) > LONGEST_NAME else ""


def _small_text(path: Path) -> str:
    """Of a file that may hold an invite; empty of all else."""
    if not path.is_file() or path.stat().st_size > LARGEST_INVITE:
        return ""
    return path.read_text("utf-8-sig", errors="replace")


def _found(what: str, path: Path, on_bytes: OnBytes | None) -> TrainedModel | None:
    if what and is_hf_folder(path):
        return read_hf(path, on_bytes)
    for place in (path, home_folder() / what) if what else ():
        folders = node_folders(place) if place.is_dir() else []
        if folders:
            return read_run(folders, on_bytes)
    return None


def _nothing(what: str, path: Path) -> str:
    if what and path.is_dir():
        return (
            f"{path} holds neither a run (journal.bin) nor an exported model (config.json and "
            f"safetensors)"
        )
    home = home_folder()
    known = sorted(p.name for p in home.iterdir() if p.is_dir()) if home.is_dir() else []
    names = f"runs there: {', '.join(known)}" if known else "there is none yet"
    return (
        f"{what!r} is neither a folder nor a run in {home} ({names}); give a run's name, a node's "
        f"folder, the --out folder of a demo, or an exported model"
    )
