"""What a trainer needs before it starts: token shards and tokenizer, by hash, from any holder."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from blake3 import blake3

from farflung.data.manifest import MANIFEST_FILE
from farflung.data.shards import blobs, needed, source_folders
from farflung.disk import storage_errors
from farflung.errors import CorruptState, LinkDown
from farflung.events import FetchDelayed
from farflung.hashing import digest
from farflung.ids import Hash
from farflung.peer.bootstrap import GRACE_S
from farflung.peer.node import LocalNode
from farflung.peer.patience import Patience
from farflung.run.host_data import forget_broken_link
from farflung.swarm.records import Genesis
from farflung.transfer.download_plan import PIECE_BYTES

READ_AHEAD = 8
"""Pieces of a file that are asked at a time."""

OnBytes = Callable[[int, int], None]
"""(bytes here, bytes in all)."""


class DataFetch:
    """Token shards of one run in a folder of this node; fetched once, resumed, checked."""

    def __init__(self, folder: Path, on_bytes: OnBytes | None = None) -> None:
        self.folder = folder
        self._on_bytes = on_bytes

    async def provide(self, node: LocalNode, genesis: Genesis) -> None:
        """Return when every file is here and intact. Tries until a donor delivers.

        Raises StorageError when the disk refuses.
        """
        if any(part.manifest for part in genesis.data):
            with storage_errors(self.folder):
                await self._provide(node, genesis)

    async def _provide(self, node: LocalNode, genesis: Genesis) -> None:
        forget_broken_link(self.folder)
        folders = source_folders(self.folder, node.follower.spec.data)
        manifests = [
            self._own_manifest(folder, Hash(part.manifest))
            or await self._blob(node, Hash(part.manifest), part.manifest_bytes)
            for folder, part in zip(folders, genesis.data, strict=True)
        ]
        total = sum(n for m in manifests for _, _, n in needed(m))
        here = 0
        for folder, manifest in zip(folders, manifests, strict=True):
            folder.mkdir(parents=True, exist_ok=True)
            for name, expected, n_bytes in needed(manifest):
                await self._file(node, folder / name, Hash(expected), n_bytes, (here, total))
                here += n_bytes
            (folder / MANIFEST_FILE).write_bytes(manifest)
            for name_hash, path in blobs(folder).items():
                node.follower.blobs.add_file(name_hash, path)  # this node serves them from now on

    def _own_manifest(self, folder: Path, name: Hash) -> bytes | None:
        """A node that has fetched everything before needs nobody to go on."""
        path = folder / MANIFEST_FILE
        manifest = path.read_bytes() if path.exists() else b""
        return manifest if digest(manifest) == name else None

    async def _blob(self, node: LocalNode, name: Hash, n_bytes: int) -> bytes:
        patience = Patience(node.world.clock, grace_s=GRACE_S)
        while True:
            try:
                return await node.mesh.blobs.fetch(node.donors(), name, n_bytes)
            except (LinkDown, CorruptState) as error:
                if patience.failed(told_at_once=isinstance(error, CorruptState)):
                    node.world.emit(FetchDelayed(what="the data manifest", reason=str(error)))
                await patience.pause()

    async def _file(
        self, node: LocalNode, path: Path, name: Hash, n_bytes: int, progress: tuple[int, int]
    ) -> None:
        """One file; a part that is already here is kept."""
        hashed = node.world.workers.run
        whole = path.exists() and path.stat().st_size == n_bytes
        if whole and await hashed(lambda: _hash(path)) == name:
            return
        path.unlink(missing_ok=True)  # damaged: nobody may read or serve it
        part = path.with_name(f"{path.name}.part")
        patience = Patience(node.world.clock, grace_s=GRACE_S)
        while not path.exists():
            try:
                await self._pieces(node, part, name, n_bytes, progress)
            except LinkDown as error:
                if patience.failed():
                    node.world.emit(FetchDelayed(what=path.name, reason=str(error)))
                await patience.pause()
                continue
            if await hashed(lambda: _hash(part)) == name:
                await hashed(lambda: _put(part, path))
            else:
                node.world.emit(FetchDelayed(what=path.name, reason="it came damaged"))
                part.unlink()

    async def _pieces(
        self, node: LocalNode, part: Path, name: Hash, n_bytes: int, progress: tuple[int, int]
    ) -> None:
        part.touch()
        offset = part.stat().st_size
        while offset < n_bytes:
            wanted = range(offset, n_bytes, PIECE_BYTES)[:READ_AHEAD]
            donors, ask = node.donors(), node.mesh.blobs.piece
            pieces = await asyncio.gather(
                *(ask(donors, name, at, min(PIECE_BYTES, n_bytes - at)) for at in wanted)
            )
            await node.world.workers.run(partial(_append, part, pieces))
            offset += sum(len(p) for p in pieces)
            if self._on_bytes is not None:
                self._on_bytes(progress[0] + offset, progress[1])


def _append(path: Path, pieces: list[bytes]) -> None:
    with path.open("ab") as file:
        file.writelines(pieces)


def _put(part: Path, path: Path) -> None:
    """Durably: after a power cut the file is whole or not there."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(path)


def _hash(path: Path) -> Hash:
    hasher = blake3()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            hasher.update(block)
    return Hash(hasher.digest())
