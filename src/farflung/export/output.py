"""Writing what a person asked for: whole or not at all, and never over something else."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from farflung.disk import storage_errors
from farflung.errors import UserError


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder beside the wanted one, which takes its name at the end. Ctrl-C leaves nothing.

    Raises UserError when something is there, StorageError.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} holds something already; give an empty or a new folder")
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        around = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        made = around / folder.name
        made.mkdir()  # with the permissions that this user's folders have
        yield made
        with storage_errors(folder):
            made.replace(folder)
    finally:
        shutil.rmtree(around, ignore_errors=True)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A file beside the wanted one, which takes its name at the end.

    Raises UserError when it is there, StorageError.
    """
    if path.exists():
        raise UserError(f"{path} is there already; give another name or remove it")
    part = path.with_name(f".{path.name}.part")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield part
        with storage_errors(path):
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Raises StorageError."""
    with storage_errors(path):
        path.write_bytes(data)
