"""What a trainer needs before it starts: token shards and tokenizer, by hash, from any holder."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

from blake3 import blake3

from farflung.data.shards import blobs, needed
from farflung.errors import CorruptState, LinkDown, StorageError
from farflung.events import Warned
from farflung.ids import Hash
from farflung.peer.agent import Agent
from farflung.swarm.records import Genesis
from farflung.transfer.download_plan import PIECE_BYTES

RETRY_S = 0.5
READ_AHEAD = 8
"""Pieces of a file that are asked at a time."""
MANIFEST = "manifest.json"

OnBytes = Callable[[int, int], None]
"""(bytes here, bytes in all)."""


class DataFetch:
    """Token shards of one run in a folder of this node; fetched once, resumed, checked."""

    def __init__(self, folder: Path, on_bytes: OnBytes | None = None) -> None:
        self.folder = folder
        self._on_bytes = on_bytes

    async def provide(self, agent: Agent, genesis: Genesis) -> None:
        """Return when every file is here and intact. Tries until a donor delivers."""
        if not genesis.data:
            return
        self._make()
        manifest = await self._blob(agent, Hash(genesis.data), genesis.data_bytes)
        files = needed(manifest)
        total, here = sum(n for _, _, n in files), 0
        for name, expected, n_bytes in files:
            await self._file(agent, self.folder / name, Hash(expected), n_bytes, (here, total))
            here += n_bytes
        (self.folder / MANIFEST).write_bytes(manifest)
        for name_hash, path in blobs(self.folder).items():
            agent.blobs.add_file(name_hash, path)  # from now on this node serves them too

    def _make(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{self.folder}: {error.strerror}") from None

    async def _blob(self, agent: Agent, name: Hash, n_bytes: int) -> bytes:
        while True:
            try:
                return await agent.mesh.blobs.fetch(agent.donors(), name, n_bytes)
            except (LinkDown, CorruptState) as error:
                agent.world.emit(Warned(sentence=f"the data manifest is not here yet: {error}"))
                await asyncio.sleep(RETRY_S)

    async def _file(
        self, agent: Agent, path: Path, name: Hash, n_bytes: int, progress: tuple[int, int]
    ) -> None:
        """One file; a part that is already here is kept."""
        hashed = agent.world.workers.run
        whole = path.exists() and path.stat().st_size == n_bytes
        if whole and await hashed(lambda: _hash(path)) == name:
            return
        part = path.with_name(f"{path.name}.part")
        while not path.exists():
            try:
                await self._pieces(agent, part, name, n_bytes, progress)
            except LinkDown as error:
                agent.world.emit(Warned(sentence=f"{path.name} is not here yet: {error}"))
                await asyncio.sleep(RETRY_S)
                continue
            if await hashed(lambda: _hash(part)) == name:
                part.replace(path)
            else:
                agent.world.emit(Warned(sentence=f"{path.name} came damaged; fetching it again"))
                part.unlink()

    async def _pieces(
        self, agent: Agent, part: Path, name: Hash, n_bytes: int, progress: tuple[int, int]
    ) -> None:
        part.touch()
        offset = part.stat().st_size
        while offset < n_bytes:
            wanted = range(offset, n_bytes, PIECE_BYTES)[:READ_AHEAD]
            donors, ask = agent.donors(), agent.mesh.blobs.piece
            pieces = await asyncio.gather(
                *(ask(donors, name, at, min(PIECE_BYTES, n_bytes - at)) for at in wanted)
            )
            await agent.world.workers.run(partial(_append, part, pieces))
            offset += sum(len(p) for p in pieces)
            if self._on_bytes is not None:
                self._on_bytes(progress[0] + offset, progress[1])


def _append(path: Path, pieces: list[bytes]) -> None:
    with path.open("ab") as file:
        file.writelines(pieces)


def _hash(path: Path) -> Hash:
    hasher = blake3()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            hasher.update(block)
    return Hash(hasher.digest())
