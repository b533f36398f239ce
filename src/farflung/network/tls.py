"""Who may speak: the run's certificate authority and the TLS contexts made from its certificates.

TLS 1.3 only, Ed25519 throughout. A certificate carries one URI in its subject alternative name,
`farflung:RUN/ROLE/NODE`; that URI, never an address, says who a connection leads to. Servers take
clients without a certificate too (CERT_OPTIONAL): such a stranger can only redeem an invite.
"""

from __future__ import annotations

import os
import ssl
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from farflung.disk import Disk
from farflung.errors import CorruptState, ProtocolError, StorageError
from farflung.ids import NodeId, RunId
from farflung.network.link import COORDINATOR, PEER

LIFETIME_HOURS = 24.0
SKEW = timedelta(hours=24)
"""Certificates begin this long before they are issued: contributors' clocks are wrong."""
_CA_LIFETIME = timedelta(days=3650)
_SCHEME = "farflung:"


@dataclass(frozen=True, slots=True)
class PeerName:
    """What a certificate says about its holder."""

    run: str
    role: str
    node: NodeId

    @property
    def uri(self) -> str:
        return f"{_SCHEME}{self.run}/{self.role}/{self.node}"

    @classmethod
    def parse(cls, uri: str) -> Self:
        """ProtocolError when it is not `farflung:RUN/ROLE/NODE`."""
        parts = uri.removeprefix(_SCHEME).split("/")
        if not uri.startswith(_SCHEME) or len(parts) != 3 or not all(parts):
            raise ProtocolError(f"certificate names {uri!r}, not {_SCHEME}RUN/ROLE/NODE")
        if parts[1] not in (COORDINATOR, PEER):
            raise ProtocolError(f"certificate has the unknown role {parts[1]!r}")
        return cls(parts[0], parts[1], NodeId(parts[2]))


# ---- issuing -------------------------------------------------------------------------------


class RunAuthority:
    """The run's certificate authority. Lives with the coordinator only."""

    def __init__(self, run: RunId, key: Ed25519PrivateKey, certificate: x509.Certificate) -> None:
        self.run = run
        self._key = key
        self._certificate = certificate
        self.public_key: bytes = key.public_key().public_bytes_raw()
        self.ca_pem: str = certificate.public_bytes(Encoding.PEM).decode()

    @classmethod
    def create(
        cls, run: RunId, *, seed: bytes | None = None, wall_now: float | None = None
    ) -> Self:
        """A fresh key, or that of a recovery key's 32-byte seed, and its self-signed certificate.

        `wall_now`: seconds since 1970. Certificates of an older authority with the same key stay
        valid: nodes check name and key of the authority, which are the same.
        """
        key = Ed25519PrivateKey.from_private_bytes(seed) if seed else Ed25519PrivateKey.generate()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, run)])
        public, start = key.public_key(), _moment(wall_now)
        builder = _builder(name, name, public, start - SKEW, start + _CA_LIFETIME)
        builder = builder.add_extension(x509.BasicConstraints(True, 0), critical=True)
        builder = builder.add_extension(_key_usage(ca=True), critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
        return cls(run, key, builder.sign(key, None))

    @classmethod
    def load(cls, disk: Disk, path: str, run: RunId) -> Self | None:
        """None when there is no file. CorruptState when it is not this run's authority."""
        pem = disk.read(path)
        if pem is None:
            return None
        try:
            key = load_pem_private_key(pem, password=None)
            certificate = x509.load_pem_x509_certificate(pem)
        except (ValueError, TypeError) as error:
            raise CorruptState(f"{path} holds no certificate authority ({error})") from None
        owner = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        if not isinstance(key, Ed25519PrivateKey) or [a.value for a in owner] != [run]:
            raise CorruptState(f"{path} is not the authority of run {run}; restore it from a copy")
        return cls(run, key, certificate)

    @classmethod
    def load_or_create(cls, disk: Disk, path: str, run: RunId) -> Self:
        """The stored authority, or a new one that is durable before it is returned."""
        known = cls.load(disk, path, run)
        if known is not None:
            return known
        new = cls.create(run)
        disk.replace(path, new.private_pem)
        return new

    @property
    def seed(self) -> bytes:
        """The raw 32-byte private key, for the recovery key only."""
        return self._key.private_bytes_raw()

    @property
    def private_pem(self) -> bytes:
        """PKCS8 key and certificate in one file."""
        key = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return key + self.ca_pem.encode()

    def issue(
        self,
        public_key: bytes,
        node: NodeId,
        role: str,
        *,
        hours: float = LIFETIME_HOURS,
        wall_now: float | None = None,
    ) -> str:
        """PEM certificate for a node's raw Ed25519 key, for both ends of TLS.

        The caller has checked that `node` belongs to `public_key`. ProtocolError when the key is
        no key or the role is unknown.
        """
        name = PeerName.parse(PeerName(self.run, role, node).uri)
        try:
            public = Ed25519PublicKey.from_public_bytes(public_key)
        except ValueError as error:
            raise ProtocolError(f"not an Ed25519 public key: {error}") from None
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node)])
        start = _moment(wall_now)
        end = start + timedelta(hours=hours)
        builder = _builder(subject, self._certificate.subject, public, start - SKEW, end)
        for extension, critical in _leaf_extensions(name, self._key.public_key()):
            builder = builder.add_extension(extension, critical)
        return builder.sign(self._key, None).public_bytes(Encoding.PEM).decode()


