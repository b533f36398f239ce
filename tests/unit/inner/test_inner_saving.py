"""A state is saved while training goes on: as it was then, one at a time, told when it is not."""

from __future__ import annotations

import queue
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from farflung.inner import optimizer_state
from farflung.inner.channel import InnerSaved, LoadInner, SaveInner
from farflung.inner.flat import FlatParameters
from farflung.inner.optimizer_state import Collected, OptimizerStateIo, collect, copied, write

WAIT_S = 30.0
SLOW_S = 0.2
"""Far longer than a step takes."""


class Saving:
    """A small model whose optimizer's state is saved, and what the agent hears."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=0.1)
        self.flat = FlatParameters(self.net)
        self.heard: queue.Queue[InnerSaved] = queue.Queue()
        self.io = OptimizerStateIo(self.flat, self.optimizer, self.heard.put)
        self.folder = folder
        self.step()

    def step(self) -> None:
        for p in self.net.parameters():
            p.grad = torch.randn(p.shape)
        self.optimizer.step()

    def expected(self) -> bytes:
        """The file of the state as it is now."""
        path = self.folder / "expected"
        write(collect(self.flat, self.optimizer, 7), path)
        return path.read_bytes()

    def save(self, serial: int) -> Path:
        path = self.folder / f"file-{serial}"
        self.io.ask(SaveInner(serial=serial, path=str(path)))
        self.io.serve(7)
        return path


@pytest.fixture
def saving(tmp_path: Path) -> Saving:
    return Saving(tmp_path)


@pytest.fixture
def slow_copies(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Copying takes long, or until this is set."""
    go = threading.Event()

    def slow(state: Collected) -> Collected:
        go.wait(SLOW_S)
        return copied(state)

    monkeypatch.setattr(optimizer_state, "copied", slow)
    return go


@pytest.mark.usefixtures("slow_copies")
def test_a_step_that_comes_early_waits_and_the_file_holds_the_state_before_it(
    saving: Saving,
) -> None:
    before = saving.expected()
    path = saving.save(1)
    saving.step()
    saving.step()
    assert saving.heard.get(timeout=WAIT_S) == InnerSaved(serial=1, note="")
    assert path.read_bytes() == before != saving.expected()


@pytest.mark.usefixtures("slow_copies")
def test_a_state_that_is_loaded_meanwhile_does_not_reach_the_file(saving: Saving) -> None:
    other = saving.save(1)
    saving.heard.get(timeout=WAIT_S)
    saving.step()
    before = saving.expected()
    path = saving.save(2)
    assert saving.io.load(LoadInner(serial=3, path=str(other))).note == ""
    assert saving.heard.get(timeout=WAIT_S).note == ""
    assert path.read_bytes() == before != saving.expected()


def test_serving_returns_before_anything_is_copied(
    saving: Saving, slow_copies: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.SLOW_S", WAIT_S)
    path = saving.save(1)
    assert not path.exists() and saving.heard.empty()  # it would take half a minute
    slow_copies.set()
    assert saving.heard.get(timeout=WAIT_S).note == ""


def test_there_is_one_copy_at_a_time(saving: Saving, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save that is asked for while the former one is written is refused, not queued."""
    go = threading.Event()

    def slow(state: Collected, path: Path) -> None:
        assert go.wait(WAIT_S)
        write(state, path)

    monkeypatch.setattr(optimizer_state, "write", slow)
    first = saving.save(1)
    saving.step()  # training goes on: the copy is made, the disk is what is slow
    second = saving.save(2)
    refused = saving.heard.get(timeout=WAIT_S)
    assert refused.serial == 2 and "still being written" in refused.note
    go.set()
    assert saving.heard.get(timeout=WAIT_S) == InnerSaved(serial=1, note="")
    assert first.exists() and not second.exists()


def test_a_state_that_does_not_fit_twice_is_written_before_training_goes_on(
    saving: Saving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimizer_state, "free_bytes", lambda: 0)
    before = saving.expected()
    assert saving.save(1).read_bytes() == before
    assert saving.heard.get_nowait().note == ""


def test_what_goes_wrong_is_told_and_no_step_waits_for_ever(
    saving: Saving, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails(_: Any) -> Collected:
        raise MemoryError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(optimizer_state, "copied", fails)
        path = saving.save(1)
        saving.step()
        assert "no room" in saving.heard.get(timeout=WAIT_S).note and not path.exists()
    (tmp_path / "file-2").mkdir()
    saving.save(2)
    assert "cannot write" in saving.heard.get(timeout=WAIT_S).note
    assert not list(tmp_path.glob(".*.tmp"))


def test_this_machine_says_how_much_memory_is_free() -> None:
    assert optimizer_state.free_bytes() > 1 << 20
