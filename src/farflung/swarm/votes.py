"""What a vote signs. A vote names bytes and one fragment, never the whole state."""

from __future__ import annotations

import struct

DOMAIN = b"vote"


def vote_body(
    term: int, round_: int, attempt: int, bytes_root: bytes, fragment_hash: bytes
) -> bytes:
    """The signed bytes; signed under `DOMAIN` together with the run by the caller's key."""
    return struct.pack("<QQQ", term, round_, attempt) + bytes_root + fragment_hash
