"""What a node's data plane may ask of the node: sizes, frames, blobs."""

from __future__ import annotations

from farflung.checkpoint.snapshot import newest
from farflung.errors import ProtocolError
from farflung.network.messages import (
    BulkHeader,
    CatalogueReply,
    Contribution,
    InnerOffer,
    JournalFrames,
    SliceResult,
)
from farflung.peer.generations import Generations
from farflung.peer.node import LocalNode
from farflung.peer.pins import Pins
from farflung.trainers.inner_state import InnerStates

JOURNAL_BYTES = 512 << 10
"""Of journal records in one message."""


class Serving:
    """Answers the mesh; used only from the agent's loop."""

    def __init__(
        self,
        node: LocalNode,
        generations: Generations,
        pins: Pins,
        inner: InnerStates,
    ) -> None:
        self._follower = node.follower
        self._disk = node.world.disk
        self._workers = node.world.workers
        self._generations = generations
        self._pins = pins
        self._inner = inner

    def expected_bytes(self, header: BulkHeader) -> int:
        """Exact size of a slice frame: it follows from the run, the round and the chunks."""
        if not isinstance(header, Contribution | SliceResult) or not self._follower.ready:
            raise ProtocolError(f"{type(header).__name__} is not expected here")
        state = self._follower.state
        try:
            grid = state.grid(header.round % len(state.fragments))
            return grid.bytes_between(header.first, header.stop)
        except ValueError as error:
            raise ProtocolError(str(error)) from None

    def on_bulk(self, sender: str, header: BulkHeader, payload: memoryview) -> None:
        """A frame of a round; between two stays it is of no use to anybody."""
        if self._generations.current is not None:
            self._generations.current.averager.on_bulk(sender, header, payload)

    def on_link_lost(self, node: str) -> None:
        if self._generations.current is not None:
            self._generations.current.averager.on_link_lost(node)

    async def read_blob(self, name: bytes, offset: int, length: int) -> bytes | None:
        """A piece for another node: what it belongs to is kept for a while. The tables are looked
        at here, the disk is read in the pool. Raises StorageError."""
        place = self._follower.log.place(name, offset, length)
        if place is not None:
            round_ = self._follower.log.round_of(name)
            if round_ is not None:
                self._pins.touch_round(round_)
            path, at = place
            return await self._workers.run(lambda: self._disk.read_at(path, at, length))
        found = await self._inner.read(name, offset, length)
        if found is not None:
            return found
        self._pins.touch(name)
        return await self._workers.run(lambda: self._follower.blobs.read(name, offset, length))

    def inner_offer(self) -> InnerOffer:
        return self._inner.offer()

    def on_inner_offer(self, node: str, offer: InnerOffer) -> None:
        self._inner.on_offer(node, offer)

    def catalogue(self) -> CatalogueReply:
        pointer = newest(self._follower.disk)
        if pointer is None:
            return CatalogueReply(manifest=b"", manifest_bytes=0, next_round=0)
        return CatalogueReply(
            manifest=bytes.fromhex(pointer.manifest),
            manifest_bytes=pointer.n_bytes,
            next_round=pointer.next_round,
        )

    def journal(self, first: int) -> JournalFrames:
        replica = self._follower.journal
        if not 0 <= first <= replica.length:
            raise ProtocolError(f"record {first} was asked for, of {replica.length}")
        return JournalFrames(first=first, frames=tuple(replica.frames(first, JOURNAL_BYTES)))
