"""What this node sent to each other one since it was last asked, and how well that went.

Bytes are counted here; round trips, losses and the time in which bytes were on their way are the
system's, where it tells them (Linux, TCP). A link that was closed meanwhile counts its bytes only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from farflung.network.link import Connection, LinkCounts
from farflung.network.messages import LinkFigures
from farflung.transfer.mesh import Mesh

MAX_LINKS = 128
"""Of one answer: those with most bytes."""
MEASURABLE_S = 0.02
"""The system counts busy time in ticks of some milliseconds: less says nothing."""


class LinkMeter:
    """Owned by the agent's loop."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._sent: Mapping[str, int] = {}
        self._counts: dict[Connection, LinkCounts] = {}

    def take(self) -> tuple[LinkFigures, ...]:
        """Of every node that something was sent to since the last call."""
        sent, counts = self._mesh.sent_to(), self._look()
        moved = {n: k - self._sent.get(n, 0) for n, k in sent.items()}
        most = sorted((n for n, k in moved.items() if k > 0), key=lambda n: -moved[n])[:MAX_LINKS]
        found = tuple(
            figures(n, moved[n], [_since(counts[c], self._counts.get(c)) for c in links])
            for n in sorted(most)
            for links in [[c for c in self._mesh.open_links(n) if c in counts]]
        )
        self._sent, self._counts = sent, counts
        return found

    def _look(self) -> dict[Connection, LinkCounts]:
        links = (c for n in self._mesh.sent_to() for c in self._mesh.open_links(n))
        return {c: told for c in links if (told := c.counts()) is not None}


def _since(now: LinkCounts, before: LinkCounts | None) -> LinkCounts:
    """What happened between two looks; the round trip and the estimate are the newest."""
    return now if before is None else now.minus(before)


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
