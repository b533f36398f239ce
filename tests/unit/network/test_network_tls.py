"""Claims about network/tls.py: certificates say who is there."""

from __future__ import annotations

import time

import pytest
from cryptography import x509

from farflung.disk import MemoryDisk
from farflung.errors import CorruptState, ProtocolError, StorageError
from farflung.ids import NodeId, RunId
from farflung.network.tls import (
    Credentials,
    PeerName,
    RunAuthority,
    check_expected,
    clock_ahead_s,
    expires_in_s,
    remote_name,
    verify_coordinator,
)
from farflung.swarm.identity import Identity

RUN = RunId("0123456789abcdef")
AUTHORITY = RunAuthority.create(RUN)
NODE = Identity.from_seed(bytes(32))


def der(authority: RunAuthority, role: str, *, wall_now: float | None = None) -> bytes:
    pem = authority.issue(NODE.public_key, NODE.node_id, role, wall_now=wall_now)
    from cryptography.hazmat.primitives.serialization import Encoding

    return x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)


def test_a_coordinator_of_the_run_is_known_by_the_ca_key_alone() -> None:
    name = verify_coordinator(der(AUTHORITY, "coordinator"), AUTHORITY.public_key)
    assert name == PeerName(RUN, "coordinator", NODE.node_id)


@pytest.mark.parametrize(
    ("certificate", "sentence"),
    [
        (None, "no certificate"),
        (b"junk", "malformed"),
        (der(AUTHORITY, "peer"), "a peer, not the coordinator"),
        (der(RunAuthority.create(RUN), "coordinator"), "not signed by the run"),
        (der(AUTHORITY, "coordinator", wall_now=time.time() - 90_000), "not valid now"),
        (der(AUTHORITY, "coordinator", wall_now=time.time() + 90_000), "not valid now"),
    ],
)
def test_anybody_else_is_refused_with_a_sentence(certificate: bytes | None, sentence: str) -> None:
    with pytest.raises(ProtocolError, match=sentence):
        verify_coordinator(certificate, AUTHORITY.public_key)


def test_the_authority_itself_is_no_coordinator() -> None:
    raw = x509.load_pem_x509_certificate(AUTHORITY.ca_pem.encode())
    from cryptography.hazmat.primitives.serialization import Encoding

    with pytest.raises(ProtocolError):
        verify_coordinator(raw.public_bytes(Encoding.DER), AUTHORITY.public_key)


def test_a_certificate_lives_a_day_and_begins_before_now() -> None:
    pem = AUTHORITY.issue(NODE.public_key, NODE.node_id, "peer", wall_now=1_800_000_000.0)
    assert expires_in_s(pem, wall_now=1_800_000_000.0) == 86_400
    assert expires_in_s(pem, wall_now=1_800_086_401.0) == -1
    start = x509.load_pem_x509_certificate(pem.encode()).not_valid_before_utc
    assert start.timestamp() < 1_800_000_000.0
    assert clock_ahead_s(pem, wall_now=1_800_003_600.0) == 3_600
    assert clock_ahead_s(pem, wall_now=1_799_999_900.0) == -100


def test_the_authority_survives_a_restart() -> None:
    disk = MemoryDisk()
    first = RunAuthority.load_or_create(disk, "ca.pem", RUN)
    second = RunAuthority.load_or_create(disk.crash(), "ca.pem", RUN)
    assert second.public_key == first.public_key
    assert second.ca_pem == first.ca_pem


def test_a_foreign_or_damaged_authority_is_corrupt_state() -> None:
    disk = MemoryDisk()
    RunAuthority.load_or_create(disk, "ca.pem", RUN)
    with pytest.raises(CorruptState, match="not the authority of run"):
        RunAuthority.load(disk, "ca.pem", RunId("f" * 16))
    disk.replace("ca.pem", b"junk")
    with pytest.raises(CorruptState):
        RunAuthority.load(disk, "ca.pem", RUN)


def test_a_bad_key_or_role_gets_no_certificate() -> None:
    with pytest.raises(ProtocolError, match="public key"):
        AUTHORITY.issue(b"short", NODE.node_id, "peer")
    with pytest.raises(ProtocolError, match="unknown role"):
        AUTHORITY.issue(NODE.public_key, NODE.node_id, "admin")
    with pytest.raises(ProtocolError, match="RUN/ROLE/NODE"):
        AUTHORITY.issue(NODE.public_key, NodeId("a/b"), "peer")


def test_remote_name_wants_exactly_one_uri_of_this_run() -> None:
    uri = f"farflung:{RUN}/peer/{NODE.node_id}"
    assert remote_name(None, RUN) is None
    assert remote_name({}, RUN) is None
    assert remote_name({"subjectAltName": (("URI", uri),)}, RUN) == PeerName(
        RUN, "peer", NODE.node_id
    )
    for names in (
        (),
        (("URI", uri), ("URI", uri)),
        (("DNS", "x"),),
        (("URI", uri), ("DNS", "x")),
        (("URI", "https://x"),),
        (("URI", f"farflung:{'f' * 16}/peer/{NODE.node_id}"),),
    ):
        with pytest.raises(ProtocolError):
            remote_name({"subject": (), "subjectAltName": names}, RUN)


def test_the_dialled_node_is_the_expected_one_or_the_coordinator() -> None:
    peer = PeerName(RUN, "peer", NODE.node_id)
    assert check_expected(peer, NODE.node_id) is peer
    with pytest.raises(ProtocolError, match="was expected"):
        check_expected(peer, NodeId("0" * 40))
    with pytest.raises(ProtocolError, match="not the coordinator"):
        check_expected(peer, None)
    with pytest.raises(ProtocolError, match="no certificate"):
        check_expected(None, None)


def test_a_key_that_fits_no_memory_file_is_a_storage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """RLIMIT_FSIZE holds for memfd too: one sentence, no traceback."""

    def full(*_: object) -> int:
        raise OSError(27, "File too large")

    monkeypatch.setattr("os.memfd_create", full)
    certificate = AUTHORITY.issue(NODE.public_key, NODE.node_id, "peer")
    with pytest.raises(StorageError, match="File too large; see `ulimit -f`"):
        Credentials(certificate, NODE.private_pem, AUTHORITY.ca_pem)
