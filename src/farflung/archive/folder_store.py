"""An archive in a plain folder: another disk, a network share. Needs no further library."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

from farflung.archive.store import Pieces, StoreError
from farflung.clock import Workers
from farflung.disk import RealDisk, storage_errors
from farflung.errors import StorageError

T = TypeVar("T")


class FolderStore:
    """Files below a folder, each written beside its place, synced and renamed; in the pool."""

    def __init__(self, folder: Path, workers: Workers) -> None:
        self._folder = folder
        self._workers = workers

    @property
    def address(self) -> str:
        return str(self._folder)

    async def get(self, name: str) -> bytes | None:
        return await self._run(lambda disk: disk.read(name))

    async def get_range(self, name: str, offset: int, length: int) -> bytes:
        data = await self._run(lambda disk: disk.read_at(name, offset, length))
        if len(data) != length:
            raise StoreError(f"{self._folder / name} ends before byte {offset + length}")
        return data

    async def put(self, name: str, data: bytes) -> None:
        await self._run(lambda disk: disk.replace(name, data))

    async def put_pieces(self, name: str, n_bytes: int, pieces: Pieces) -> None:
        target = self._folder / name
        temporary = target.with_name(f".{target.name}.tmp")
        await self._run(lambda _: _begin(temporary))
        async for piece in pieces():
            await self._run(partial(_append, temporary, piece))
        await self._run(lambda _: _finish(temporary, target, n_bytes))

    async def list(self, prefix: str) -> dict[str, int]:
        return await self._run(lambda _: dict(_files(self._folder, prefix)))

    async def size(self, name: str) -> int | None:
        return await self._run(lambda disk: disk.size(name))

    async def delete(self, name: str) -> None:
        await self._run(lambda disk: disk.remove(name))

    async def _run(self, work: Callable[[RealDisk], T]) -> T:
        """The folder is made when it is first used, and again when somebody removed it."""
        try:
            return await self._workers.run(lambda: work(RealDisk(self._folder)))
        except StorageError as error:
            raise StoreError(str(error)) from None


def _begin(path: Path) -> None:
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def _append(path: Path, piece: bytes, _: RealDisk) -> None:
    with storage_errors(path), path.open("ab") as file:
        file.write(piece)


def _finish(temporary: Path, target: Path, n_bytes: int) -> None:
    with storage_errors(target):
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        found = temporary.stat().st_size
        if found != n_bytes:
            temporary.unlink()
            raise StorageError(f"{target} has {found} bytes, not {n_bytes}")
        temporary.replace(target)


def _files(folder: Path, prefix: str) -> Iterator[tuple[str, int]]:
    """Leftovers of a killed writer (`.NAME.tmp`) are no objects."""
    where = folder / prefix
    for path in sorted(where.rglob("*")) if where.is_dir() else ():
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
            if path.is_file() and not path.name.startswith("."):
                yield path.relative_to(folder).as_posix(), path.stat().st_size
