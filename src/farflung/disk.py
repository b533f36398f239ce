"""The disk as an injected seam, with an in-memory twin that forgets what was not synced.

Paths are relative, with forward slashes, inside one root. Every write that matters is either an
`append` followed by `sync`, or a `replace` (temporary file, fsync, rename, fsync of the folder).
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from farflung.errors import StorageError
from farflung.failpoints import hit


class Disk(Protocol):
    """Blocking operations; raise StorageError with the system's reason."""

    def read(self, path: str) -> bytes | None:
        """The whole file, None when it does not exist."""

    def read_at(self, path: str, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; StorageError when the file does not exist."""

    def size(self, path: str) -> int | None: ...

    def append(self, path: str, data: bytes) -> None:
        """Add to the end; durable only after `sync`."""

    def sync(self, path: str) -> None: ...

    def truncate(self, path: str, length: int) -> None:
        """Cut the file and sync it."""

    def replace(self, path: str, data: bytes | memoryview) -> None:
        """Write the whole file atomically and durably."""

    def names(self, folder: str) -> list[str]:
        """Sorted file names in a folder; empty when it does not exist."""

    def folders(self, folder: str) -> list[str]:
        """Sorted names of the folders in a folder; empty when it does not exist."""

    def remove(self, path: str) -> None:
        """Remove a file; no error when it is gone."""

    def remove_folder(self, folder: str) -> None:
        """Remove a folder and the files in it; no error when it is gone."""

    def free_bytes(self) -> int:
        """Bytes that this user may still write."""


_REASONS = {
    errno.ENOSPC: "no space left on the disk while writing {}; free some and retry",
    errno.EDQUOT: "this user's disk quota is used up while writing {}; free some or raise it",
    errno.EFBIG: "{} may not grow any more: a limit on file sizes is reached; raise `ulimit -f`",
    errno.EIO: "the disk failed while reading or writing {}; check it before you go on",
    errno.EMFILE: "too many files are open while using {}; raise `ulimit -n`",
    errno.ENFILE: "this machine has too many files open while using {}; raise fs.file-max",
    errno.EROFS: "{} is on a disk that is mounted read-only now; check it and mount it again",
}


@contextlib.contextmanager
def storage_errors(path: str | Path) -> Iterator[None]:
    """What the system refuses in here is a StorageError with a sentence about `path`."""
    try:
        yield
    except OSError as error:
        raise _failure(error, str(path)) from error


def _failure(error: OSError, path: str) -> StorageError:
    if error.errno in _REASONS:
        return StorageError(_REASONS[error.errno].format(path))
    return StorageError(f"{path}: {error.strerror or error}")


class RealDisk:
    """Files under `root`; appended files stay open."""

    def __init__(self, root: Path) -> None:
        self.root = root
        with storage_errors(root):
            root.mkdir(parents=True, exist_ok=True)
        self._open: dict[str, int] = {}

    def __str__(self) -> str:
        return str(self.root)

    def read(self, path: str) -> bytes | None:
        with storage_errors(path):
            try:
                return (self.root / path).read_bytes()
            except FileNotFoundError:
                return None

    def read_at(self, path: str, offset: int, length: int) -> bytes:
        return read_piece(self.root / path, offset, length, name=path)

    def size(self, path: str) -> int | None:
        with storage_errors(path):
            try:
                return (self.root / path).stat().st_size
            except FileNotFoundError:
                return None

    def append(self, path: str, data: bytes) -> None:
        with storage_errors(path):
            descriptor = self._descriptor(path)
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]

    def sync(self, path: str) -> None:
        with storage_errors(path):
            os.fsync(self._descriptor(path))

    def truncate(self, path: str, length: int) -> None:
        with storage_errors(path):
            descriptor = self._descriptor(path)
            os.ftruncate(descriptor, length)
            os.fsync(descriptor)

    def replace(self, path: str, data: bytes | memoryview) -> None:
        target = self.root / path
        temporary = target.with_name(f".{target.name}.tmp")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            hit("disk.before-rename")
            temporary.replace(target)
            hit("disk.renamed")
            _sync_folder(target.parent)
        except StorageError:
            temporary.unlink(missing_ok=True)
            raise
        except OSError as error:
            with contextlib.suppress(OSError):  # a disk that fails may refuse this as well
                temporary.unlink(missing_ok=True)
            raise _failure(error, path) from error

    def names(self, folder: str) -> list[str]:
        with storage_errors(folder):
            return sorted(p.name for p in self._inside(folder) if p.is_file() and p.name[0] != ".")

    def folders(self, folder: str) -> list[str]:
        with storage_errors(folder):
            return sorted(p.name for p in self._inside(folder) if p.is_dir())

    def _inside(self, folder: str) -> list[Path]:
        where = self.root / folder
        return list(where.iterdir()) if where.is_dir() else []

    def remove(self, path: str) -> None:
        with storage_errors(path):
            self._close(path)
            (self.root / path).unlink(missing_ok=True)

    def remove_folder(self, folder: str) -> None:
        with storage_errors(folder):
            for path in [p for p in self._open if p.startswith(f"{folder}/")]:
                self._close(path)
        shutil.rmtree(self.root / folder, ignore_errors=True)

    def sweep(self) -> None:
        """Remove temporary files that a killed process left. Only before anything is written."""
        with storage_errors(self.root):
            for left in self.root.rglob(".*.tmp"):
                left.unlink(missing_ok=True)

    def free_bytes(self) -> int:
        """Bytes that an unprivileged user may still write under the root."""
        with storage_errors(self.root):
            return shutil.disk_usage(self.root).free

    def close(self) -> None:
        with storage_errors(self.root):
            for path in list(self._open):
                self._close(path)

    def _descriptor(self, path: str) -> int:
        if path not in self._open:
            target = self.root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            new = not target.exists()
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._open[path] = os.open(target, flags, 0o600)
            if new:
                _sync_folder(target.parent)
        return self._open[path]

    def _close(self, path: str) -> None:
        descriptor = self._open.pop(path, None)
        if descriptor is not None:
            os.close(descriptor)


def read_piece(path: Path, offset: int, length: int, *, name: str = "") -> bytes:
    """Up to `length` bytes of a file. StorageError, about `name`, also when it does not exist."""
    with storage_errors(name or path), path.open("rb") as file:
        file.seek(offset)
        return file.read(length)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class MemoryDisk:
    """Files in memory. `crash()` returns the disk as a restart would find it."""

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self._durable: dict[str, bytes] = dict(files or {})
        self._live: dict[str, bytearray] = {k: bytearray(v) for k, v in self._durable.items()}
        self.full = False
        self.on_write: Callable[[], None] | None = None
        """Called before each change and each sync: a place for a crash."""
        self.free = 1 << 50
        """What `free_bytes` says while it is not full."""

    def read(self, path: str) -> bytes | None:
        data = self._live.get(path)
        return None if data is None else bytes(data)

    def read_at(self, path: str, offset: int, length: int) -> bytes:
        if path not in self._live:
            raise StorageError(f"{path}: no such file")
        return bytes(self._live[path][offset : offset + length])

    def size(self, path: str) -> int | None:
        data = self._live.get(path)
        return None if data is None else len(data)

    def append(self, path: str, data: bytes) -> None:
        self._check_space(path)
        self._live.setdefault(path, bytearray()).extend(data)

    def sync(self, path: str) -> None:
        self._about_to_write()
        self._durable[path] = bytes(self._live[path])

    def truncate(self, path: str, length: int) -> None:
        self._about_to_write()
        del self._live[path][length:]
        self._durable[path] = bytes(self._live[path])

    def replace(self, path: str, data: bytes | memoryview) -> None:
        self._check_space(path)
        hit("disk.before-rename")
        self._live[path] = bytearray(data)
        hit("disk.renamed")
        self._durable[path] = bytes(data)

    def names(self, folder: str) -> list[str]:
        head = f"{folder}/" if folder else ""
        inside = (p[len(head) :] for p in self._live if p.startswith(head))
        return sorted(name for name in inside if "/" not in name)

    def folders(self, folder: str) -> list[str]:
        head = f"{folder}/" if folder else ""
        inside = (p[len(head) :] for p in self._live if p.startswith(head))
        return sorted({name.partition("/")[0] for name in inside if "/" in name})

    def remove(self, path: str) -> None:
        self._about_to_write()
        self._live.pop(path, None)
        self._durable.pop(path, None)

    def remove_folder(self, folder: str) -> None:
        for path in [p for p in self._live if p.startswith(f"{folder}/")]:
            self.remove(path)

    def free_bytes(self) -> int:
        return 0 if self.full else self.free

    def crash(self, torn_bytes: int = 0) -> MemoryDisk:
        """What survives a crash; up to `torn_bytes` of each unsynced tail survive too."""
        kept = dict(self._durable)
        for path, live in self._live.items():
            synced = len(self._durable.get(path, b""))
            if torn_bytes and len(live) > synced:
                kept[path] = bytes(live[: synced + torn_bytes])
        return MemoryDisk(kept)

    def _about_to_write(self) -> None:
        if self.on_write is not None:
            self.on_write()

    def _check_space(self, path: str) -> None:
        self._about_to_write()
        if self.full:
            raise StorageError(f"no space left on the disk while writing {path}; free some")
