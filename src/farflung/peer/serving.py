"""What a node's data plane may ask of the node: sizes, frames, blobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from farflung.checkpoint.blob_store import BlobStore
from farflung.checkpoint.input_log import InputLog
from farflung.checkpoint.snapshot import newest
from farflung.errors import ProtocolError, StorageError
from farflung.events import Warned
from farflung.network.messages import Attempt, BulkHeader, CatalogueReply, InnerOffer, JournalFrames
from farflung.peer.averager import Averager
from farflung.peer.follower import Follower
from farflung.peer.pins import Pins
from farflung.trainers.inner_state import InnerStates
from farflung.world import World

JOURNAL_BYTES = 512 << 10
"""Of journal records in one message."""


class Serving:
    """Answers the mesh; used only from the agent's loop."""

    def __init__(self, follower: Follower, blobs: BlobStore, world: World) -> None:
        self.follower = follower
        self.blobs = blobs
        self.inputs = InputLog(world.disk)
        self.pins = Pins(world.clock)
        self._disk = world.disk
        self._workers = world.workers
        self._emit = world.emit
        self.averager: Averager | None = None
        self.inner: InnerStates | None = None

    def expected_bytes(self, header: BulkHeader) -> int:
        if self.averager is None:
            raise ProtocolError("still starting")
        return self.averager.expected_bytes(header)

    def on_bulk(self, sender: str, header: BulkHeader, payload: memoryview) -> None:
        if self.averager is not None:
            self.averager.on_bulk(sender, header, payload)

    def on_link_lost(self, node: str) -> None:
        if self.averager is not None:
            self.averager.on_link_lost(node)

    async def read_blob(self, name: bytes, offset: int, length: int) -> bytes | None:
        """A piece for another node: what it belongs to is kept for a while. The tables are looked
        at here, the disk is read in the pool. Raises StorageError."""
        place = self.follower.log.place(name, offset, length)
        if place is not None:
            round_ = self.follower.log.round_of(name)
            if round_ is not None:
                self.pins.touch_round(round_)
            path, at = place
            return await self._workers.run(lambda: self._disk.read_at(path, at, length))
        if self.inner is not None:
            found = await self.inner.read(name, offset, length)
            if found is not None:
                return found
        self.pins.touch(name)
        return await self._workers.run(lambda: self.blobs.read(name, offset, length))

    def inner_offer(self) -> InnerOffer:
        if self.inner is None:
            return InnerOffer(manifest=b"", manifest_bytes=0)
        return self.inner.offer()

    def on_inner_offer(self, node: str, offer: InnerOffer) -> None:
        if self.inner is not None:
            self.inner.on_offer(node, offer)

    def catalogue(self) -> CatalogueReply:
        pointer = newest(self._disk)
        if pointer is None:
            return CatalogueReply(manifest=b"", manifest_bytes=0, next_round=0)
        return CatalogueReply(
            manifest=bytes.fromhex(pointer.manifest),
            manifest_bytes=pointer.n_bytes,
            next_round=pointer.next_round,
        )

    def journal(self, first: int) -> JournalFrames:
        replica = self.follower.journal
        if not 0 <= first <= replica.length:
            raise ProtocolError(f"record {first} was asked for, of {replica.length}")
        return JournalFrames(first=first, frames=tuple(replica.frames(first, JOURNAL_BYTES)))

    def keep_inputs(
        self, attempt: Attempt, index: int, inputs: Mapping[str, Sequence[bytes]]
    ) -> None:
        """`record = "all"`: what this node reduced, for verify. A full disk ends no round."""
        try:
            self.inputs.store(attempt.round, attempt.term, attempt.attempt, index, inputs)
        except StorageError as error:
            self._emit(Warned(sentence=f"inputs of round {attempt.round} not kept: {error}"))
