"""A node's Ed25519 key: who it is on the wire (TLS) and what it signs (votes, invites, records)."""

from __future__ import annotations

from typing import Self

from blake3 import blake3
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from farflung.disk import Disk
from farflung.errors import CorruptState
from farflung.ids import NodeId
from farflung.swarm import votes

NODE_ID_BYTES = 20
RECORD = b"journal"
"""Domain of the signatures of journal records, by the run key."""


def node_id_of(public_key: bytes) -> NodeId:
    """Hex of the first 20 bytes of BLAKE3 of the raw 32-byte public key."""
    return NodeId(blake3(public_key).digest()[:NODE_ID_BYTES].hex())


def signed_bytes(domain: bytes, body: bytes) -> bytes:
    """What is really signed: a signature for one purpose is worthless for any other.

    The domain holds no NUL byte, so that (domain, body) is read back in one way only.
    """
    if b"\0" in domain:
        raise ValueError(f"signature domain {domain!r} must not contain NUL")
    return b"farflung/" + domain + b"\0" + body


def verify(public_key: bytes, domain: bytes, body: bytes, signature: bytes) -> bool:
    """True when `signature` (64 bytes) is the key's over this domain and body. Never raises for
    malformed keys or signatures."""
    try:
        key = Ed25519PublicKey.from_public_bytes(public_key)
        key.verify(signature, signed_bytes(domain, body))
    except (InvalidSignature, ValueError):
        return False
    return True


def verify_record(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """True when the run key signed this journal entry (`previous hash | body`)."""
    return verify(public_key, RECORD, message, signature)


def verify_vote(public_key: bytes, body: bytes, signature: bytes) -> bool:
    """True when a node signed this vote (`swarm.votes.vote_body`)."""
    return verify(public_key, votes.DOMAIN, body, signature)


class Identity:
    """One key pair. `private_pem` is for TLS contexts and for the disk only."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public_key: bytes = key.public_key().public_bytes_raw()
        self.node_id: NodeId = node_id_of(self.public_key)

    @classmethod
    def generate(cls) -> Self:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes) -> Self:
        """The key whose private seed is these 32 bytes: a recovery key's, or a simulation's."""
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def load(cls, disk: Disk, path: str) -> Self | None:
        """None when there is no file. CorruptState when it is no Ed25519 key."""
        pem = disk.read(path)
        if pem is None:
            return None
        try:
            key = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError) as error:
            raise CorruptState(f"{path} holds no private key ({error}); restore it") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise CorruptState(f"{path} holds no Ed25519 key; restore it from a copy")
        return cls(key)

    @classmethod
    def load_or_create(cls, disk: Disk, path: str) -> Self:
        """The stored key, or a new one that is durable before it is returned."""
        known = cls.load(disk, path)
        if known is not None:
            return known
        new = cls.generate()
        disk.replace(path, new.private_pem)
        return new

    @property
    def private_pem(self) -> bytes:
        """PKCS8, not encrypted."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def seed(self) -> bytes:
        """The raw 32-byte private key, for the recovery key only."""
        return self._key.private_bytes_raw()

    def sign(self, domain: bytes, body: bytes) -> bytes:
        """64 bytes. RFC 8032: deterministic."""
        return self._key.sign(signed_bytes(domain, body))

    def __repr__(self) -> str:
        return f"Identity({self.node_id})"
