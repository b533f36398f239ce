"""What a vote signs. A vote names bytes and one fragment, never the whole state."""

from __future__ import annotations

import struct

DOMAIN = b"vote"


def vote_body(
    run: str, term: int, round_: int, attempt: int, bytes_root: bytes, fragment_hash: bytes
) -> bytes:
    """The bytes that a voter signs under `DOMAIN`: a vote counts in one run, term and attempt."""
    return (
        run.encode()
        + b"\0"
        + struct.pack("<QQQ", term, round_, attempt)
        + bytes_root
        + fragment_hash
    )
