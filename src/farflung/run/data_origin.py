"""Where a node gets parts of data files from: other nodes, or a store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from farflung.data.manifest import File
from farflung.errors import LinkDown
from farflung.peer.node import LocalNode
from farflung.run.remote_folder import RemoteFolder
from farflung.transfer.download_plan import PIECE_BYTES


class Origin(Protocol):
    name: str
    """For people."""

    async def read(self, file: File, offset: int, length: int) -> bytes:
        """A part of a file, unchecked. Raises LinkDown."""


class NodesOrigin:
    """Whoever of the run has the file: the host, and peers that hold it whole."""

    name = "the run's nodes"

    def __init__(self, node: LocalNode) -> None:
        self._node = node

    async def read(self, file: File, offset: int, length: int) -> bytes:
        pieces = []
        for at in range(offset, offset + length, PIECE_BYTES):
            n = min(PIECE_BYTES, offset + length - at)
            donors = self._node.donors()
            pieces.append(await self._node.mesh.blobs.piece(donors, file.digest, at, n))
        return b"".join(pieces)


class StoreOrigin:
    """The store that the spec names."""

    def __init__(self, url: str) -> None:
        """Raises ConfigError without obstore or for a bad address."""
        self._folder = RemoteFolder(url)
        self.name = self._folder.url

    async def read(self, file: File, offset: int, length: int) -> bytes:
        return await self._folder.read(file.file, offset, length)


async def read_any(origins: Sequence[Origin], file: File, offset: int, length: int) -> bytes:
    """From the first that has it. Raises LinkDown with the first one's reason."""
    failure: LinkDown | None = None
    for origin in origins:
        try:
            return await origin.read(file, offset, length)
        except LinkDown as error:
            failure = failure or error
    raise failure or LinkDown("nobody has it")
