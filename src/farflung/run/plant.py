"""What a node's data plane may ask of the node: sizes, frames, blobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from farflung.checkpoint.blob_store import BlobStore
from farflung.checkpoint.snapshot import newest
from farflung.disk import Disk
from farflung.errors import ProtocolError
from farflung.network.messages import Attempt, BulkHeader, CatalogueReply, InnerOffer
from farflung.run.averager import Averager
from farflung.run.follower import Follower
from farflung.run.inner_state import InnerStates


class NodePlant:
    """Answers the mesh; used only from the agent's loop."""

    def __init__(self, follower: Follower, blobs: BlobStore, disk: Disk) -> None:
        self._follower = follower
        self._blobs = blobs
        self._disk = disk
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

    def read_blob(self, name: bytes, offset: int, length: int) -> bytes | None:
        found = self._follower.log.read(name, offset, length)
        if found is None and self.inner is not None:
            found = self.inner.read(name, offset, length)
        return found if found is not None else self._blobs.read(name, offset, length)

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

    def keep_inputs(
        self, attempt: Attempt, index: int, inputs: Mapping[str, Sequence[bytes]]
    ) -> None:
        """`--record all`: what this node reduced, for verify."""
        for node, chunks in inputs.items():
            path = f"inputs/{attempt.round}-{attempt.attempt}/{index}-{node}"
            self._disk.replace(path, b"".join(chunks))