def _moment(wall_now: float | None) -> datetime:
    return datetime.fromtimestamp(time.time() if wall_now is None else wall_now, UTC)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: Ed25519PublicKey, start: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )


def _leaf_extensions(name: PeerName, ca: Ed25519PublicKey) -> list[tuple[x509.ExtensionType, bool]]:
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    return [
        (x509.BasicConstraints(False, None), True),
        (_key_usage(ca=False), True),
        (x509.ExtendedKeyUsage(usages), False),
        (x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name.uri)]), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(ca), False),
    ]


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def expires_in_s(certificate_pem: str, wall_now: float | None = None) -> float:
    """Seconds of validity left; negative when it has expired."""
    end = x509.load_pem_x509_certificate(certificate_pem.encode()).not_valid_after_utc
    return (end - _moment(wall_now)).total_seconds()


def clock_ahead_s(certificate_pem: str, wall_now: float | None = None) -> float:
    """Seconds by which this clock is ahead of the issuer's, from a certificate just received."""
    start = x509.load_pem_x509_certificate(certificate_pem.encode()).not_valid_before_utc
    return (_moment(wall_now) - (start + SKEW)).total_seconds()


# ---- contexts ------------------------------------------------------------------------------


@dataclass
class Credentials:
    """One node's certificate, private key (PKCS8 PEM) and the run's CA, as TLS contexts.

    ProtocolError when the certificate does not say who the node is.
    """

    certificate_pem: str
    key_pem: bytes = field(repr=False)
    ca_pem: str

    def __post_init__(self) -> None:
        self.name = name_in_certificate(self.certificate_pem)
        self.server = server_context(self.certificate_pem, self.key_pem, self.ca_pem)
        self.client = client_context(self.certificate_pem, self.key_pem, self.ca_pem)

    def renew(self, certificate_pem: str) -> None:
        """Use a newer certificate of the same key for all handshakes from now on."""
        if name_in_certificate(certificate_pem) != self.name:
            raise ProtocolError("the renewed certificate is for another node, role or run")
        for context in (self.server, self.client):
            _load_pair(context, certificate_pem, self.key_pem)
        self.certificate_pem = certificate_pem


def server_context(certificate_pem: str, key_pem: bytes, ca_pem: str) -> ssl.SSLContext:
    """Asks for a client certificate, takes none; a certificate of another CA is refused."""
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(cadata=ca_pem)
    context.num_tickets = 0  # no resumption: every handshake proves a valid certificate
    _load_pair(context, certificate_pem, key_pem)
    return context


def client_context(certificate_pem: str, key_pem: bytes, ca_pem: str) -> ssl.SSLContext:
    """Requires a server certificate of the run's CA; names are checked by `remote_name`."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=ca_pem)
    _load_pair(context, certificate_pem, key_pem)
    return context


def redeem_context() -> ssl.SSLContext:
    """For a stranger: no certificate, no CA yet. The caller must call `verify_coordinator` on
    the server's certificate before it sends anything."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def _load_pair(context: ssl.SSLContext, certificate_pem: str, key_pem: bytes) -> None:
    """ssl reads keys from files only; this one is never on a disk where memfd exists.

    Raises StorageError: a limit on file sizes holds for memory files as well.
    """
    try:
        with _secret_file(key_pem + certificate_pem.encode()) as path:
            context.load_cert_chain(path)
    except ssl.SSLError:
        raise
    except OSError as error:
        raise StorageError(
            f"the TLS key cannot be held in a memory file: {error.strerror}; see `ulimit -f`"
        ) from None


