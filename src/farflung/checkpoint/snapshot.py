"""Snapshots: a set of (fragment, round) versions in hashed 4 MiB chunks.

A snapshot that was written while commits went on may hold a fragment in a later version than
`next_round` says: whoever replays passes over the commits that it contains already.

Every chunk is a leaf of its fragment's hash, so a joiner checks each one against the journal and
may take it from anybody.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from farflung.checkpoint.blob_store import BlobStore
from farflung.disk import Disk
from farflung.errors import CorruptState
from farflung.failpoints import hit
from farflung.hashing import merkle_root
from farflung.ids import Hash
from farflung.outer.state_hash import LEAF_ELEMENTS

SNAPSHOT_VERSION = 1
POINTER = "snapshot.json"
LEAF_NAME = re.compile("[0-9a-f]{64}")

Float32 = npt.NDArray[np.float32]


class FragmentVersion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    round: int
    """Round that wrote it; -1 is genesis."""
    elements: int
    leaves: tuple[str, ...]
    """Hex hashes of the anchor's chunks, then of the momentum's."""

    @property
    def hash(self) -> Hash:
        return merkle_root([bytes.fromhex(leaf) for leaf in self.leaves])


class SnapshotManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: int
    run: str
    next_round: int
    """Replay starts with this round: every fragment holds all commits below it, perhaps more."""
    fragments: tuple[FragmentVersion, ...]


class SnapshotPointer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The newest complete snapshot of this node."""

    manifest: str
    n_bytes: int
    next_round: int


def encode_manifest(manifest: SnapshotManifest) -> bytes:
    return msgspec.json.encode(manifest, order="sorted")


def decode_manifest(data: bytes, run: str) -> SnapshotManifest:
    """Raises CorruptState for anything but a manifest of this run and version."""
    try:
        manifest = msgspec.json.decode(data, type=SnapshotManifest)
    except msgspec.DecodeError as error:
        raise CorruptState(f"the snapshot manifest is malformed: {error}") from None
    if manifest.version != SNAPSHOT_VERSION or manifest.run != run:
        raise CorruptState(
            f"snapshot of run {manifest.run}, version {manifest.version}; "
            f"expected {run}, version {SNAPSHOT_VERSION}"
        )
    for fragment in manifest.fragments:
        _check_version(fragment)
    return manifest


def _check_version(fragment: FragmentVersion) -> None:
    if fragment.elements < 0 or fragment.round < -1:
        raise CorruptState("the snapshot manifest holds an impossible size or round")
    if len(fragment.leaves) != 2 * leaf_count(fragment.elements):
        raise CorruptState("the snapshot manifest lists a wrong number of chunks")
    if not all(LEAF_NAME.fullmatch(leaf) for leaf in fragment.leaves):
        raise CorruptState("the snapshot manifest names a chunk by something that is no hash")


def leaf_count(elements: int) -> int:
    """Chunks of an anchor (or momentum) fragment; an empty one still has one."""
    return max(1, -(-elements // LEAF_ELEMENTS))


def write_snapshot(
    disk: Disk,
    store: BlobStore,
    run: str,
    next_round: int,
    fragments: Sequence[tuple[int, Float32, Float32]],
) -> SnapshotPointer:
    """Store (round, anchor, momentum) of every fragment that nobody changes meanwhile.

    Raises StorageError; an older snapshot then stays valid.
    """
    versions = []
    for round_, anchor, momentum in fragments:
        leaves = [store.put(leaf) for part in (anchor, momentum) for leaf in _leaves(part)]
        versions.append(version_of(round_, anchor.size, leaves))
    return finish_snapshot(disk, store, run, next_round, versions)


def version_of(round_: int, elements: int, leaves: Sequence[bytes]) -> FragmentVersion:
    return FragmentVersion(
        round=round_, elements=elements, leaves=tuple(leaf.hex() for leaf in leaves)
    )


def finish_snapshot(
    disk: Disk,
    store: BlobStore,
    run: str,
    next_round: int,
    versions: Sequence[FragmentVersion],
) -> SnapshotPointer:
    """All chunks are stored: write the manifest; the pointer moves last. Raises StorageError."""
    hit("snapshot.chunks-written")
    manifest = SnapshotManifest(
        version=SNAPSHOT_VERSION, run=run, next_round=next_round, fragments=tuple(versions)
    )
    data = encode_manifest(manifest)
    name = store.put(data)
    pointer = SnapshotPointer(manifest=name.hex(), n_bytes=len(data), next_round=next_round)
    disk.replace(POINTER, msgspec.json.encode(pointer))
    return pointer


def _leaves(part: Float32) -> list[memoryview]:
    count = leaf_count(part.size)
    cuts = [part[i * LEAF_ELEMENTS : (i + 1) * LEAF_ELEMENTS] for i in range(count)]
    return [np.ascontiguousarray(c).view(np.uint8).data for c in cuts]


def newest(disk: Disk) -> SnapshotPointer | None:
    """None when there is no snapshot. Raises CorruptState when the pointer is damaged."""
    data = disk.read(POINTER)
    try:
        return None if data is None else msgspec.json.decode(data, type=SnapshotPointer)
    except msgspec.DecodeError as error:
        raise CorruptState(f"{POINTER} is malformed ({error}); remove it to start anew") from None


def chunk_bytes(fragment: FragmentVersion, index: int) -> int:
    """Bytes of the index-th chunk of a fragment version: the anchor's, then the momentum's."""
    count = leaf_count(fragment.elements)
    at = index % count
    return 4 * min(LEAF_ELEMENTS, fragment.elements - at * LEAF_ELEMENTS)


def chunks_of(manifest: SnapshotManifest) -> dict[bytes, int]:
    """Chunk name -> bytes; equal chunks (zeros) once."""
    return {
        bytes.fromhex(leaf): chunk_bytes(fragment, index)
        for fragment in manifest.fragments
        for index, leaf in enumerate(fragment.leaves)
    }


def assemble(
    fragment: FragmentVersion, chunk: Callable[[bytes], bytes | None]
) -> tuple[Float32, Float32]:
    """(anchor, momentum) of a fragment from its chunks, to be checked against its hash.

    Raises CorruptState for a missing chunk or a wrong size.
    """
    count = leaf_count(fragment.elements)
    parts = [read_chunk(fragment, index, chunk) for index in range(2 * count)]
    anchor, momentum = b"".join(parts[:count]), b"".join(parts[count:])
    return np.frombuffer(anchor, np.float32), np.frombuffer(momentum, np.float32)


def read_chunk(
    fragment: FragmentVersion, index: int, chunk: Callable[[bytes], bytes | None]
) -> bytes:
    """The index-th chunk, not compared with its hash. CorruptState: missing, or a wrong size."""
    leaf = fragment.leaves[index]
    data = chunk(bytes.fromhex(leaf))
    if data is None:
        raise CorruptState(f"snapshot chunk {leaf[:12]} is missing")
    if len(data) != chunk_bytes(fragment, index):
        raise CorruptState("snapshot chunks have the wrong size")
    return data


def names_of(name: bytes, manifest: SnapshotManifest) -> set[bytes]:
    """Every blob that a snapshot needs; `name` is the manifest's own."""
    return {bytes.fromhex(leaf) for f in manifest.fragments for leaf in f.leaves} | {bytes(name)}
