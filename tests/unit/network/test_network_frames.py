"""Claims about network/frames.py and network/limits.py: only frames get through, cheaply."""

from __future__ import annotations

import contextlib
import json
import struct
import tracemalloc
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from network_samples import BULK, CONTROL, HASH, NODE

from farflung.errors import FrameError, ProtocolError
from farflung.network import messages as m
from farflung.network.frames import (
    HEADER_BYTES,
    FrameReader,
    decode_control,
    encode_bulk,
    encode_control,
)
from farflung.network.limits import TYPE_CAPS, Counters, Limits
from farflung.network.link import BulkFrame, BulkSize, Received

GOLDEN = Path(__file__).parents[2] / "golden" / "network_frames.json"
PAYLOAD = b"payload!"


def frames() -> dict[str, str]:
    """Hex of one frame of every message; frame i has sequence number i."""
    control = [encode_control(c, i) for i, c in enumerate(CONTROL)]
    bulk = [encode_bulk(b, i, len(PAYLOAD)) + PAYLOAD for i, b in enumerate(BULK)]
    kinds = [type(x).__name__ for x in CONTROL + BULK]
    return dict(zip(kinds, (f.hex() for f in control + bulk), strict=True))


def feed(
    data: bytes,
    *,
    step: int = 4096,
    bulk_size: BulkSize | None = None,
    limits: Limits | None = None,
) -> list[Received]:
    """Everything that a reader makes of the bytes, handed over in pieces of at most `step`."""
    reader, out = FrameReader(limits or Limits()), list[Received]()
    while data:
        buffer = reader.get_buffer()
        count = min(step, buffer.nbytes, len(data))
        buffer[:count] = data[:count]
        data = data[count:]
        received = reader.advance(count)
        if reader.blocked:
            received = reader.allow(bulk_size)
        if received is not None:
            out.append(received)
    return out


def head(
    *,
    magic: bytes = b"FFL1",
    version: int = 1,
    kind: int = 1,
    flags: int = 0,
    meta: int = 1,
    payload: int = 0,
    seq: int = 0,
) -> bytes:
    return struct.pack("<4sBBHIQI", magic, version, kind, flags, meta, payload, seq)


def test_the_bytes_of_every_message_are_pinned() -> None:
    assert frames() == json.loads(GOLDEN.read_text())


def test_every_message_type_has_a_sample_and_a_cap() -> None:
    every = set(get_args(m.Control)) | set(get_args(m.BulkHeader))
    assert {type(x) for x in CONTROL + BULK} == every
    assert set(TYPE_CAPS) == every


@pytest.mark.parametrize("step", [1, 7, 24, 4096])
def test_any_cutting_of_the_stream_gives_the_same_frames(step: int) -> None:
    stream = b"".join(encode_control(c, i) for i, c in enumerate(CONTROL))
    for i, header in enumerate(BULK, start=len(CONTROL)):
        stream += encode_bulk(header, i, len(PAYLOAD)) + PAYLOAD
    got = feed(stream, step=step, bulk_size=lambda _: len(PAYLOAD))
    assert tuple(got[: len(CONTROL)]) == CONTROL
    bulk = [g for g in got if isinstance(g, BulkFrame)]
    assert tuple(b.header for b in bulk) == BULK
    assert all(bytes(b.payload) == PAYLOAD and b.payload.readonly for b in bulk)


def test_an_empty_payload_is_a_frame_of_its_own() -> None:
    blob = m.Blob(hash=HASH, offset=0, missing=True)
    (got,) = feed(encode_bulk(blob, 0, 0), bulk_size=lambda _: 0)
    assert isinstance(got, BulkFrame)
    assert got.payload.nbytes == 0


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "bad magic"),
        (head(version=2), "version 2 is not mine"),
        (head(kind=3), "unknown frame kind 3"),
        (head(flags=1), "flags 0x1"),
        (head(seq=1), "frame 1 follows where 0 is due"),
        (head(meta=0), "without a message"),
        (head(meta=2**20 + 1), "exceeds the cap of 1048576"),
        (head(payload=1), "exceeds the cap of 0"),
        (head(kind=2, meta=2**22 + 1), "exceeds the cap of 4194304"),
        (head(kind=2, payload=2**60), "exceeds the cap of 8388608"),
        (head(meta=3) + b"\xc1\xc1\xc1", "malformed control message"),
        (head(meta=1) + b"\x80", "malformed control message"),
    ],
)
def test_bytes_that_are_no_frame_have_a_sentence(raw: bytes, sentence: str) -> None:
    with pytest.raises(FrameError, match=sentence):
        feed(raw)


def test_a_payload_of_2_to_the_60_bytes_allocates_nothing() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(FrameError):
            feed(head(kind=2, meta=2**22, payload=2**60))
        with pytest.raises(FrameError):
            feed(head(kind=1, meta=2**32 - 1))
        assert tracemalloc.get_traced_memory()[1] < 256 * 1024
    finally:
        tracemalloc.stop()


