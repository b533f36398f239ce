"""What a node needs to reach the newest state and to keep it: downloads, replay, snapshots."""

from __future__ import annotations

from collections.abc import Callable

from farflung.peer.bootstrap import Bootstrap
from farflung.peer.node import NodeConfig
from farflung.peer.replay import Replay
from farflung.peer.retention import Retention
from farflung.peer.serving import Serving
from farflung.transfer.download import Downloader
from farflung.transfer.mesh import Mesh
from farflung.world import World


class CatchUp:
    """Owned by the agent's loop."""

    def __init__(
        self,
        config: NodeConfig,
        world: World,
        mesh: Mesh,
        serving: Serving,
        donors: Callable[[], list[str]],
    ) -> None:
        follower, blobs = serving.follower, serving.blobs
        self.retention = Retention(
            role=config.role,
            run=config.run,
            disk=world.disk,
            blobs=blobs,
            follower=follower,
            inputs=serving.inputs,
            pins=serving.pins,
            workers=world.workers,
            emit=world.emit,
            max_bytes=config.max_disk_bytes,
        )
        self.fetcher = Downloader(
            exchange=mesh.blobs,
            donors=donors,
            linked=mesh.linked,
            clock=world.clock,
            emit=world.emit,
        )
        self.source = Bootstrap(
            disk=world.disk,
            blobs=blobs,
            sync_journal=follower.journal.sync,
            workers=world.workers,
            clock=world.clock,
            emit=world.emit,
            exchange=mesh.blobs,
            fetcher=self.fetcher,
            donors=donors,
        )
        self.replay = Replay(
            follower=follower,
            fetcher=self.fetcher,
            source=self.source,
            workers=world.workers,
            clock=world.clock,
            emit=world.emit,
        )
