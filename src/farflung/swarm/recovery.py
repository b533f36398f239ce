"""The recovery key: one line of text that makes its holder the owner of a run.

    "ffr1" + base32 lower-case, unpadded( msgpack payload | check 4 )

It is a backup of the two keys that a coordinator cannot do without: the run key, which signs the
journal and invites, and the key of the certificate authority. Everything else of a host's folder
is in the journal, which every node has. docs/decisions/0009-recovery-key.md says why.
"""

from __future__ import annotations

import base64
import binascii

import msgspec
from blake3 import blake3

from farflung.errors import UserError
from farflung.ids import RunId

PREFIX = "ffr1"
SEED_BYTES = 32
_CHECK_BYTES = 4


class Recovery(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Seeds are raw 32-byte Ed25519 private keys."""

    run: RunId
    run_name: str
    run_seed: bytes
    ca_seed: bytes

    def __repr__(self) -> str:
        return f"Recovery({self.run})"  # never the seeds: this may reach a log


def recovery_text(recovery: Recovery) -> str:
    """The canonical text. It holds secrets: it belongs on paper or in a password store."""
    payload = msgspec.msgpack.encode(recovery)
    return PREFIX + base64.b32encode(payload + _check(payload)).decode().rstrip("=").lower()


def parse_recovery(text: str) -> Recovery:
    """Whitespace is dropped, as in invites. UserError when it is not an intact recovery key."""
    joined = "".join(text.split())
    if not joined.startswith(PREFIX):
        raise UserError(
            f"this is not a recovery key: it is one line that begins with {PREFIX}; give the line "
            f"that `farflung host` showed at the run's birth, or the file that holds it"
        )
    encoded = joined[len(PREFIX) :]
    try:
        raw = base64.b32decode(encoded.upper() + "=" * (-len(encoded) % 8))
    except (binascii.Error, ValueError):
        raise _damaged() from None
    payload, check = raw[:-_CHECK_BYTES], raw[-_CHECK_BYTES:]
    if _check(payload) != check:
        raise _damaged()
    try:
        recovery = msgspec.msgpack.decode(payload, type=Recovery)
    except msgspec.MsgspecError:
        raise _damaged() from None
    lengths = (len(recovery.run_seed), len(recovery.ca_seed))
    if lengths != (SEED_BYTES, SEED_BYTES) or recovery_text(recovery) != joined:
        raise _damaged()
    return recovery


def _damaged() -> UserError:
    return UserError("the recovery key is cut off or mistyped; copy the whole line again")


def _check(payload: bytes) -> bytes:
    return blake3(payload).digest()[:_CHECK_BYTES]
