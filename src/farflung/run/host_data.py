"""A host's token shards: files of its own folder, which moves and is copied as a whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from farflung.config.run import DataSpec, is_remote
from farflung.data.manifest import MANIFEST_FILE, File, decode_manifest
from farflung.data.mixture import integer_weights
from farflung.data.raw_text import refuse_raw_text
from farflung.data.shards import blobs, check_alike, read_manifest, source_folders
from farflung.disk import storage_errors
from farflung.errors import CorruptState, LinkDown, UserError
from farflung.hashing import digest
from farflung.run.remote_folder import RemoteFolder

CACHE = "cache"
SHIPPED = ("synthetic", "shakespeare")
"""Sources that are no folders."""
TOLD_BYTES = 256 << 20
MANIFEST_BYTES = 256 << 20
"""A manifest of a store is not larger."""


def check_sources(spec: DataSpec) -> None:
    """UserError at once when a source names no folder of shards, or weights that do not mix."""
    integer_weights([part.weight for part in spec.parts])
    for part in spec.parts:
        _check_source(part.source, spec)
    folders = [p.source for p in spec.parts if p.source not in SHIPPED and not is_remote(p.source)]
    check_alike([(f, decode_manifest(read_manifest(Path(f)))) for f in folders], spec.seq_len)


def _check_source(named: str, spec: DataSpec) -> None:
    if named in SHIPPED:
        return
    if is_remote(named):
        RemoteFolder(named)
        return
    source = Path(named)
    refuse_raw_text(named, spec.tokenizer, spec.seq_len)
    if not source.is_dir():
        what = "is no folder" if source.exists() else "does not exist"
        raise UserError(
            f"data.source={named!r} {what} (looked for {source.absolute()}); make it with "
            f"`farflung data prepare`, or name shakespeare or synthetic"
        )
    blobs(source)  # it has a manifest that can be read


def forget_broken_link(data: Path) -> None:
    """A link whose target is not on this machine (any more) stands in nobody's way: what it led
    to is made or fetched again. Folders of earlier versions have such links."""
    if data.is_symlink() and not data.exists():
        data.unlink()


def place_sources(spec: DataSpec, data: Path, say: Callable[[str], None]) -> None:
    """Fill the run's data folder, source by source, unless they are there.

    Raises UserError, StorageError.
    """
    forget_broken_link(data)
    for part, where in zip(spec.parts, source_folders(data, spec), strict=True):
        forget_broken_link(where)
        if not (where / MANIFEST_FILE).exists():
            with storage_errors(where):
                where.parent.mkdir(parents=True, exist_ok=True)
                _place(part.source, spec, where, data.parent / CACHE, say)


def _place(
    source: str, spec: DataSpec, where: Path, cache: Path, say: Callable[[str], None]
) -> None:
    if source == "shakespeare":
        from farflung.data.ensure import shipped_folder  # tokenizers are slow to import

        say("preparing the shipped text ...")
        made = shipped_folder(spec, cache)
        shutil.rmtree(where, ignore_errors=True)
        made.rename(where)
        shutil.rmtree(cache, ignore_errors=True)
        return
    if is_remote(source):
        _fetch(RemoteFolder(source), where, say)
        return
    _check_source(source, spec)
    _take(Path(source), where, say)


def _fetch(store: RemoteFolder, where: Path, say: Callable[[str], None]) -> None:
    """All but the training rows, which every peer reads by itself. The manifest comes last."""
    try:
        say(f"reading {store.url}/{MANIFEST_FILE} ...")
        content = store.read_whole(MANIFEST_FILE, MANIFEST_BYTES)
        manifest = decode_manifest(content)
        where.mkdir(parents=True, exist_ok=True)
        small = [s.chunks for s in (*manifest.train, *manifest.held_out)]
        small += [manifest.tokenizer] if manifest.tokenizer else []
        held_out = [f for s in manifest.held_out for f in (s.tokens, s.lengths)]
        if (total := sum(f.n_bytes for f in held_out)) > TOLD_BYTES:
            say(f"reading {total / 2**30:.1f} GiB of held-out rows from {store.url} ...")
        for file in (*small, *held_out):
            _take_remote(store, file, where / file.file)
        (where / MANIFEST_FILE).write_bytes(content)
    except (LinkDown, CorruptState) as error:
        raise UserError(f"data.source={store.url!r} cannot be used: {error}") from None


def _take_remote(store: RemoteFolder, file: File, path: Path) -> None:
    data = store.read_whole(file.file, file.n_bytes)
    if digest(data) != file.digest:
        raise CorruptState(f"{store.url}/{file.file} is damaged: its hash is not the manifest's")
    path.write_bytes(data)


def _take(source: Path, data: Path, say: Callable[[str], None]) -> None:
    """Hard links cost nothing; on another disk the files are copied. The manifest comes last."""
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True)
    files = sorted(blobs(source).values(), key=lambda path: path.name == MANIFEST_FILE)
    copied = False
    for path in files:
        try:
            os.link(path.resolve(), data / path.name)
        except OSError:  # another disk, or one without hard links
            if not copied:
                copied = True
                _check_room(files, data)
                say(f"copying the token shards from {source} ...")
            shutil.copyfile(path, data / path.name)


def _check_room(files: list[Path], data: Path) -> None:
    wanted, free = sum(p.stat().st_size for p in files), shutil.disk_usage(data).free
    if wanted > free:
        raise UserError(
            f"the token shards need {wanted / 2**20:,.0f} MiB in {data}, {free / 2**20:,.0f} MiB "
            f"are free there; free some, or set FARFLUNG_HOME to a folder on the disk of the shards"
        )
