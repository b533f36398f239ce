"""`--report FILE`: what a long command has found, as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from farflung.disk import storage_errors
from farflung.errors import UserError


def check_report(path: Path | None) -> None:
    """UserError, before minutes of work, when no file can be written there."""
    if path is None:
        return
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir():
        what = "that is a folder" if path.is_dir() else f"there is no folder {folder}"
        raise UserError(f"--report {path}: {what}; name a file in a folder that is there")


def write_report(path: Path | None, table: Any, *, indent: int = 1, sort: bool = False) -> None:
    """Nothing without a path. Raises StorageError."""
    if path is not None:
        with storage_errors(path):
            path.write_text(json.dumps(table, indent=indent, sort_keys=sort) + "\n")