def test_a_payload_is_allocated_only_after_the_owner_named_its_size() -> None:
    frame = encode_bulk(BULK[1], 0, 8 * 2**20)
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="the plan says 100"):
            feed(frame, bulk_size=lambda _: 100)
        with pytest.raises(ProtocolError, match="no bulk frames are expected"):
            feed(frame)
        assert tracemalloc.get_traced_memory()[1] < 256 * 1024
    finally:
        tracemalloc.stop()


def test_the_owner_may_refuse_a_header_with_its_own_sentence() -> None:
    def refuse(_: m.BulkHeader) -> int:
        raise ProtocolError("round 9 is over")

    with pytest.raises(ProtocolError, match="round 9 is over"):
        feed(encode_bulk(BULK[0], 0, 5), bulk_size=refuse)


def test_a_gap_in_the_sequence_is_refused() -> None:
    stream = encode_control(m.Leave(reason=""), 0) + encode_control(m.Leave(reason=""), 2)
    with pytest.raises(FrameError, match="frame 2 follows where 1 is due"):
        feed(stream)


def test_unknown_types_and_fields_and_trailing_bytes_are_refused() -> None:
    good = msgspec.msgpack.encode(m.Leave(reason="x"))
    for value in ({"type": "Lave", "reason": "x"}, {"type": "Leave", "reason": "x", "more": 1}):
        with pytest.raises(FrameError):
            decode_control(msgspec.msgpack.encode(value))
    for raw in (good + b"\x00", good[:-1], msgspec.msgpack.encode({"type": "Leave", "reason": 1})):
        with pytest.raises(FrameError):
            decode_control(raw)


def test_deep_nesting_and_invalid_text_are_frame_errors() -> None:
    with pytest.raises(FrameError):
        decode_control(b"\x82\xa4type\xa5Leave\xa4more" + b"\x91" * 100_000 + b"\xc0")
    with pytest.raises(FrameError):
        decode_control(b"\x82\xa4type\xa5Leave\xa6reason\xa2\xff\xfe")


def test_a_message_above_the_cap_of_its_type_is_refused_by_both_sides() -> None:
    long = m.Accuse(term=1, round=1, attempt=1, nodes=(NODE,) * 2000, kind="silent")
    with pytest.raises(FrameError, match=r"Accuse of .* exceeds its cap"):
        encode_control(long, 0)
    meta = msgspec.msgpack.encode(long)
    with pytest.raises(FrameError, match=r"Accuse of .* exceeds its cap"):
        feed(head(meta=len(meta)) + meta)


def test_a_sender_cannot_make_a_payload_above_the_cap() -> None:
    with pytest.raises(FrameError, match="cut it"):
        encode_bulk(BULK[0], 0, 8 * 2**20 + 1)


def test_strangers_may_send_small_control_messages_only() -> None:
    limits = Limits().for_strangers()
    assert feed(encode_control(CONTROL[0], 0), limits=limits) == [CONTROL[0]]
    with pytest.raises(FrameError, match="cap of 4096"):
        feed(head(meta=4097), limits=limits)
    with pytest.raises(FrameError, match="cap of 0"):
        feed(head(kind=2), limits=limits)


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_flipped_bits_give_a_frame_or_a_protocol_error(data: st.DataObject) -> None:
    whole = [bytes.fromhex(h) for h in frames().values()]
    raw = bytearray(data.draw(st.sampled_from(whole)))
    raw[20:24] = bytes(4)  # this reader expects frame 0
    for bit in data.draw(st.lists(st.integers(0, len(raw) * 8 - 1), min_size=1, max_size=8)):
        raw[bit // 8] ^= 1 << (bit % 8)
    with contextlib.suppress(ProtocolError):
        feed(bytes(raw), bulk_size=lambda _: len(PAYLOAD))


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=200))
def test_arbitrary_meta_is_a_message_or_a_frame_error(meta: bytes) -> None:
    for kind in (1, 2):
        with contextlib.suppress(ProtocolError):
            feed(head(kind=kind, meta=len(meta)) + meta, bulk_size=lambda _: 0)


def test_counters_count_and_tell() -> None:
    told: list[tuple[str, str]] = []
    counters = Counters(lambda kind, sentence: told.append((kind, sentence)))
    counters.reject("frame", "bad magic")
    counters.reject("frame", "bad magic")
    assert counters.rejected["frame"] == 2
    assert told[0] == ("frame", "bad magic")
    assert HEADER_BYTES == 24


@pytest.mark.parametrize(
    ("kind", "field"), [(m.Hello, "role"), (m.Beat, "phase"), (m.Accuse, "kind")]
)
def test_a_word_that_this_version_does_not_know_is_refused(
    kind: type[m.Control], field: str
) -> None:
    message = next(c for c in CONTROL if isinstance(c, kind))
    fields = msgspec.to_builtins(message, builtin_types=[bytes])
    assert decode_control(msgspec.msgpack.encode(fields))
    with pytest.raises(ProtocolError, match=rf"Invalid enum value 'dancing' - at `\$\.{field}`"):
        decode_control(msgspec.msgpack.encode({**fields, field: "dancing"}))
