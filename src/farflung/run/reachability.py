"""Whether a peer can be dialled where it says that others can: the host tries, once per address.

A peer that listens behind a router's back trains and averages, but every exchange that needs a link
to it fails, and it cannot notice that itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket

from farflung.coordinator.coordinator import Coordinator
from farflung.errors import LinkDown, ProtocolError
from farflung.events import Emit, PeerUnreachable
from farflung.ids import GUESTS, Endpoint, NodeId
from farflung.network.link import Transport
from farflung.swarm.state import Link, Node

LOOK_S = 3.0
DIAL_S = 5.0
TRIES = 3
AGAIN_S = 5.0
AT_A_TIME = 8


class Prober:
    """Until cancelled. Owned by the host's loop."""

    def __init__(self, coordinator: Coordinator, transport: Transport, emit: Emit) -> None:
        """`transport`: of a peer of this host, its keeper."""
        self._coordinator = coordinator
        self._transport = transport
        self._emit = emit
        self._known: dict[str, tuple[str, ...]] = {}
        """node -> the addresses that were tried."""

    async def run(self) -> None:
        """Look for peers that came, or came back with another address."""
        while True:
            await asyncio.sleep(LOOK_S)
            nodes = list(self._coordinator.state.nodes.values())
            new = [n for n in nodes if self._is_new(n)][:AT_A_TIME]
            self._known |= {n.node: n.endpoints for n in new}
            await asyncio.gather(*(self._try(node) for node in new))

    def _is_new(self, node: Node) -> bool:
        here = node.role in GUESTS and node.link is not Link.GONE
        return here and bool(node.endpoints) and self._known.get(node.node) != node.endpoints

    async def _try(self, node: Node) -> None:
        """Emit PeerUnreachable when none of its addresses answers."""
        for attempt in range(TRIES):
            if attempt:
                await asyncio.sleep(AGAIN_S)
            reason = await self._reason(node)
            now = self._coordinator.state.nodes[node.node]
            if not reason:
                return
            if now.link is Link.GONE or now.endpoints != node.endpoints or not _sockets_left():
                self._known.pop(node.node, None)  # it, or this machine, is asked again
                return
        self._emit(PeerUnreachable(node=node.node, name=node.name, reason=reason))

    async def _reason(self, node: Node) -> str:
        """Why it cannot be dialled, in a few words; empty when it can."""
        reasons = []
        for endpoint in node.endpoints:
            try:
                link = await self._transport.dial(
                    Endpoint(endpoint), expect=NodeId(node.node), deadline_s=DIAL_S
                )
            except (LinkDown, ProtocolError) as error:
                reasons.append(str(error))
                continue
            with contextlib.suppress(LinkDown):
                link.close()
            return ""
        return "; ".join(reasons)


def _sockets_left() -> bool:
    """Whether it was this process that could not dial: it has no descriptor left."""
    try:
        socket.socket().close()
    except OSError:
        return False
    return True
