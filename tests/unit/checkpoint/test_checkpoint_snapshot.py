"""Snapshots: what is written comes back, what is damaged or hostile does not."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from farflung.checkpoint.blob_store import BlobStore
from farflung.checkpoint.snapshot import (
    POINTER,
    FragmentVersion,
    SnapshotManifest,
    assemble,
    chunk_bytes,
    decode_manifest,
    encode_manifest,
    leaf_count,
    names_of,
    newest,
    write_snapshot,
)
from farflung.disk import MemoryDisk
from farflung.errors import CorruptState, StorageError
from farflung.outer.state_hash import LEAF_ELEMENTS, fragment_hash

RUN = "0123456789abcdef"
SIZES = (100, LEAF_ELEMENTS + 7)


def parts(seed: int = 0) -> list[tuple[int, Any, Any]]:
    rng = np.random.default_rng(seed)
    return [
        (r, rng.normal(size=n).astype(np.float32), rng.normal(size=n).astype(np.float32))
        for r, n in enumerate(SIZES, start=-1)
    ]


def stored(seed: int = 0) -> tuple[MemoryDisk, BlobStore, SnapshotManifest]:
    disk = MemoryDisk()
    store = BlobStore(disk)
    pointer = write_snapshot(disk, store, RUN, 3, parts(seed))
    data = store.get(bytes.fromhex(pointer.manifest))
    assert data is not None and len(data) == pointer.n_bytes
    return disk, store, decode_manifest(data, RUN)


def test_a_snapshot_comes_back_bit_by_bit_and_its_hash_is_the_fragments() -> None:
    disk, store, manifest = stored()
    assert manifest.next_round == 3
    for (round_, anchor, momentum), version in zip(parts(), manifest.fragments, strict=True):
        got = assemble(version, store.get)
        assert version.round == round_
        assert got[0].tobytes() == anchor.tobytes()
        assert got[1].tobytes() == momentum.tobytes()
        assert version.hash == fragment_hash(anchor, momentum)
    pointer = newest(disk)
    assert pointer is not None
    assert all(store.has(name) for name in names_of(bytes.fromhex(pointer.manifest), manifest))


def test_every_chunk_has_the_size_that_the_manifest_implies() -> None:
    _, store, manifest = stored()
    for version in manifest.fragments:
        for index, leaf in enumerate(version.leaves):
            data = store.get(bytes.fromhex(leaf))
            assert data is not None and len(data) == chunk_bytes(version, index)


def test_an_empty_fragment_still_has_one_leaf() -> None:
    assert [leaf_count(n) for n in (0, 1, LEAF_ELEMENTS, LEAF_ELEMENTS + 1)] == [1, 1, 1, 2]


def test_a_missing_chunk_is_reported() -> None:
    disk, store, manifest = stored()
    leaf = manifest.fragments[1].leaves[2]
    disk.remove(f"blobs/{leaf}")
    with pytest.raises(CorruptState, match=f"chunk {leaf[:12]} is missing"):
        assemble(manifest.fragments[1], store.get)


def test_a_damaged_chunk_changes_the_fragments_hash() -> None:
    disk, store, manifest = stored()
    version = manifest.fragments[0]
    data = bytearray(disk.read(f"blobs/{version.leaves[0]}") or b"")
    data[5] ^= 1
    disk.replace(f"blobs/{version.leaves[0]}", bytes(data))
    assert fragment_hash(*assemble(version, store.get)) != version.hash


@pytest.mark.parametrize("data", [b"", b"123", bytes(4), bytes(4 * 101)])
def test_a_chunk_of_another_size_is_refused(data: bytes) -> None:
    _, _, manifest = stored()
    with pytest.raises(CorruptState, match="wrong size"):
        assemble(manifest.fragments[0], lambda _: data)


def test_a_full_disk_leaves_the_older_snapshot_valid() -> None:
    disk, store, _ = stored()
    before = newest(disk)
    disk.full = True
    with pytest.raises(StorageError):
        write_snapshot(disk, store, RUN, 9, parts(seed=1))
    assert newest(disk) == before
    assert newest(disk.crash()) == before


def test_a_node_without_snapshot_has_no_pointer() -> None:
    assert newest(MemoryDisk()) is None


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"manifest": 3}'])
def test_a_damaged_pointer_is_corrupt_state(data: bytes) -> None:
    with pytest.raises(CorruptState, match=r"snapshot\.json is malformed"):
        newest(MemoryDisk({POINTER: data}))


def manifest_with(**changes: Any) -> bytes:
    """A valid manifest, after a change of its first fragment or of itself."""
    fragment: dict[str, Any] = {"round": -1, "elements": 10, "leaves": ["00" * 32, "11" * 32]}
    whole: dict[str, Any] = {"version": 1, "run": RUN, "next_round": 0, "fragments": [fragment]}
    for key, value in changes.items():
        (fragment if key in fragment else whole)[key] = value
    return json.dumps(whole).encode()


def test_the_unchanged_manifest_is_good() -> None:
    assert decode_manifest(manifest_with(), RUN).fragments[0].elements == 10


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"\xff\xfe",
        manifest_with()[:-1],
        manifest_with(version=2),
        manifest_with(run="another"),
        manifest_with(extra=1),
        manifest_with(elements=-1),
        manifest_with(elements=1.5),
        manifest_with(elements=10**12),
        manifest_with(round=-2),
        manifest_with(leaves=[]),
        manifest_with(leaves=["00" * 32]),
        manifest_with(leaves=["zz" * 32, "11" * 32]),
        manifest_with(leaves=["", ""]),
        manifest_with(leaves=["../../../../etc/passwd", "11" * 32]),
        manifest_with(leaves=["0" * 63, "11" * 32]),
        manifest_with(leaves=["AA" * 32, "11" * 32]),
        manifest_with(fragments=[7]),
    ],
)
def test_a_hostile_manifest_is_corrupt_state(data: bytes) -> None:
    with pytest.raises(CorruptState):
        decode_manifest(data, RUN)


def test_equal_manifests_have_equal_bytes() -> None:
    version = FragmentVersion(round=0, elements=1, leaves=("00" * 32, "11" * 32))
    manifest = SnapshotManifest(version=1, run=RUN, next_round=1, fragments=(version,))
    assert encode_manifest(manifest) == encode_manifest(
        decode_manifest(encode_manifest(manifest), RUN)
    )
