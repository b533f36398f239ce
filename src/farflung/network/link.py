"""What a connection between two nodes is; tcp.py carries it over TLS, memory.py in one process.

Threads: everything here belongs to one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from farflung.errors import ProtocolError
from farflung.ids import Endpoint, NodeId
from farflung.network.messages import BulkHeader, Control
from farflung.tasks import Tasks

COORDINATOR = "coordinator"
PEER = "peer"
STRANGER = ""


@dataclass(frozen=True, slots=True)
class BulkFrame:
    header: BulkHeader
    payload: memoryview
    """Read-only bytes, uint8, owned by the receiver."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkCounts:
    """What the system counts of one connection, since it was opened."""

    acknowledged: int
    """Bytes that the other side's machine has taken, TLS included."""
    segments: int
    """With data, sent; those that were sent again included."""
    retransmitted: int
    """Segments that were sent again."""
    busy_s: float
    """Time in which bytes were on their way."""
    rtt_s: float
    """Smoothed; of now."""
    delivery_bytes_per_s: float
    """What the system believes that the path takes; of now."""

    def minus(self, before: LinkCounts) -> LinkCounts:
        """What was counted since an earlier look."""
        return LinkCounts(
            acknowledged=max(0, self.acknowledged - before.acknowledged),
            segments=(self.segments - before.segments) % 2**32,
            retransmitted=(self.retransmitted - before.retransmitted) % 2**32,
            busy_s=max(0.0, self.busy_s - before.busy_s),
            rtt_s=self.rtt_s,
            delivery_bytes_per_s=self.delivery_bytes_per_s,
        )


Received = Control | BulkFrame

BulkSize = Callable[[BulkHeader], int]


class Connection(Protocol):
    """One ordered, reliable, authenticated channel. One task receives; many may send."""

    remote: NodeId | None
    """From the verified certificate; None: a stranger without one."""
    remote_role: str
    """`coordinator`, `peer` or empty, from the certificate."""
    sent_bytes: int
    """Frames and payloads accepted for sending, without TLS."""
    bulk_size: BulkSize | None
    """Set by the owner. Called when all that came before the header was handed to `receive`, and
    before the payload is allocated: the exact payload bytes, or ProtocolError. None: no bulk."""

    @property
    def received_bytes(self) -> int:
        """Bytes that have arrived, those of unfinished frames included."""

    @property
    def waiting_bytes(self) -> int:
        """Sent and not yet acknowledged by the other side's machine, as far as can be known."""

    @property
    def acknowledged_bytes(self) -> int:
        """What the other side's machine has taken so far; never less than before."""

    def counts(self) -> LinkCounts | None:
        """The system's figures; None where it tells none, in memory, and once it is closed."""

    async def send(self, message: Control) -> None:
        """Queue one whole frame and wait while the link is congested. LinkDown when closed.

        Cancelling never leaves half a frame behind.
        """

    async def send_bulk(self, header: BulkHeader, payload: bytes | memoryview) -> None:
        """As `send`; one bulk frame at a time per connection, control frames overtake."""

    async def receive(self) -> Received:
        """The next frame. LinkDown when closed, after all that arrived; FrameError or
        ProtocolError for bad bytes, which also closes the connection."""

    def close(self, reason: str = "") -> None:
        """Send what is queued, then end. Idempotent; `receive` raises LinkDown from now on."""


Accept = Callable[[Connection], Awaitable[None]]


class Transport(Protocol):
    """Dials and listens with one identity."""

    async def listen(self, bind: Endpoint, accept: Accept, tasks: Tasks) -> Endpoint:
        """Run `accept` as a task for each inbound connection; the real endpoint (port 0 resolved).

        A connection is closed when its `accept` raises; returning leaves it open. `tasks` are the
        listener's: a fault of one `accept` ends its connection, one of the listening itself ends
        what `tasks` belong to. LinkDown when the address cannot be bound.
        """

    async def dial(
        self, endpoint: Endpoint, *, expect: NodeId | None, deadline_s: float
    ) -> Connection:
        """Connect to `expect`, or with None to the run's coordinator, by certificate.

        LinkDown when nobody answers by the deadline; ProtocolError when somebody else does.
        """

    async def close(self) -> None:
        """Stop listening, close every connection and wait for the `accept` tasks."""


def check_bulk(bulk_size: BulkSize | None, header: BulkHeader, payload_bytes: int) -> None:
    """ProtocolError unless the owner expects exactly this payload."""
    kind = type(header).__name__
    if bulk_size is None:
        raise ProtocolError(f"{kind}: no bulk frames are expected on this connection")
    expected = bulk_size(header)
    if expected != payload_bytes:
        raise ProtocolError(f"{kind} carries {payload_bytes} bytes, the plan says {expected}")


async def finish(tasks: Iterable[asyncio.Task[None]], grace_s: float) -> None:
    """Wait for other tasks to end; cancel those that have not after `grace_s`."""
    others = [task for task in tasks if task is not asyncio.current_task()]
    if others:
        _, late = await asyncio.wait(others, timeout=grace_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
