"""Claims about swarm/identity.py."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farflung.disk import MemoryDisk
from farflung.errors import CorruptState
from farflung.swarm.identity import Identity, node_id_of, signed_bytes, verify

SEED = bytes(range(32))


def test_the_node_id_is_40_hex_digits_of_blake3_of_the_public_key() -> None:
    one = Identity.from_seed(SEED)
    assert one.node_id == "98ba85304ac639f0f55daab01ad6d592be44a125"
    assert one.node_id == node_id_of(one.public_key)
    assert len(one.public_key) == 32


def test_a_stored_identity_is_the_same_after_a_restart_and_a_crash() -> None:
    disk = MemoryDisk()
    first = Identity.load_or_create(disk, "node.key")
    second = Identity.load_or_create(disk.crash(), "node.key")
    assert first.node_id == second.node_id
    assert first.sign(b"vote", b"x") == second.sign(b"vote", b"x")


def test_a_damaged_key_file_is_corrupt_state_and_is_not_replaced() -> None:
    disk = MemoryDisk()
    disk.replace("node.key", b"not a key")
    with pytest.raises(CorruptState, match=r"node\.key"):
        Identity.load_or_create(disk, "node.key")
    assert disk.read("node.key") == b"not a key"


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=64), st.integers(0, 511))
def test_a_flipped_bit_of_a_signature_never_verifies(body: bytes, bit: int) -> None:
    me = Identity.from_seed(SEED)
    signature = bytearray(me.sign(b"vote", body))
    assert verify(me.public_key, b"vote", body, bytes(signature))
    signature[bit // 8] ^= 1 << (bit % 8)
    assert not verify(me.public_key, b"vote", body, bytes(signature))


def test_a_signature_of_one_domain_or_key_is_none_of_another() -> None:
    me, other = Identity.from_seed(SEED), Identity.generate()
    signature = me.sign(b"vote", b"body")
    assert not verify(me.public_key, b"invite", b"body", signature)
    assert not verify(other.public_key, b"vote", b"body", signature)


def test_malformed_keys_and_signatures_are_false_and_not_an_error() -> None:
    me = Identity.from_seed(SEED)
    assert not verify(b"short", b"vote", b"", bytes(64))
    assert not verify(me.public_key, b"vote", b"", b"short")


def test_a_domain_cannot_run_into_the_body() -> None:
    with pytest.raises(ValueError, match="NUL"):
        signed_bytes(b"a\0b", b"c")
    assert signed_bytes(b"a", b"bc") != signed_bytes(b"ab", b"c")


def test_the_private_key_is_not_shown() -> None:
    assert "PRIVATE" not in repr(Identity.from_seed(SEED))
