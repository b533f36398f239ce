"""Invites: one line of text that lets a stranger redeem a certificate of a run.

    "ff1" + base32 lower-case, unpadded( length u16 | msgpack payload | signature 64 | check 4 )

`length` counts all that follows it. The signature is the run key's, over the payload, in the
domain `invite`; the check is BLAKE3 of everything before it and tells a typing mistake from a
forgery. Only the canonical text of an invite parses.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
import secrets
from collections.abc import Sequence

import msgspec
from blake3 import blake3

from farflung.errors import InviteError
from farflung.ids import Endpoint, Role, RunId, split_endpoint
from farflung.swarm.identity import Identity, verify

PREFIX = "ff1"
ROLES = (Role.TRAINER, Role.KEEPER)
NONCE_BYTES = 16
MAX_CHARACTERS = 3072
"""A Redeem message with the invite must fit into the 4 KiB that strangers may send."""
_DOMAIN = b"invite"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SIGNATURE_BYTES = 64
_CHECK_BYTES = 4
_AROUND = "\"'`<>\\\ufeff\u200b\u2018\u2019\u201c\u201d\u00ab\u00bb"
"""Quotes of terminals, mails and chats; invisible characters that they add."""
_BEFORE = ("$", "farflung", "join")
_SHOWN = 40
_LEAST_BYTES = _SIGNATURE_BYTES + _CHECK_BYTES + 1
_ASK = "ask the host for a new one"


class Invite(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What the host promises. Key fields are raw 32-byte Ed25519 public keys."""

    run: RunId
    run_name: str
    ca_public_key: bytes
    run_public_key: bytes
    endpoints: tuple[Endpoint, ...]
    """Of the coordinator, in the order in which to try them."""
    role: Role
    """`trainer` or `keeper`."""
    expires_at: int
    """Wall-clock seconds since 1970; the coordinator's clock judges."""
    uses: int
    nonce: bytes
    """The coordinator counts redemptions by it."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Invite)


def make_invite(
    run_identity: Identity,
    *,
    run: RunId,
    run_name: str,
    ca_public_key: bytes,
    endpoints: Sequence[Endpoint],
    role: Role,
    expires_at: int,
    uses: int,
    nonce: bytes | None = None,
) -> str:
    """The signed text. InviteError when a value breaks a rule."""
    invite = Invite(
        run=run,
        run_name=run_name,
        ca_public_key=ca_public_key,
        run_public_key=run_identity.public_key,
        endpoints=tuple(endpoints),
        role=role,
        expires_at=expires_at,
        uses=uses,
        nonce=secrets.token_bytes(NONCE_BYTES) if nonce is None else nonce,
    )
    _check_values(invite)
    payload = _encoder.encode(invite)
    text = _to_text(payload + run_identity.sign(_DOMAIN, payload))
    if len(text) > MAX_CHARACTERS:
        raise InviteError(
            f"the invite has {len(text)} characters, at most {MAX_CHARACTERS} fit; "
            "name fewer endpoints"
        )
    return text


def parse_invite(text: str) -> Invite:
    """Check form, checksum, signature and values. Raises InviteError with a sentence.

    Whitespace is dropped: terminals and mail wrap long lines. Expiry is `check_expiry`.
    """
    raw = _from_text("".join(text.split()))
    payload, signature = raw[:-_SIGNATURE_BYTES], raw[-_SIGNATURE_BYTES:]
    try:
        invite = _decoder.decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise InviteError(f"the invite's content is not readable; {_ASK}") from None
    if not verify(invite.run_public_key, _DOMAIN, payload, signature):
        raise InviteError(f"the invite's signature is not its run's: it was altered; {_ASK}")
    if _encoder.encode(invite) != payload:
        raise InviteError(f"the invite is not in canonical form; {_ASK}")
    _check_values(invite)
    return invite


def tidy(pasted: str) -> str:
    """The invite in what a person pasted: without line breaks, quotes, the marks of a quoted mail,
    a byte-order mark, or the command in front of it. What else is in it, `parse_invite` explains.
    """
    text = "".join(c for c in pasted if not c.isspace() and c not in _AROUND)
    for word in _BEFORE:
        text = text.removeprefix(word)
    return text


def check_expiry(invite: Invite, wall_now: float) -> None:
    """InviteError when the invite has expired. `wall_now`: seconds since 1970."""
    late_s = wall_now - invite.expires_at
    if late_s >= 0:
        raise InviteError(f"the invite expired {_duration(late_s)} ago; {_ASK}")


def loopback_only(invite: Invite) -> bool:
    """True when only this machine can reach the endpoints."""
    return all(is_loopback(endpoint) for endpoint in invite.endpoints)


def is_loopback(endpoint: Endpoint) -> bool:
    host, _ = split_endpoint(endpoint)
    if host.rstrip(".").lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _to_text(signed: bytes) -> str:
    body = (len(signed) + _CHECK_BYTES).to_bytes(2, "big") + signed
    raw = body + _check(body)
    return PREFIX + base64.b32encode(raw).decode().rstrip("=").lower()


def _from_text(text: str) -> bytes:
    """Payload and signature, checksum verified."""
    if not text.startswith(PREFIX):
        shown = text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
        raise InviteError(
            f"{shown!r} is no invite: an invite is one line that begins with {PREFIX}; copy it "
            f"from the host's terminal, or name a file that holds it"
        )
    raw = _decode_base32(text[len(PREFIX) :])
    missing = int.from_bytes(raw[:2], "big") - (len(raw) - 2)
    if len(raw) < 2 or missing > 0:
        raise InviteError("the invite is cut off: copy the whole line, to its end")
    body, check = raw[:-_CHECK_BYTES], raw[-_CHECK_BYTES:]
    if missing < 0 or len(raw) < 2 + _LEAST_BYTES or _check(body) != check:
        raise InviteError("the invite has a wrong checksum: a character was changed; copy it again")
    if PREFIX + base64.b32encode(raw).decode().rstrip("=").lower() != text:
        raise InviteError("the invite has a wrong last character; copy it again")
    return body[2:]


def _decode_base32(text: str) -> bytes:
    """As much as whole characters give; stray characters are an InviteError."""
    if len(text) > MAX_CHARACTERS:
        raise InviteError(f"the invite has more than {MAX_CHARACTERS} characters; copy it again")
    if not text.isascii() or text != text.lower():
        raise InviteError("the invite has a character that does not belong; copy it again")
    # 1, 3 or 6 characters in the last group of 8 carry no whole byte more: only a cut makes them.
    if len(text) % 8 in (1, 3, 6):
        text = text[:-1]
    try:
        return base64.b32decode(text.upper() + "=" * (-len(text) % 8))
    except binascii.Error:
        raise InviteError(
            "the invite has a character that does not belong; copy it again"
        ) from None


def _check(body: bytes) -> bytes:
    return blake3(body).digest()[:_CHECK_BYTES]


def _check_values(invite: Invite) -> None:
    if len(invite.ca_public_key) != 32 or len(invite.run_public_key) != 32:
        raise InviteError("an invite needs two public keys of 32 bytes")
    if invite.role not in ROLES:
        raise InviteError(f"role {invite.role!r} of an invite must be one of {', '.join(ROLES)}")
    if not _NAME.fullmatch(invite.run_name):  # it becomes the name of a folder
        raise InviteError(f"run name {invite.run_name!r} of an invite is none; {_ASK}")
    if invite.uses < 1:
        raise InviteError(f"{invite.uses} uses: an invite needs at least one")
    if len(invite.nonce) != NONCE_BYTES:
        raise InviteError(f"an invite's nonce has {NONCE_BYTES} bytes, not {len(invite.nonce)}")
    if not invite.endpoints:
        raise InviteError("an invite needs at least one endpoint; give --advertise HOST:PORT")
    for endpoint in invite.endpoints:
        try:
            split_endpoint(endpoint)
        except ValueError as error:
            raise InviteError(str(error)) from None


def _duration(seconds: float) -> str:
    """For people: `40 s`, `12 min`, `5 h`, `3 days`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    if seconds < 172_800:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 86_400:.0f} days"
