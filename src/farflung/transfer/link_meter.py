"""What this node sent to each other one since it was last asked, and how well that went.

Bytes are counted here; round trips, losses and the time in which bytes were on their way are the
system's, where it tells them (Linux, TCP). A link that was closed meanwhile counts its bytes only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from farflung.network.link import Connection, LinkCounts
from farflung.network.messages import LinkFigures
from farflung.transfer.mesh import Mesh

MAX_LINKS = 16
"""Of one answer; of more, the next ones each time."""
MEASURABLE_S = 0.02
"""The system counts busy time in ticks of some milliseconds: less says nothing."""


class LinkMeter:
    """Owned by the agent's loop."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._sent: Mapping[str, int] = {}
        self._counts: dict[str, dict[Connection, LinkCounts]] = {}
        """By node, of its links that were open when it was last told."""
        self._last = ""
        """The node that was told last."""

    def take(self) -> tuple[LinkFigures, ...]:
        """Of nodes that something was sent to since the last call, in turn. Rates and losses are
        since that node was last told."""
        sent = self._mesh.sent_to()
        moved = {n: k - self._sent.get(n, 0) for n, k in sent.items() if k > self._sent.get(n, 0)}
        self._sent = sent
        chosen = sorted(moved, key=lambda n: (n <= self._last, n))[:MAX_LINKS]
        self._last = chosen[-1] if chosen else self._last
        self._forget_closed()
        return tuple(figures(n, moved[n], self._look(n)) for n in chosen)

    def _forget_closed(self) -> None:
        for node, counts in list(self._counts.items()):
            links = self._mesh.open_links(node)
            if any(link not in links for link in counts):
                self._counts[node] = {k: c for k, c in counts.items() if k in links}

    def _look(self, node: str) -> list[LinkCounts]:
        """What the system has counted on the links to a node since the last look at it."""
        before = self._counts.get(node, {})
        links = self._mesh.open_links(node)
        now = {link: told for link in links if (told := link.counts()) is not None}
        self._counts[node] = now
        return [c.minus(before[link]) if link in before else c for link, c in now.items()]


def figures(node: str, sent_bytes: int, links: Sequence[LinkCounts]) -> LinkFigures:
    """Of the links to one node; the round trip is that of the one which moved most. Pure."""
    busy = max(links, key=lambda c: c.acknowledged, default=None)
    if busy is None:
        return LinkFigures(node=node, bytes=sent_bytes)
    segments = sum(c.segments for c in links)
    lost = sum(c.retransmitted for c in links)
    return LinkFigures(
        node=node,
        bytes=sent_bytes,
        bytes_per_s=_rate(links),
        rtt_s=busy.rtt_s,
        loss=min(1.0, lost / segments) if segments else -1.0,
    )


def _rate(links: Sequence[LinkCounts]) -> float:
    """Acknowledged bytes over the time in which some were on their way; where that was too short
    to be measured, what the system believes that the path takes."""
    busy_s = sum(c.busy_s for c in links)
    if busy_s >= MEASURABLE_S:
        return sum(c.acknowledged for c in links) / busy_s
    return max(c.delivery_bytes_per_s for c in links)
