"""`farflung resume`: host and keeper folders made again from an archive or a node's folder.

The keeper's state comes first, chunk by chunk, each compared with its hash, so that what was cut
off goes on where it stopped; the host's journal comes last (run/restore.py), so that until then the
command can simply be given again. Who may sign is not in an archive: that takes the recovery key.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from farflung.archive.fetch import OnBytes, StateFetch, fetch_data
from farflung.archive.history import History
from farflung.archive.source import SnapshotSource
from farflung.archive.survey import read_history
from farflung.checkpoint.snapshot import POINTER
from farflung.clock import ThreadWorkers, Workers
from farflung.data.manifest import MANIFEST_FILE
from farflung.data.shards import needed, source_folders
from farflung.disk import RealDisk
from farflung.errors import CorruptState, MismatchError, UserError
from farflung.hashing import digest
from farflung.peer.disk_budget import show_size
from farflung.run.assemble import read_journal
from farflung.run.home import JOURNAL, private_folder
from farflung.run.host_folder import HostOptions, Say
from farflung.run.restore import refuse_used_folder, restore
from farflung.run.sources import Located, locate
from farflung.swarm.journal import Journal
from farflung.swarm.recovery import Recovery
from farflung.swarm.replay import genesis_spec


async def resume(
    folder: Path,
    text: str,
    others: Sequence[str],
    recovery: Recovery,
    options: HostOptions,
    say: Say,
    on_bytes: OnBytes | None = None,
) -> None:
    """Make the host's folder and the keeper's beside it; `farflung host` then continues the run.

    `others`: more copies of the journal, as for `restore`; the longest wins. Raises UserError,
    StoreError, StorageError, CorruptState; what was fetched then counts for the next try.
    """
    refuse_used_folder(folder)
    workers = ThreadWorkers(2)
    try:
        found = await locate(text, workers)
        journal = await found.source.journal()
        history = await read_history(found.source, workers)
        _refuse_other_run(found, history, recovery)
        keeper = folder.parent / "keeper"
        sources = [*found.journals, *others]
        if found.folder is None or found.folder.resolve() != keeper.resolve():
            sources += await _fill_keeper(
                keeper, found.source, history, journal, workers, say, on_bytes
            )
        await _data(folder, found.source, history, workers, say, on_bytes)
    finally:
        workers.close()
    await restore(folder, list(dict.fromkeys(sources)), recovery, options, say)


def _refuse_other_run(found: Located, history: History, recovery: Recovery) -> None:
    run = history.genesis.run
    if run != recovery.run:
        raise MismatchError(
            f"{found.source.address} is of run {run}, the recovery key is of run {recovery.run}; "
            f"give that run's key, or another source"
        )


async def _fill_keeper(
    keeper: Path,
    source: SnapshotSource,
    history: History,
    journal: bytes,
    workers: Workers,
    say: Say,
    on_bytes: OnBytes | None,
) -> list[str]:
    """Fetch the state; a keeper's folder that is here and further on is left as it is.

    Returns the copies of the journal that were here.
    """
    mine = _journal_here(keeper)
    if mine is not None:
        _refuse_other_branch(keeper, mine, source, history)
        if mine.length >= history.journal.length and (keeper / POINTER).exists():
            say(f"{keeper} is here and as far as {source.address}; it stays as it is")
            return [str(keeper)]
    private_folder(keeper)
    fetch = StateFetch(source, history, RealDisk(keeper), workers, on_bytes)
    keeps_longer = mine is not None and mine.length > history.journal.length
    done = await fetch.fetch(None if keeps_longer else journal)
    for reason in done.skipped:
        say(f"! a newer snapshot is damaged ({reason}); an older one is taken")
    say(
        f"snapshot of round {done.next_round} and results up to round {done.reaches}: "
        f"{show_size(done.bytes)} fetched, {show_size(done.reused)} were here"
    )
    return [str(keeper)]


def _journal_here(keeper: Path) -> Journal | None:
    if not (keeper / JOURNAL).is_file():
        return None
    try:
        journal = read_journal(keeper / JOURNAL)
    except CorruptState as error:
        raise UserError(f"{keeper}: {error}; move the folder away") from None
    return journal if journal.length else None


def _refuse_other_branch(
    keeper: Path, mine: Journal, source: SnapshotSource, history: History
) -> None:
    theirs = history.journal
    common = min(mine.length, theirs.length)
    if mine.hash_at(common) != theirs.hash_at(common):
        raise UserError(
            f"{keeper} holds another run, or other records of this one, than {source.address}; "
            f"move the folder away or set FARFLUNG_HOME"
        )


async def _data(
    folder: Path,
    source: SnapshotSource,
    history: History,
    workers: Workers,
    say: Say,
    on_bytes: OnBytes | None,
) -> None:
    """Token shards from the archive, if all of them are in it; else they are looked for where the
    spec says, and with the peers (run/restore.py)."""
    spec = genesis_spec(history.genesis)
    files = {bytes.fromhex(f.name) for f in await source.data()}
    if spec.data.synthetic:
        return
    for part in history.genesis.data:
        if part.manifest not in files:
            return
        content = await source.blob(part.manifest)
        if content is None or digest(content) != part.manifest:
            raise CorruptState(f"{source.address}: a data manifest is missing or damaged")
        if {bytes(name) for _, name, _ in needed(content)} - files:
            return
    data = folder / "data"
    folders = source_folders(data, spec.data)
    if data.is_symlink() or any((f / MANIFEST_FILE).exists() for f in folders):
        return
    say("fetching the token shards ...")
    await workers.run(partial(private_folder, folder))
    await fetch_data(source, data, workers, on_bytes)
