"""What a node needs to reach the newest state and to keep it: downloads, replay, snapshots."""

from __future__ import annotations

from collections.abc import Callable

from farflung.run.fetching import Fetcher
from farflung.run.housekeeping import House
from farflung.run.mesh import Mesh
from farflung.run.node import NodeConfig, World
from farflung.run.plant import NodePlant
from farflung.run.replay_fetch import ReplayFetch
from farflung.run.state_source import StateSource


class CatchUp:
    """Owned by the agent's loop."""

    def __init__(
        self,
        config: NodeConfig,
        world: World,
        mesh: Mesh,
        plant: NodePlant,
        donors: Callable[[], list[str]],
    ) -> None:
        follower, blobs = plant.follower, plant.blobs
        self.house = House(
            role=config.role,
            run=config.run,
            disk=world.disk,
            blobs=blobs,
            follower=follower,
            inputs=plant.inputs,
            pins=plant.pins,
            workers=world.workers,
            emit=world.emit,
            max_bytes=config.max_disk_bytes,
        )
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
            sync_journal=follower.journal.sync,
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
