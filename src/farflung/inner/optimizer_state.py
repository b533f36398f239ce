"""Moves the state of a torch optimizer into a file and back (inner/state_file.py).

Works for InnerOptimizer and for any torch optimizer whose state per parameter is tensors of the
parameter's shape and 0-d tensors: AdamW, Muon, SGD, RMSprop and most others.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from farflung.errors import CorruptState, FarflungError, LinkDown, MismatchError
from farflung.inner.channel import InnerLoaded, InnerSaved, LoadInner, SaveInner
from farflung.inner.flat import FlatParameters, shard_of
from farflung.inner.optimizer import HasParamGroups, InnerOptimizer
from farflung.inner.state_file import (
    STATE_VERSION,
    Header,
    StateEntry,
    encode_header,
    finite,
    most_bytes,
    read_header,
)

EXACT = (torch.float32, torch.bfloat16, torch.float16)
"""Types whose values float32 holds exactly."""
STAGE_ELEMENTS = 1 << 24
"""Elements that are brought to the host and written at a time."""
COPY_SHARE = 0.5
"""A state up to this share of the host's free memory is copied, so that steps go on while it is
written; before a larger one is on the disk no further step is made."""


@dataclass(frozen=True)
class Collected:
    """The state at one moment: `tensors` are those of `header`, in order."""

    header: Header
    tensors: list[Tensor]

    @property
    def n_bytes(self) -> int:
        """Of the file's body."""
        return 4 * sum(t.numel() for t in self.tensors)


def collect(flat: FlatParameters, optimizer: HasParamGroups, round_: int) -> Collected:
    """Refers to the live tensors. Raises MismatchError for a state that has no place in a file."""
    owners = {p: part for part in state_parts(optimizer) for p in parameters_of(part)}
    entries: list[StateEntry] = []
    tensors: list[Tensor] = []
    for index, parameter in enumerate(flat.parameters):
        owner = owners.get(parameter)
        state: dict[str, Any] = {} if owner is None else owner.state.get(parameter, {})
        slots: list[str] = []
        scalars: list[tuple[str, float]] = []
        for key in sorted(k for k, value in state.items() if value is not None):
            value = state[key]
            if not isinstance(value, Tensor) or value.dtype not in EXACT:
                raise MismatchError(f"the optimizer's state {key!r} is no float tensor")
            if value.ndim == 0:
                scalars.append((key, float(value)))
            elif value.shape == parameter.shape:
                slots.append(key)
                tensors.append(value.detach())
            else:
                raise MismatchError(f"the optimizer's state {key!r} has another shape")
        if slots or scalars:
            entries.append(StateEntry(parameter=index, slots=tuple(slots), scalars=tuple(scalars)))
    header = Header(
        version=STATE_VERSION, kind=kind_of(optimizer), round=round_, entries=tuple(entries)
    )
    return Collected(header, tensors)