@contextmanager
def _secret_file(content: bytes) -> Iterator[str]:
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("farflung-key"), "wb") as file:
            file.write(content)
            file.flush()
            yield f"/proc/self/fd/{file.fileno()}"
    else:
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            yield file.name


# ---- who is there --------------------------------------------------------------------------


def remote_name(certificate: Mapping[str, object] | None, run: str) -> PeerName | None:
    """From `getpeercert()` of a verified connection; None when there is no certificate.

    ProtocolError when it has not exactly one URI of this run.
    """
    if not certificate:
        return None
    names = certificate.get("subjectAltName")
    entries = names if isinstance(names, tuple) else ()
    uris = [value for kind, value in entries if kind == "URI"]
    if len(entries) != 1 or len(uris) != 1:
        raise ProtocolError("a certificate must carry exactly one name, a farflung: URI")
    return _of_run(PeerName.parse(uris[0]), run)


def name_in_certificate(certificate_pem: str) -> PeerName:
    """Who a PEM certificate is for; nothing is verified. ProtocolError when it does not say."""
    try:
        return _name_of(x509.load_pem_x509_certificate(certificate_pem.encode()))
    except ValueError as error:
        raise ProtocolError(f"not a certificate: {error}") from None


def verify_coordinator(der: bytes | None, ca_public_key: bytes) -> PeerName:
    """Check a server's leaf certificate against the CA key of the invite, by hand.

    One CA key serves one run, so that the run needs no check of its own.
    The handshake has already proved that the server holds the leaf's private key. ProtocolError
    with the reason when it is not the run's coordinator.
    """
    if der is None:
        raise ProtocolError("the server showed no certificate")
    try:
        leaf = x509.load_der_x509_certificate(der)
        ca = Ed25519PublicKey.from_public_bytes(ca_public_key)
        ca.verify(leaf.signature, leaf.tbs_certificate_bytes)
    except InvalidSignature:
        raise ProtocolError(
            "the server's certificate is not signed by the run that the invite names"
        ) from None
    except ValueError as error:
        raise ProtocolError(f"the server's certificate is malformed: {error}") from None
    if not leaf.not_valid_before_utc <= datetime.now(UTC) <= leaf.not_valid_after_utc:
        raise ProtocolError("the server's certificate is not valid now; check this machine's clock")
    name = _name_of(leaf)
    if name.role != COORDINATOR:
        raise ProtocolError(f"the server is {name.node[:8]}, a {name.role}, not the coordinator")
    return name


def _name_of(leaf: x509.Certificate) -> PeerName:
    """ProtocolError unless there is exactly one name, ours."""
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise ProtocolError("the certificate carries no farflung: URI") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1 or len(list(names)) != 1:
        raise ProtocolError("a certificate must carry exactly one name, a farflung: URI")
    return PeerName.parse(uris[0])


def _of_run(name: PeerName, run: str) -> PeerName:
    if name.run != run:
        raise ProtocolError(f"certificate of run {name.run}, this is run {run}")
    return name


def check_expected(name: PeerName | None, expect: NodeId | None) -> PeerName:
    """The dialled node is `expect`, or with None the coordinator; else ProtocolError."""
    if name is None:
        raise ProtocolError("the server showed no certificate")
    if expect is not None and name.node != expect:
        raise ProtocolError(f"reached {name.node[:8]} where {expect[:8]} was expected")
    if expect is None and name.role != COORDINATOR:
        raise ProtocolError(f"reached {name.node[:8]}, a {name.role}, not the coordinator")
    return name


def check_member(name: PeerName | None) -> PeerName:
    """The dialled node is a peer of the run, whichever; else ProtocolError."""
    if name is None:
        raise ProtocolError("the server showed no certificate")
    if name.role != PEER:
        raise ProtocolError(f"reached the {name.role}, not a node's data port")
    return name
