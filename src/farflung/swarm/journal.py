"""The journal: an append-only, hash-chained, signed file behind the injected Disk.

    file  := "FFJOURNL" | version u32 | frame*
    frame := length u32 | crc32 u32 | previous hash 32 B | signature 64 B | body

`length` counts the bytes after the crc, which covers them. The hash of an entry is
BLAKE3(previous | body); the signature is over the same bytes, by the run key that GENESIS names.
The chain is the integrity check; the crc only tells a torn tail from damage.
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence

import msgspec

from farflung.disk import Disk
from farflung.errors import CorruptState, ProtocolError, StorageError
from farflung.failpoints import hit
from farflung.hashing import digest
from farflung.ids import Hash
from farflung.swarm.records import AnyRecord, Genesis, decode_record, encode_record

MAGIC = b"FFJOURNL"
FILE_VERSION = 2
"""2: samples in blocks and mixtures."""
HEADER = MAGIC + struct.pack("<I", FILE_VERSION)
_PREFIX = struct.Struct("<II")
_FIXED = 32 + 64
MAX_FRAME = 16 << 20
LARGEST_FRAME = _PREFIX.size + MAX_FRAME
"""In the file."""
JOURNAL = "journal.bin"
"""Its name in a node's folder."""
EMPTY = Hash(bytes(32))

Verifier = Callable[[bytes, bytes, bytes], bool]
"""(public key, message, signature) -> valid."""