def write(state: Collected, path: Path) -> None:
    """Atomically. Raises OSError, and CorruptState for a state that is not finite."""
    if not all(math.isfinite(v) for e in state.header.entries for _, v in e.scalars):
        raise CorruptState("the optimizer's state is not finite")
    temporary = path.with_name(f".{path.name}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("wb") as file:
            file.write(encode_header(state.header))
            for piece in _staged(state.tensors):
                if not finite(piece):
                    raise CorruptState("the optimizer's state is not finite")
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def copied(state: Collected) -> Collected:
    """In the host's memory, as float32, which holds every value exactly."""
    return Collected(state.header, [t.to("cpu", torch.float32, copy=True) for t in state.tensors])


def _staged(tensors: list[Tensor]) -> Iterator[memoryview]:
    for tensor in tensors:
        flat = tensor.reshape(-1)
        for at in range(0, flat.numel(), STAGE_ELEMENTS):
            part = flat[at : at + STAGE_ELEMENTS].to("cpu", torch.float32)
            yield part.contiguous().numpy().astype("<f4", copy=False).view(np.uint8).data


def install(flat: FlatParameters, optimizer: HasParamGroups, path: Path) -> Header:
    """Replaces the whole state of `optimizer` by the file's; learning rates stay as they are.

    Raises OSError, CorruptState for a damaged file, MismatchError for another optimizer's.
    """
    sizes = [p.numel() for p in flat.parameters]
    if path.stat().st_size > most_bytes(sizes):
        raise CorruptState("the inner state is longer than this model's can be")
    data = path.read_bytes()
    header, start, total = read_header(data, sizes)
    if len(data) != total or not finite(memoryview(data)[start:]):
        raise CorruptState("the inner state is cut or not finite")
    if header.kind != kind_of(optimizer):
        raise MismatchError(f"the inner state is of {header.kind}, mine is {kind_of(optimizer)}")
    body = np.frombuffer(data, "<f4", offset=start)
    states = _unpack(flat.parameters, header, body)
    for part in state_parts(optimizer):
        mine = [states.get(p, {}) for p in parameters_of(part)]
        numbered = {i: state for i, state in enumerate(mine) if state}
        # torch's own loader knows which device and type each value of a state must have
        part.load_state_dict({"state": numbered, "param_groups": part.state_dict()["param_groups"]})
    return header


def _unpack(
    parameters: list[nn.Parameter], header: Header, body: np.ndarray[Any, np.dtype[np.float32]]
) -> dict[nn.Parameter, dict[str, Tensor]]:
    states: dict[nn.Parameter, dict[str, Tensor]] = {}
    at = 0
    for entry in header.entries:
        parameter = parameters[entry.parameter]
        state = {name: torch.tensor(value) for name, value in entry.scalars}
        for name in entry.slots:
            values = body[at : at + parameter.numel()].astype(np.float32)  # its own memory
            state[name] = torch.from_numpy(values).reshape(parameter.shape)
            at += parameter.numel()
        states[parameter] = state
    return states


def is_finite(optimizer: HasParamGroups) -> bool:
    """False when the state here holds a NaN or an infinity: it makes every later step as bad.

    What cannot be looked into counts as finite and is left alone.
    """
    with contextlib.suppress(MismatchError):
        parts = state_parts(optimizer)
        values = [v for part in parts for s in part.state.values() for v in s.values()]
        tensors = [v for v in values if isinstance(v, Tensor) and v.is_floating_point()]
        return all(bool(shard_of(t).isfinite().all()) for t in tensors)
    return True


def forget(optimizer: HasParamGroups) -> None:
    """Empties the state: the optimizer starts afresh."""
    with contextlib.suppress(MismatchError):
        for part in state_parts(optimizer):
            part.state.clear()


def state_parts(optimizer: HasParamGroups) -> list[Optimizer]:
    if isinstance(optimizer, InnerOptimizer):
        return optimizer.parts
    if isinstance(optimizer, Optimizer):
        return [optimizer]
    raise MismatchError(f"the state of a {type(optimizer).__name__} cannot be moved")


def parameters_of(part: Optimizer) -> list[nn.Parameter]:
    return [p for group in part.param_groups for p in group["params"]]


def kind_of(optimizer: HasParamGroups) -> str:
    """The classes, and the switches that decide which slots a step needs."""
    return "+".join(
        getattr(part, "STATE_KIND", type(part).__name__)
        + "".join(f" {k}" for k in ("amsgrad", "centered") if part.defaults.get(k))
        for part in state_parts(optimizer)
    )


class OptimizerStateIo:
    """Saves and loads for the agent. Called from the training thread only.

    Saving blocks that thread for next to nothing: only a step changes the state, so a thread of its
    own copies it while the next forward and backward passes run, and a step that comes earlier
    waits for the copy. There is one copy at a time: while one is written, another save is refused.
    A state that is too large to be copied is written before `serve` returns. The file is written
    beside its place and renamed, so a trainer that ends or dies in between leaves the former one
    whole.
    """

    def __init__(
        self,
        flat: FlatParameters,
        optimizer: HasParamGroups,
        send: Callable[[InnerSaved], None],
    ) -> None:
        """`send` may be called from another thread."""
        self._flat = flat
        self._optimizer = optimizer
        self._send = send
        self._asked: SaveInner | None = None
        self._writer: threading.Thread | None = None
        self._settled = threading.Event()
        """The live tensors are not read any more."""
        self._settled.set()
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
        """Saves if that was asked for. Training may go on at once."""
        message, self._asked = self._asked, None
        if message is None:
            return
        if self._writer is not None and self._writer.is_alive():
            self._answer(message, "the former one is still being written")
            return
        try:
            state = collect(self._flat, self._optimizer, round_)
        except FarflungError as error:
            self._answer(message, str(error))
            return
        if state.n_bytes > COPY_SHARE * free_bytes():
            self._write(message, state)
            return
        self._settled.clear()
        self._writer = threading.Thread(
            target=self._copy_and_write, args=(message, state), name="inner-state", daemon=True
        )
        self._writer.start()

    def settle(self) -> None:
        """Wait until the state may change: before every step, and before another one is loaded."""
        self._settled.wait()

    def load(self, message: LoadInner) -> InnerLoaded:
        self.settle()
        try:
            install(self._flat, self._optimizer, Path(message.path))
        except (OSError, FarflungError) as error:
            return InnerLoaded(serial=message.serial, note=str(error))
        return InnerLoaded(serial=message.serial, note="")

    def _copy_and_write(self, message: SaveInner, live: Collected) -> None:
        """In the writing thread. Whatever happens in it, no step waits for ever, and it is told."""
        try:
            state = copied(live)
        except Exception as error:  # no memory, a device that failed
            self._answer(message, f"it cannot be copied: {error!r}")
            return
        finally:
            self._settled.set()
        self._write(message, state)

    def _write(self, message: SaveInner, state: Collected) -> None:
        try:
            write(state, Path(message.path))
        except OSError as error:
            self._answer(message, f"cannot write {message.path}: {error.strerror}")
        except FarflungError as error:
            self._answer(message, str(error))
        else:
            self._answer(message, "")

    def _answer(self, message: SaveInner, note: str) -> None:
        with contextlib.suppress(LinkDown):  # the training thread will notice
            self._send(InnerSaved(serial=message.serial, note=note))


def free_bytes() -> int:
    """What this machine may still hand out; half of its memory where the system does not say."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * int(next(n for n in lines if n.startswith("MemAvailable:")).split()[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
