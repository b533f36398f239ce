"""Bytes on a connection: a 24-byte header, a msgpack meta section, a raw payload.

    magic "FFL1" | version u8 | kind u8 | flags u16 | meta_len u32 | payload_len u64 | seq u32

Little-endian. docs/wire.md specifies it; tests/golden/network_frames.json pins it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import msgspec

from farflung.errors import FrameError
from farflung.network.limits import BULK_PAYLOAD_CAP, Limits, check_type_cap
from farflung.network.link import BulkFrame, BulkSize, Received, check_bulk
from farflung.network.messages import BulkHeader, Control

MAGIC = b"FFL1"
VERSION = 1
CONTROL = 1
BULK = 2
HEADER_BYTES = 24
_HEADER = struct.Struct("<4sBBHIQI")
_SEQ_MODULUS = 2**32

_encoder = msgspec.msgpack.Encoder()
_control: msgspec.msgpack.Decoder[Control] = msgspec.msgpack.Decoder(Control)
_bulk: msgspec.msgpack.Decoder[BulkHeader] = msgspec.msgpack.Decoder(BulkHeader)


@dataclass(frozen=True, slots=True)
class FrameHeader:
    kind: int
    meta_len: int
    payload_len: int


def next_seq(seq: int) -> int:
    return (seq + 1) % _SEQ_MODULUS


def encode_control(message: Control, seq: int) -> bytes:
    """Header and meta of a control frame. FrameError when the message exceeds its cap."""
    return _encode(CONTROL, message, seq, 0)


def encode_bulk(header: BulkHeader, seq: int, payload_len: int) -> bytes:
    """Header and meta of a bulk frame; the payload follows. FrameError as above."""
    if payload_len > BULK_PAYLOAD_CAP:
        raise FrameError(f"payload of {payload_len} bytes exceeds {BULK_PAYLOAD_CAP}: cut it")
    return _encode(BULK, header, seq, payload_len)


def _encode(kind: int, message: Control | BulkHeader, seq: int, payload_len: int) -> bytes:
    meta = _encoder.encode(message)
    check_type_cap(type(message), len(meta))
    return _HEADER.pack(MAGIC, VERSION, kind, 0, len(meta), payload_len, seq) + meta


def parse_header(raw: bytes | bytearray | memoryview, seq: int, limits: Limits) -> FrameHeader:
    """The first 24 bytes of a frame, checked against the limits before anything is allocated.

    `seq` is the number that this frame must have. Raises FrameError.
    """
    magic, version, kind, flags, meta_len, payload_len, got_seq = _HEADER.unpack(raw)
    if magic != MAGIC:
        raise FrameError(f"bad magic {magic.hex()}: this is no farflung peer")
    if version != VERSION:
        raise FrameError(f"frame version {version} is not mine ({VERSION}); upgrade one side")
    if kind not in (CONTROL, BULK) or flags != 0:
        raise FrameError(f"unknown frame kind {kind} or flags {flags:#x}")
    if got_seq != seq:
        raise FrameError(f"frame {got_seq} follows where {seq} is due")
    _check_lengths(kind, meta_len, payload_len, limits)
    return FrameHeader(kind, meta_len, payload_len)


def _check_lengths(kind: int, meta_len: int, payload_len: int, limits: Limits) -> None:
    meta_cap = limits.control_meta if kind == CONTROL else limits.bulk_meta
    payload_cap = 0 if kind == CONTROL else limits.bulk_payload
    if meta_len == 0:
        raise FrameError("frame without a message")
    if meta_len > meta_cap:
        raise FrameError(f"meta of {meta_len} bytes exceeds the cap of {meta_cap} bytes")
    if payload_len > payload_cap:
        raise FrameError(f"payload of {payload_len} bytes exceeds the cap of {payload_cap} bytes")


def decode_control(meta: bytes | bytearray | memoryview) -> Control:
    """Raises FrameError for unknown types or fields, wrong types, trailing bytes, size."""
    try:
        message = _control.decode(meta)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise FrameError(f"malformed control message: {error}") from None
    check_type_cap(type(message), len(meta))
    return message


def decode_bulk(meta: bytes | bytearray | memoryview) -> BulkHeader:
    """As decode_control."""
    try:
        header = _bulk.decode(meta)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise FrameError(f"malformed bulk header: {error}") from None
    check_type_cap(type(header), len(meta))
    return header


class FrameReader:
    """Incremental parser that hands out the buffer into which the next bytes belong.

    `get_buffer` -> fill n bytes -> `advance(n)`, which returns a frame when one is complete.
    After the meta section of a bulk frame it is `blocked`: nothing more may be read until
    `allow` has compared the payload's size with the owner's expectation and allocated it.
    A FrameError leaves it unusable.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._seq = 0
        self._head = bytearray(HEADER_BYTES)
        self._frame: FrameHeader | None = None
        self._pending: BulkHeader | None = None
        self._target = memoryview(self._head)
        self._filled = 0

    @property
    def blocked(self) -> bool:
        return self._pending is not None and self._target.nbytes == 0

    @property
    def between_frames(self) -> bool:
        return self._frame is None and self._filled == 0

    @property
    def frame_bytes(self) -> int:
        """Declared size of the frame being read; the header's when that is all we know."""
        frame = self._frame
        return HEADER_BYTES + (frame.meta_len + frame.payload_len if frame else 0)

    def get_buffer(self) -> memoryview:
        """Room for the next bytes, at least one. Not while blocked."""
        if self.blocked:
            raise FrameError("bytes arrived while the payload was not allowed yet")
        return self._target[self._filled :]

    def advance(self, count: int) -> Received | None:
        """`count` bytes were written into the buffer. Raises FrameError."""
        self._filled += count
        if self._filled < self._target.nbytes:
            return None
        if self._frame is None:
            self._frame = parse_header(self._head, self._seq, self._limits)
            self._aim(bytearray(self._frame.meta_len))
            return None
        if self._pending is not None:
            return self._finish(BulkFrame(self._pending, self._target.toreadonly()))
        if self._frame.kind == CONTROL:
            return self._finish(decode_control(self._target))
        self._pending = decode_bulk(self._target)
        self._aim(bytearray())
        return None

    def allow(self, bulk_size: BulkSize | None) -> Received | None:
        """Unblock: ask the owner for the exact size, allocate it. A frame when it is empty.

        Raises ProtocolError when the size is not the expected one.
        """
        assert self._pending is not None
        assert self._frame is not None
        check_bulk(bulk_size, self._pending, self._frame.payload_len)
        if self._frame.payload_len == 0:
            return self._finish(BulkFrame(self._pending, memoryview(b"")))
        self._aim(bytearray(self._frame.payload_len))
        return None

    def _aim(self, buffer: bytearray) -> None:
        self._target = memoryview(buffer)
        self._filled = 0

    def _finish(self, received: Received) -> Received:
        self._frame = None
        self._pending = None
        self._aim(self._head)
        self._seq = next_seq(self._seq)
        return received
