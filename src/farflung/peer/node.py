"""Who a node is."""

from __future__ import annotations

from dataclasses import dataclass

from farflung.ids import Endpoint, NodeId, Role


@dataclass(frozen=True, kw_only=True)
class NodeConfig:
    """Who this node is and how it is reached."""

    node: NodeId
    run: str
    name: str
    region: str
    role: Role
    coordinators: tuple[str, ...]
    bind: Endpoint | None
    """Data plane; None: no inbound connections, outbound only."""
    advertise: tuple[str, ...] = ()
    """What others dial; empty: where it listens."""
    max_disk_bytes: int = 0
    """Limit on log, snapshots, inputs and cache; 0: a share of what is free."""
