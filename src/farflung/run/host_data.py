"""A host's token shards: files of its own folder, which moves and is copied as a whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from farflung.config.run import DataSpec
from farflung.data.manifest import MANIFEST_FILE
from farflung.data.mixture import integer_weights
from farflung.data.raw_text import refuse_raw_text
from farflung.data.shards import blobs, source_folders
from farflung.disk import storage_errors
from farflung.errors import UserError

CACHE = "cache"


def check_sources(spec: DataSpec) -> None:
    """UserError at once when a source names no folder of shards, or weights that do not mix."""
    integer_weights([part.weight for part in spec.parts])
    for part in spec.parts:
        _check_source(part.source, spec)


def _check_source(named: str, spec: DataSpec) -> None:
    if named in ("synthetic", "shakespeare"):
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
    _check_source(source, spec)
    _take(Path(source), where, say)


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
