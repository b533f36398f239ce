"""What brings a node to the newest state: snapshot source, replay, and the downloads under both."""

from __future__ import annotations

from collections.abc import Callable

from farflung.checkpoint.blob_store import BlobStore
from farflung.run.fetching import Fetcher
from farflung.run.follower import Follower
from farflung.run.mesh import Mesh
from farflung.run.node import World
from farflung.run.replay_fetch import ReplayFetch
from farflung.run.state_source import StateSource


class CatchUp:
    """Owned by the agent's loop."""

    def __init__(
        self,
        world: World,
        mesh: Mesh,
        follower: Follower,
        blobs: BlobStore,
        donors: Callable[[], list[str]],
    ) -> None:
        self.fetcher = Fetcher(
            exchange=mesh.blobs,
            donors=donors,
            linked=mesh.linked,
            clock=world.clock,
            emit=world.emit,
        )
        self.source = StateSource(
            disk=world.disk,
            blobs=blobs,
            workers=world.workers,
            clock=world.clock,
            emit=world.emit,
            exchange=mesh.blobs,
            fetcher=self.fetcher,
            donors=donors,
        )
        self.replay = ReplayFetch(
            follower=follower,
            fetcher=self.fetcher,
            source=self.source,
            workers=world.workers,
            clock=world.clock,
            emit=world.emit,
        )
