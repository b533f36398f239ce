"""The inner optimizer's state of several ranks: one file, of which each writes and reads its own.

The file is the one of a single process (inner/state_file.py): a rank's shard of a parameter is one
range of its elements, so where each shard lies in the file follows from the layout. A state that
two ranks have saved is loaded by one or by four. Never more than a stage of it is copied at a time,
unless it fits a tenth of the machine's memory; then steps go on while it is written.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from farflung.errors import CorruptState, FarflungError, LinkDown, MismatchError
from farflung.inner.channel import InnerLoaded, InnerSaved, LoadInner, SaveInner
from farflung.inner.flat import FlatParameters, shard_of
from farflung.inner.line import RankLine
from farflung.inner.optimizer import HasParamGroups
from farflung.inner.optimizer_state import (
    STAGE_ELEMENTS,
    collect,
    free_bytes,
    kind_of,
    parameters_of,
    state_parts,
)
from farflung.inner.state_file import Header, encode_header, finite, most_bytes, read_header

COPY_SHARE = 0.1
"""A state of all ranks up to this share of the machine's free memory is copied before it is
written; before a larger one is on the disk no further step is made."""


@dataclass(frozen=True)
class StatePart:
    """A rank's share of one slot of the state."""

    at: int
    """Of its first element in the body, in elements."""
    values: Tensor


@dataclass(frozen=True)
class CollectedParts:
    header: Header
    parts: list[StatePart]
    total_bytes: int
    """Of the body: all ranks' parts."""


def collect_parts(flat: FlatParameters, optimizer: HasParamGroups, round_: int) -> CollectedParts:
    """Refers to the live tensors. Raises MismatchError as `collect`."""
    whole = collect(flat, optimizer, round_)
    tensors = iter(whole.tensors)
    parts, at = [], 0
    for entry in whole.header.entries:
        first, stop = flat.span(entry.parameter)
        for _ in entry.slots:
            tensor = next(tensors)
            if flat.is_written_here(entry.parameter) and first < stop:
                parts.append(StatePart(at + first, shard_of(tensor)))
            at += tensor.numel()
    return CollectedParts(whole.header, parts, 4 * at)


def write_parts(state: CollectedParts, path: Path, *, leads: bool) -> None:
    """This rank's bytes, at their places and on the disk; the leader's also the header.

    Raises OSError, and CorruptState for a state that is not finite.
    """
    if not all(math.isfinite(v) for e in state.header.entries for _, v in e.scalars):
        raise CorruptState("the optimizer's state is not finite")
    head = encode_header(state.header)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        if leads:
            os.ftruncate(descriptor, len(head) + state.total_bytes)
            os.pwrite(descriptor, head, 0)
        for part in state.parts:
            at = len(head) + 4 * part.at
            for piece in _stages(part.values):
                if not finite(piece):
                    raise CorruptState("the optimizer's state is not finite")
                _write_all(descriptor, piece, at)
                at += piece.nbytes
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, piece: memoryview, at: int) -> None:
    while piece.nbytes:
        written = os.pwrite(descriptor, piece, at)
        piece, at = piece[written:], at + written


def _stages(values: Tensor) -> Iterator[memoryview]:
    flat = values.reshape(-1)
    for at in range(0, flat.numel(), STAGE_ELEMENTS):
        part = flat[at : at + STAGE_ELEMENTS].to("cpu", torch.float32)
        yield part.contiguous().numpy().astype("<f4", copy=False).view(np.uint8).data


def install_parts(flat: FlatParameters, optimizer: HasParamGroups, path: Path) -> Header:
    """Replaces this rank's state by its share of the file's; learning rates stay as they are.

    Raises OSError, CorruptState for a damaged file, MismatchError for another optimizer's.
    """
    sizes = [p.numel() for p in flat.parameters]
    with path.open("rb") as file:
        length = os.fstat(file.fileno()).st_size
        if length > most_bytes(sizes):
            raise CorruptState("the inner state is longer than this model's can be")
        header, start, total = read_header(file.read(min(length, most_bytes([]))), sizes)
        if length != total:
            raise CorruptState("the inner state is cut")
        if header.kind != kind_of(optimizer):
            raise MismatchError(
                f"the inner state is of {header.kind}, mine is {kind_of(optimizer)}"
            )
        states = _read_states(flat, header, file.fileno(), start)
    for part in state_parts(optimizer):
        mine = [states.get(p, {}) for p in parameters_of(part)]
        numbered = {i: state for i, state in enumerate(mine) if state}
        # torch's own loader knows which device and type each value of a state must have
        part.load_state_dict({"state": numbered, "param_groups": part.state_dict()["param_groups"]})
    return header