class Journal:
    """One file. Frames stay on disk; offsets and hashes are kept in memory."""

    def __init__(
        self, disk: Disk, path: str, verifier: Verifier, sign: Callable[[bytes], bytes] | None
    ) -> None:
        self._disk = disk
        self._path = path
        self._verifier = verifier
        self._sign = sign
        self._bounds: list[int] = [len(HEADER)]
        """Where entry i begins, and the last one ends. The coordinator appends in a pool thread
        while its loop reads: this list grows last, so that `length` never runs ahead."""
        self._hashes: list[Hash] = [EMPTY]
        self._key = b""
        self._torn = False
        """A failed write could not be taken back: the file may go on behind the last entry."""
        self.cut_bytes = 0
        """Bytes of a torn tail that `open` removed."""

    @classmethod
    def open(
        cls,
        disk: Disk,
        path: str,
        *,
        verifier: Verifier,
        sign: Callable[[bytes], bytes] | None,
    ) -> Journal:
        """Read and check everything. A torn tail is cut; damage elsewhere is CorruptState."""
        journal = cls(disk, path, verifier, sign)
        data = disk.read(path)
        if data is None or (len(data) < len(HEADER) and HEADER.startswith(data)):
            disk.replace(path, HEADER)
            journal.cut_bytes = len(data or b"")
            return journal
        if data.startswith(MAGIC) and data[len(MAGIC) : len(HEADER)] != HEADER[len(MAGIC) :]:
            found = int.from_bytes(data[len(MAGIC) : len(HEADER)], "little")
            raise CorruptState(
                f"{path} has journal version {found}, this farflung reads {FILE_VERSION}; use the "
                f"farflung that wrote it, or {journal._remedy}"
            )
        if data[: len(HEADER)] != HEADER:
            raise CorruptState(
                f"{path} is not a journal of version {FILE_VERSION}: its header, from byte 0, "
                f"differs; use the farflung that wrote it, or {journal._remedy}"
            )
        journal._scan(data)
        return journal

    def _scan(self, data: bytes) -> None:
        at = len(HEADER)
        while at < len(data):
            frame = self._frame_at(data, at)
            if frame is None:
                self._cut_tail(data, at)
                return
            try:
                self._check(frame)
            except ProtocolError as error:
                raise CorruptState(
                    f"{self._path} is damaged at byte {at}: {error}; {self._remedy}"
                ) from None
            self._accept(frame)
            at += len(frame)

    @property
    def _remedy(self) -> str:
        if self._sign is None:
            return "this is a copy: move it away and the node fetches it again"
        return (
            "move the folder away and restore the run from nodes' copies: farflung host "
            "--restore-from NODE (docs/operate.md)"
        )

    def _frame_at(self, data: bytes, at: int) -> bytes | None:
        return frame_at(data, at)

    def _cut_tail(self, data: bytes, at: int) -> None:
        """Only the last write may be torn: anything whole behind the bad frame means damage."""
        if self._goes_on(data, at):
            raise CorruptState(
                f"{self._path} is damaged at byte {at}, before its end; {self._remedy}"
            )
        self.cut_bytes = len(data) - at
        self._disk.truncate(self._path, at)

    def _goes_on(self, data: bytes, at: int) -> bool:
        """Whether the bad frame ends before the file does, or a good frame follows it.

        The length itself may be what is damaged, so that every later byte may begin a frame.
        """
        if at + _PREFIX.size > len(data):
            return False
        length, _ = _PREFIX.unpack_from(data, at)
        if _FIXED <= length <= MAX_FRAME and at + _PREFIX.size + length < len(data):
            return True
        return any(self._frame_at(data, later) for later in range(at + 1, len(data)))

    # ---- reading ---------------------------------------------------------------------------

    @property
    def length(self) -> int:
        return len(self._bounds) - 1

    @property
    def head(self) -> Hash:
        return self._hashes[-1]

    def hash_at(self, index: int) -> Hash:
        """The head after `index` entries; 32 zero bytes for 0."""
        return self._hashes[index]

    def frame(self, index: int) -> bytes:
        start, end = self._bounds[index : index + 2]
        return self._disk.read_at(self._path, start, end - start)

    def frames(self, first: int, max_bytes: int) -> list[bytes]:
        """Frames from `first` on, at least one, at most `max_bytes` together."""
        out: list[bytes] = []
        total = 0
        for index in range(first, self.length):
            frame = self.frame(index)
            total += len(frame)
            if out and total > max_bytes:
                break
            out.append(frame)
        return out

    def records(self, first: int = 0) -> Iterator[AnyRecord]:
        """Records from entry `first` on."""
        for index in range(first, self.length):
            yield record_of(self.frame(index))

    # ---- writing ---------------------------------------------------------------------------

    def append(self, record: AnyRecord) -> bytes:
        """Write and sync one record; returns its frame. StorageError leaves all as it was."""
        return self.append_all([record])[0]

    def append_all(self, records: Sequence[AnyRecord]) -> list[bytes]:
        """Write several records with one sync: all of them, or (StorageError) none."""
        if self._sign is None:
            raise AssertionError("this journal is a replica: it has no key to sign with")
        frames, head = [], self.head
        for record in records:
            body = encode_record(record)
            frames.append(_build(head, body, self._sign(head + body)))
            head = _entry_hash(head, body)
        self._write(frames, sync=True)
        for record, frame in zip(records, frames, strict=True):
            if isinstance(record, Genesis):
                self._key = record.run_key
            self._accept(frame)
        return frames

    def extend(self, frame: bytes, *, sync: bool = True) -> AnyRecord:
        """Append a frame that the coordinator signed. ProtocolError when it does not fit."""
        if self._frame_at(frame, 0) != frame:
            raise ProtocolError("a journal frame is malformed")
        record = self._check(frame)
        self._write([frame], sync=sync)
        self._accept(frame)
        return record

    def sync(self) -> None:
        self._disk.sync(self._path)

    def _write(self, frames: Sequence[bytes], *, sync: bool) -> None:
        if self._torn:
            self._cut_back()
        try:
            for frame in frames:
                self._disk.append(self._path, frame)
            if sync:
                hit("coordinator.written")
                self._disk.sync(self._path)
        except StorageError:
            self._torn = True
            with contextlib.suppress(StorageError):  # the next write tries again, before it writes
                self._cut_back()
            raise

    def _cut_back(self) -> None:
        """Remove what a failed write left, or a later frame would stand behind it."""
        self._disk.truncate(self._path, self._bounds[-1])
        self._torn = False

    # ---- checking --------------------------------------------------------------------------

    def _check(self, frame: bytes) -> AnyRecord:
        """The record of a frame that extends the head. Raises ProtocolError."""
        previous = frame[_PREFIX.size : _PREFIX.size + 32]
        signature = frame[_PREFIX.size + 32 : _PREFIX.size + _FIXED]
        body = frame[_PREFIX.size + _FIXED :]
        if previous != self.head:
            raise ProtocolError(f"record {self.length} does not extend the chain")
        try:
            record = decode_record(body)
        except msgspec.MsgspecError as error:
            raise ProtocolError(f"record {self.length} is unreadable: {error}") from None
        if (self.length == 0) != isinstance(record, Genesis):
            raise ProtocolError("GENESIS is the first record, and only the first")
        key = record.run_key if isinstance(record, Genesis) else self._key
        if not self._verifier(key, previous + body, signature):
            raise ProtocolError(f"record {self.length} is not signed by the run key")
        return record

    def is_foreign(self, frame: bytes, head: bytes) -> bool:
        """Whether the run key signed this record, which ends a chain with `head`, and it is not
        one of mine. Never raises for malformed bytes."""
        if self._frame_at(frame, 0) != frame:
            return False
        previous = frame[_PREFIX.size : _PREFIX.size + 32]
        signature = frame[_PREFIX.size + 32 : _PREFIX.size + _FIXED]
        body = frame[_PREFIX.size + _FIXED :]
        return (
            _entry_hash(Hash(previous), body) == head
            and head not in self._hashes
            and self._verifier(self._key, previous + body, signature)
        )

    def _accept(self, frame: bytes) -> None:
        body = frame[_PREFIX.size + _FIXED :]
        if not self.length:
            genesis = decode_record(body)
            assert isinstance(genesis, Genesis)
            self._key = genesis.run_key
        self._hashes.append(_entry_hash(self.head, body))
        self._bounds.append(self._bounds[-1] + len(frame))


def frame_at(data: bytes, at: int) -> bytes | None:
    """The whole frame that begins there; None when it is incomplete or its crc is wrong."""
    if at + _PREFIX.size > len(data):
        return None
    end = at + frame_bytes(data, at)
    if end - at < _PREFIX.size + _FIXED or end - at > LARGEST_FRAME or end > len(data):
        return None
    if zlib.crc32(data[at + _PREFIX.size : end]) != _PREFIX.unpack_from(data, at)[1]:
        return None
    return data[at:end]


def frame_bytes(data: bytes, at: int) -> int:
    """What the frame that begins there says of its length. Its first 8 bytes must be there."""
    length: int = _PREFIX.unpack_from(data, at)[0]
    return _PREFIX.size + length


def record_of(frame: bytes) -> AnyRecord:
    """The record of a whole frame, unchecked. Raises msgspec.MsgspecError."""
    return decode_record(frame[_PREFIX.size + _FIXED :])


def _build(previous: Hash, body: bytes, signature: bytes) -> bytes:
    content = previous + signature + body
    if len(content) > MAX_FRAME:
        raise StorageError(f"a record of {len(body)} bytes is above the limit of {MAX_FRAME}")
    return _PREFIX.pack(len(content), zlib.crc32(content)) + content


def _entry_hash(previous: Hash, body: bytes) -> Hash:
    return digest(previous + body)
