"""From what a person names (a run, a folder, an archive) to something that state is read from."""

from __future__ import annotations

import random
import secrets
from dataclasses import dataclass
from pathlib import Path

from farflung.archive.address import folder_of, is_remote, open_store
from farflung.archive.index import INDEX
from farflung.archive.source import ArchiveSource, NodeSource, SnapshotSource
from farflung.checkpoint.snapshot import POINTER
from farflung.clock import ThreadWorkers, Workers
from farflung.errors import CorruptState, UserError
from farflung.run.assemble import read_journal
from farflung.run.home import JOURNAL, home_folder
from farflung.run.host_folder import RECOVERY, genesis_of

ROLES = ("keeper", "peer", "host")
"""Where a run's folder has nodes; the first that has a snapshot is taken."""


@dataclass(frozen=True, kw_only=True)
class Located:
    """What was found under one name."""

    source: SnapshotSource
    journals: tuple[str, ...]
    """Every copy of the journal there, for `restore`."""
    folder: Path | None = None
    """The node's folder; None: an archive."""
    recovery: Path | None = None
    """A recovery key that lies beside it."""


async def locate(text: str, workers: Workers) -> Located:
    """`s3://...`, an archive's folder, a node's or a run's folder, or the name of a run in
    FARFLUNG_HOME. Raises UserError, StoreError, CorruptState."""
    path = None if is_remote(text) else _existing(text)
    if path is None or (path / INDEX).is_file():
        store = open_store(text if path is None else str(path), workers, _rng())
        return Located(source=await ArchiveSource.open(store), journals=(text,))
    folders = [f for f in (path, *(path / r for r in ROLES)) if (f / JOURNAL).is_file()]
    if folders == [path] and not (path / POINTER).exists():  # a host's: its keeper is beside it
        folders += [f for f in (path.parent / "keeper",) if (f / JOURNAL).is_file()]
    nodes = [f for f in folders if (f / POINTER).is_file()]
    if not nodes:
        raise UserError(
            f"{text} holds no snapshot: name an archive (s3://BUCKET/PREFIX or its folder), a "
            f"node's folder or a run's folder"
        )
    node = nodes[0]
    return Located(
        source=NodeSource(node, _run_of(node), workers),
        journals=tuple(str(f) for f in folders),
        folder=node,
        recovery=next((f / RECOVERY for f in folders if (f / RECOVERY).is_file()), None),
    )


def is_archive(text: str) -> bool:
    """Whether it names an archive, without looking at a remote one."""
    return is_remote(text) or (folder_of(text) / INDEX).is_file()


async def archived_journal(text: str) -> bytes:
    """A journal file's content, from an archive. Raises UserError, StoreError, CorruptState."""
    workers = ThreadWorkers(1)
    try:
        store = open_store(text, workers, _rng())
        return await (await ArchiveSource.open(store)).journal()
    finally:
        workers.close()


def _existing(text: str) -> Path:
    for path in (folder_of(text), home_folder() / text):
        if path.is_dir():
            return path
    raise UserError(
        f"{text} is no folder here, no run in {home_folder()} and no s3:// address; name one"
    )


def _run_of(folder: Path) -> str:
    journal = read_journal(folder / JOURNAL)
    if not journal.length:
        raise CorruptState(f"the journal in {folder} is empty")
    return str(genesis_of(journal).run)


def _rng() -> random.Random:
    return random.Random(secrets.randbits(64))