def _read_states(
    flat: FlatParameters, header: Header, descriptor: int, start: int
) -> dict[Tensor, dict[str, Tensor]]:
    states: dict[Tensor, dict[str, Tensor]] = {}
    at = 0
    for entry in header.entries:
        parameter = flat.parameters[entry.parameter]
        first, _ = flat.span(entry.parameter)
        state = {name: torch.tensor(value) for name, value in entry.scalars}
        for name in entry.slots:
            state[name] = torch.zeros_like(parameter)
            _fill(shard_of(state[name]), descriptor, start + 4 * (at + first))
            at += parameter.numel()
        states[parameter] = state
    return states


def _fill(target: Tensor, descriptor: int, at: int) -> None:
    """The elements of a shard from the file, a stage at a time. Raises CorruptState."""
    flat = target.view(-1)
    for first in range(0, flat.numel(), STAGE_ELEMENTS):
        piece = flat[first : first + STAGE_ELEMENTS]
        values = np.empty(piece.numel(), "<f4")
        if os.preadv(descriptor, [values.data], at + 4 * first) != values.nbytes:
            raise CorruptState("the inner state is cut")
        if not np.isfinite(values).all():
            raise CorruptState("the inner state is not finite")
        piece.copy_(torch.from_numpy(values.astype(np.float32, copy=False)))


class ShardedStateIo:
    """Saves and loads for the agent, one of it in each rank; all do the same at the same place.

    Each rank writes its part to the same unfinished file; when all have, the leader gives it its
    name. Called from the training thread only.
    """

    def __init__(self, flat: FlatParameters, optimizer: HasParamGroups, line: RankLine) -> None:
        self._flat = flat
        self._optimizer = optimizer
        self._line = line
        self._asked: SaveInner | None = None
        self._writing: SaveInner | None = None
        self._settled = threading.Event()
        """The live tensors are not read any more."""
        self._settled.set()
        line.on_written = self._all_written
        with contextlib.suppress(MismatchError):  # what cannot be moved is refused by `serve`
            for part in state_parts(optimizer):
                part.register_step_pre_hook(lambda *_: self.settle())

    @property
    def asked(self) -> bool:
        return self._asked is not None

    def ask(self, message: SaveInner) -> None:
        """It is served by the next `serve`, between two leases."""
        self._asked = message

    def serve(self, round_: int) -> None:
        """Begins to save if that was asked for. Training may go on at once."""
        message, self._asked = self._asked, None
        if message is None:
            return
        if self._writing is not None:
            self._answer(message.serial, "the former one is still being written")
            return
        try:
            state = collect_parts(self._flat, self._optimizer, round_)
        except FarflungError as error:  # of the optimizer, so in all ranks
            self._answer(message.serial, str(error))
            return
        self._writing = message
        fits, _ = self._line.agree("save", state.total_bytes <= COPY_SHARE * free_bytes())
        if self._line.place.leads:
            _unfinished(message).unlink(missing_ok=True)
        self._line.agree("save begins", True)
        if not fits:
            self._write(message, state)
            return
        self._settled.clear()
        threading.Thread(
            target=self._copy_and_write, args=(message, state), name="inner-state", daemon=True
        ).start()

    def settle(self) -> None:
        """Wait until the state may change: before every step, and before another one is loaded."""
        self._settled.wait()

    def load(self, message: LoadInner) -> InnerLoaded:
        self.settle()
        try:
            install_parts(self._flat, self._optimizer, Path(message.path))
        except (OSError, FarflungError) as error:
            return InnerLoaded(serial=message.serial, note=str(error))
        return InnerLoaded(serial=message.serial, note="")

    def _copy_and_write(self, message: SaveInner, live: CollectedParts) -> None:
        """In the writing thread. Whatever happens in it, no step waits for ever, and it is told."""
        try:
            parts = [
                replace(p, values=p.values.to("cpu", torch.float32, copy=True)) for p in live.parts
            ]
        except Exception as error:  # no memory, a device that failed
            self._line.part_written(message.serial, f"it cannot be copied: {error!r}")
            return
        finally:
            self._settled.set()
        self._write(message, replace(live, parts=parts))

    def _write(self, message: SaveInner, state: CollectedParts) -> None:
        note = ""
        try:
            write_parts(state, _unfinished(message), leads=self._line.place.leads)
        except OSError as error:
            note = f"cannot write {message.path}: {error.strerror}"
        except FarflungError as error:
            note = str(error)
        self._line.part_written(message.serial, note)

    def _all_written(self, serial: int, note: str) -> None:
        """At a meeting: every rank has done its part."""
        message, self._writing = self._writing, None
        if message is None or message.serial != serial or not self._line.place.leads:
            return
        unfinished = _unfinished(message)
        try:
            if note:
                unfinished.unlink(missing_ok=True)
            else:
                unfinished.replace(message.path)
        except OSError as error:
            note = note or f"cannot write {message.path}: {error.strerror}"
        self._answer(serial, note)

    def _answer(self, serial: int, note: str) -> None:
        with contextlib.suppress(LinkDown):  # the next meeting will notice
            self._line.send(InnerSaved(serial=serial, note=note))


def _unfinished(message: SaveInner) -> Path:
    path = Path(message.path)
    return path.with_name(f".{path.name}.tmp")
