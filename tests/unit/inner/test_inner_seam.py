"""The shared block and the trainer protocol's bytes."""

from __future__ import annotations

import json
import os
import struct
import threading
import time
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farflung.errors import FrameError, LinkDown, MismatchError, ProtocolError
from farflung.inner import channel as ch
from farflung.inner.seam import SharedState
from farflung.outer.merge import Operation

GOLDEN = Path(__file__).parents[2] / "golden" / "seam_messages.json"
FRAGMENTS = (((0, 3), (7, 10)), ((3, 7),))
LEASE = ch.Work(
    round=7,
    fragment=1,
    generation=2,
    ranges=((0, 16), (32, 40)),
    steps=3,
    progress_start=0.25,
    progress_end=0.5,
    slot=1,
)
TRAINED = ch.WorkReport(
    round=7,
    rows=16,
    steps=2,
    tokens=2048,
    loss_sum=6.5,
    finite_steps=2,
    finite=True,
    compute_s=0.5,
    wait_s=0.25,
    note="",
)
LAYOUT = (("a.weight", (2, 3)), ("b", (4,)))
MESSAGES: dict[str, ch.Message] = {
    "Attach": ch.Attach(version=5, layout=LAYOUT, frozen=(("table", (2, 2), "c0ffee"),)),
    "AcceptAttach": ch.AcceptAttach(
        version=5, spec=b"{}", layout=LAYOUT, fragments=FRAGMENTS, slots=2, data_dir="/data"
    ),
    "RefuseAttach": ch.RefuseAttach(sentence="no"),
    "StartWork": ch.StartWork(serial=1, lease=LEASE),
    "Done": ch.Done(serial=1, trained=TRAINED),
    **{
        f"Land {op}": ch.Land(
            serial=2, landing=ch.Landing(round=7, fragment=1, op=op, alpha=0.5, slot=1)
        )
        for op in get_args(Operation)
    },
    "Landed": ch.Landed(serial=2),
    "Reset": ch.Reset(serial=3),
    "ResetDone": ch.ResetDone(serial=3),
    "SaveInner": ch.SaveInner(serial=4, path="/node/inner/a.state"),
    "InnerSaved": ch.InnerSaved(serial=4, note=""),
    "LoadInner": ch.LoadInner(serial=5, path="/node/inner/a.state"),
    "InnerLoaded": ch.InnerLoaded(serial=5, note="it is cut"),
    "StopEarly": ch.StopEarly(serial=1),
    "Amended": ch.Amended(spec=b"{}"),
    "Progress": ch.Progress(steps=9, steps_per_s=2.5, phase="training"),
    "Shutdown": ch.Shutdown(),
}


def decode(body: bytes) -> ch.Message:
    try:
        return ch.decode_from_agent(body)
    except ProtocolError:
        return ch.decode_from_trainer(body)


def test_every_message_has_its_golden_bytes_and_comes_back() -> None:
    golden = json.loads(GOLDEN.read_text())
    assert {name: ch.encode(m).hex() for name, m in MESSAGES.items()} == golden
    for message in MESSAGES.values():
        assert decode(ch.encode(message)[ch.LENGTH.size :]) == message


def test_unknown_fields_and_kinds_are_refused() -> None:
    with pytest.raises(ProtocolError, match="unknown field"):
        ch.decode_from_trainer(b"\x83\xa4kind\xa6Landed\xa6serial\x01\xa3new\x01")
    with pytest.raises(ProtocolError):
        ch.decode_from_trainer(ch.encode(MESSAGES["StartWork"])[4:])  # wrong direction
    with pytest.raises(ProtocolError):
        ch.decode_from_agent(b"\x82\xa4kind\xa6Landed\xa6serial\xc3")


def test_a_version_mismatch_is_one_sentence_with_both_values() -> None:
    body = ch.encode(ch.Attach(version=99, layout=()))[4:]
    with pytest.raises(MismatchError, match="the trainer speaks trainer protocol 99, this") as e:
        ch.check_version(body, "trainer")
    assert f"farflung {ch.TRAINER_PROTOCOL_VERSION}; install" in str(e.value)
    ch.check_version(ch.encode(MESSAGES["Attach"])[4:], "trainer")


def test_frames_above_the_cap_are_refused_on_both_sides() -> None:
    with pytest.raises(FrameError):
        ch.encode(ch.RefuseAttach(sentence="x" * ch.FRAME_CAP))
    with pytest.raises(FrameError):
        list(ch.FrameBuffer().feed(struct.pack("<I", ch.FRAME_CAP + 1)))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 40), max_size=40))
