"""From what a person writes to a store: `s3://bucket/prefix`, `file:///folder`, a folder."""

from __future__ import annotations

import random
from pathlib import Path
from urllib.parse import unquote, urlsplit

from farflung.archive.folder_store import FolderStore
from farflung.archive.retry import RetryingStore
from farflung.archive.s3_store import S3ObjectStore
from farflung.archive.store import ObjectStore
from farflung.clock import Workers
from farflung.errors import UserError


def is_remote(text: str) -> bool:
    """Whether it names a store rather than a folder here."""
    return "://" in text and not text.startswith("file://")


def open_store(text: str, workers: Workers, rng: random.Random) -> ObjectStore:
    """Opens nothing on the network yet. UserError: an unknown address, or a missing library."""
    if not text.strip():
        raise UserError("the archive's address is empty; give s3://BUCKET/PREFIX or a folder")
    if not is_remote(text):
        return RetryingStore(FolderStore(folder_of(text), workers), rng)
    if not text.startswith("s3://") or not urlsplit(text).netloc:
        raise UserError(f"{text} is no archive's address; give s3://BUCKET/PREFIX or a folder")
    return RetryingStore(S3ObjectStore(text.rstrip("/")), rng)


def folder_of(text: str) -> Path:
    """The folder that a local address names."""
    if text.startswith("file://"):
        return Path(unquote(urlsplit(text).path))
    return Path(text).expanduser()
