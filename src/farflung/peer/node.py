"""One node of one run: who it is, and what every part of it works with."""

from __future__ import annotations

from dataclasses import dataclass, field

from farflung.averaging.rates import RateMeter
from farflung.checkpoint.input_log import InputLog
from farflung.ids import Endpoint, NodeId, Role
from farflung.peer.control_link import ControlLink
from farflung.peer.disk_budget import KEEP_ALL, Keep
from farflung.peer.follower import Follower
from farflung.peer.measures import RoundBook
from farflung.transfer.donors import DonorList
from farflung.transfer.link_meter import LinkMeter
from farflung.transfer.mesh import Mesh
from farflung.world import World


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
    keep: Keep = KEEP_ALL
    """A keeper's: what `verify` would want and nobody else needs goes earlier than at the limit."""


@dataclass(frozen=True, kw_only=True)
class LocalNode:
    """Lives as long as its process; built in run/assemble.py."""

    config: NodeConfig
    world: World
    follower: Follower
    inputs: InputLog
    mesh: Mesh
    donors: DonorList
    control: ControlLink
    measures: RoundBook
    """What it does when, for people."""
    meter: LinkMeter
    rates: RateMeter = field(default_factory=RateMeter)
    """Of this node's network, from the exchanges so far."""