def test_frames_survive_any_fragmentation(cuts: list[int]) -> None:
    stream = b"".join(ch.encode(m) for m in MESSAGES.values())
    buffer, found, at = ch.FrameBuffer(), [], 0
    for cut in [*cuts, len(stream)]:
        found += [decode(body) for body in buffer.feed(stream[at : at + cut])]
        at += cut
    assert found == list(MESSAGES.values())


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=60))
def test_hostile_bytes_only_raise_protocol_errors(data: bytes) -> None:
    for body in (data, b"\x82\xa4kind\xa6Landed\xa6serial" + data):
        try:
            ch.decode_from_trainer(body)
        except ProtocolError:
            continue


@pytest.mark.parametrize(
    ("mine", "sentence"),
    [
        ({"a": (2,)}, "run has a parameter 'b'"),
        ({"a": (2,), "b": (4,)}, r"'b' has shape \[4\], in the run \[3\]"),
        ({"a": (2,), "b": (3,), "c": (1,)}, "model has a parameter 'c'"),
    ],
)
def test_a_layout_difference_is_named(mine: dict[str, tuple[int, ...]], sentence: str) -> None:
    with pytest.raises(MismatchError, match=sentence):
        ch.check_layout(mine, {"a": (2,), "b": (3,)})


# ---- the shared block ----------------------------------------------------------------------


def test_two_processes_views_are_one_memory() -> None:
    agent = SharedState.create(10, FRAGMENTS, 2, memfd=True)
    trainer = SharedState.open(os.dup(agent.fd), 10, FRAGMENTS, 2)
    agent.anchor[:] = np.arange(10)
    assert trainer.read_fragment(0).tolist() == [0, 1, 2, 7, 8, 9]
    assert trainer.read_fragment(1).tolist() == [3, 4, 5, 6]
    trainer.sent(1, 1)[:] = 5.0
    agent.land(0, 0)[:] = 6.0
    assert agent.sent(1, 1).tolist() == [5.0] * 4
    assert trainer.land(0, 0).tolist() == [6.0] * 6
    assert not agent.sent(0, 0).any() and not trainer.land(1, 0).any()
    agent.close()
    trainer.close()


def test_a_block_without_memfd_works_in_one_process_and_through_a_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = SharedState.create(10, FRAGMENTS, 1, memfd=False)
    assert plain.fd == -1
    plain.anchor[:] = 1.0
    assert plain.read_fragment(1).tolist() == [1.0] * 4
    monkeypatch.delattr(os, "memfd_create", raising=False)
    agent = SharedState.create(10, FRAGMENTS, 1, memfd=True)
    trainer = SharedState.open(os.dup(agent.fd), 10, FRAGMENTS, 1)
    agent.anchor[:] = 2.0
    assert trainer.anchor.tolist() == [2.0] * 10
    agent.close()
    trainer.close()


def test_a_block_of_another_size_is_refused() -> None:
    agent = SharedState.create(10, FRAGMENTS, 1, memfd=True)
    with pytest.raises(MismatchError, match="shares 16384 bytes where"):
        SharedState.open(agent.fd, 10_000, (((0, 10_000),),), 1)
    agent.close()


def test_a_trainer_cannot_shrink_the_block_under_its_agent() -> None:
    agent = SharedState.create(10, FRAGMENTS, 1, memfd=True)
    if hasattr(os, "memfd_create"):
        with pytest.raises(PermissionError):
            os.ftruncate(agent.fd, 0)
    agent.close()


def test_a_reader_never_sees_a_half_written_fragment() -> None:
    shared = SharedState.create(10, FRAGMENTS, 1, memfd=False)
    stop = threading.Event()

    def write() -> None:
        value = 0.0
        while not stop.is_set():
            value += 1.0
            shared.begin_write(1)
            for i in range(3, 7):
                shared.anchor[i] = value
            shared.end_write(1)
            time.sleep(0)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(200):
            assert len(set(shared.read_fragment(1).tolist())) == 1
    finally:
        stop.set()
        writer.join()


def test_a_reader_gives_up_on_a_writer_that_died() -> None:
    shared = SharedState.create(10, FRAGMENTS, 1, memfd=False)
    shared.begin_write(0)
    assert not shared.try_read(0, np.empty(6, np.float32))
    with pytest.raises(LinkDown, match="still writing fragment 0"):
        shared.read_fragment(0, deadline_s=0.01)
    assert shared.read_fragment(1).tolist() == [0.0] * 4
