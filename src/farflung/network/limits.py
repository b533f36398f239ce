"""How much a remote party may make this node hold, and for how long. docs/wire.md, section 3."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from farflung.errors import FrameError
from farflung.network import messages as m

KIB = 1024
MIB = 1024 * KIB
BULK_PAYLOAD_CAP = 8 * MIB
"""Largest payload of one bulk frame; senders cut larger things."""

TYPE_CAPS: dict[type[m.Control | m.BulkHeader], int] = {
    m.Redeem: 4 * KIB,
    m.Redeemed: 16 * KIB,
    m.Hello: 8 * KIB,
    m.Welcome: KIB,
    m.Donors: 256 * KIB,
    m.Refuse: 4 * KIB,
    m.JournalFrames: MIB,
    m.Synced: KIB,
    m.Beat: KIB,
    m.Leave: 4 * KIB,
    m.StatusRequest: KIB,
    m.Status: MIB,
    m.Plan: 256 * KIB,
    m.Ready: 256 * KIB,
    m.Attempt: MIB,
    m.Statistics: 64 * KIB,
    m.Verdict: 64 * KIB,
    m.Result: KIB,
    m.Vote: KIB,
    m.Accuse: 64 * KIB,
    m.Moved: KIB,
    m.RoundMeasures: 16 * KIB,
    m.Evaluate: KIB,
    m.Measured: 256 * KIB,
    m.DataHello: KIB,
    m.Fetch: KIB,
    m.Catalogue: KIB,
    m.CatalogueReply: KIB,
    m.Dispute: KIB,
    m.FetchJournal: KIB,
    m.InnerWanted: KIB,
    m.InnerOffer: KIB,
    m.Extend: 4 * KIB,
    m.Extended: 4 * KIB,
    m.Contribution: 4 * MIB,
    m.SliceResult: KIB,
    m.Blob: KIB,
}
"""Largest meta section in bytes by message type; the frame's kind caps it before allocation."""

_OTHER = 64 * KIB


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes and seconds. Tests shorten the times; nodes use the defaults."""

    control_meta: int = MIB
    bulk_meta: int = 4 * MIB
    bulk_payload: int = BULK_PAYLOAD_CAP
    stranger_meta: int = 4 * KIB
    strangers: int = 64
    """Connections without a verified certificate, those in the TLS handshake included."""
    strangers_per_address: int = 8
    handshake_s: float = 5.0
    first_message_s: float = 5.0
    """A stranger's first complete message, from the end of the handshake."""
    stranger_s: float = 30.0
    """A stranger's whole connection."""
    stall_s: float = 30.0
    """A frame that has begun must end after this plus its size at `floor_bytes_per_s`."""
    floor_bytes_per_s: int = 8 * KIB
    queue_frames: int = 1024
    """Frames and bytes that wait for `receive` before reading pauses."""
    queue_bytes: int = 64 * MIB
    write_high: int = 4 * MIB
    """Bytes waiting for the socket at which senders wait, until `write_low` are left."""
    write_low: int = MIB
    shutdown_s: float = 2.0

    def for_strangers(self) -> Limits:
        """The caps before authentication: small control messages only."""
        return replace(
            self,
            control_meta=self.stranger_meta,
            bulk_meta=0,
            bulk_payload=0,
            stall_s=self.first_message_s,
            queue_frames=4,
            queue_bytes=4 * self.stranger_meta,
        )


def check_type_cap(kind: type[m.Control | m.BulkHeader], meta_bytes: int) -> None:
    """FrameError when a message is larger than its type may be."""
    cap = TYPE_CAPS.get(kind, _OTHER)
    if meta_bytes > cap:
        raise FrameError(f"{kind.__name__} of {meta_bytes} bytes exceeds its cap of {cap} bytes")


class Counters:
    """What was turned away, by kind: `frame`, `protocol`, `handshake`, `slow`, `crowd`."""

    def __init__(self, on_reject: Callable[[str, str], None] | None = None) -> None:
        self.rejected: Counter[str] = Counter()
        self._on_reject = on_reject

    def reject(self, kind: str, sentence: str) -> None:
        """Count one and tell the callback (kind, sentence for the log)."""
        self.rejected[kind] += 1
        if self._on_reject is not None:
            self._on_reject(kind, sentence)
