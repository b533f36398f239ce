"""The trainer protocol: messages between an agent and its trainer on one machine. No torch.

AF_UNIX stream; a frame is a little-endian u32 length and msgpack of one tagged map, at most 16 MiB.
The trainer dials and says Attach; the agent answers AcceptAttach, whose length prefix carries the
descriptor of the shared block (SCM_RIGHTS), or RefuseAttach. From then on it asks (StartWork, Land,
Reset, SaveInner, LoadInner: each with a serial that the answer repeats) and the trainer answers in
order, only InnerSaved may come late. See docs/trainer.md.
"""

from __future__ import annotations

import math
import select
import socket
import struct
import threading
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from farflung.data.mixture import Change
from farflung.errors import FrameError, LinkDown, MismatchError, ProtocolError
from farflung.ids import NodePhase
from farflung.outer.layout import Frozen
from farflung.outer.merge import Operation, reads_anchor

TRAINER_PROTOCOL_VERSION = 5
FRAME_CAP = 16 << 20
"""A layout of 100,000 tensors fits."""
ENV_SOCKET = "FARFLUNG_AGENT_SOCKET"
ENV_GENESIS = "FARFLUNG_GENESIS_OUT"
ENV_SPEC = "FARFLUNG_SPEC"
ENV_DATA = "FARFLUNG_DATA"
ENV_THREADS = "FARFLUNG_THREADS"
ENV_STORE = "FARFLUNG_RANK_STORE"
"""Path of the file over which the ranks that an agent has started find each other."""

LENGTH = struct.Struct("<I")
Ranges = tuple[tuple[int, int], ...]
Entry = tuple[str, tuple[int, ...]]


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A value inside messages."""


class Work(_Part, frozen=True, kw_only=True, omit_defaults=True):
    """What to train for one round, and which fragment departs after it."""

    round: int
    fragment: int
    generation: int
    ranges: Ranges
    """Positions to train, in order, in whole batches; a rest below a batch is left."""
    steps: int
    """Number of batches in `ranges`; 0 is legal: the fragment departs at once."""
    progress_start: float
    progress_end: float
    """Share of the run's committed tokens; step i of n is at start + (end - start) * i / n."""
    slot: int
    """Of the shared block: where the fragment departs to."""
    mixture: tuple[Change, ...] = ()
    """Changes of the mixture of sources so far."""


class StepFigures(_Part, frozen=True, kw_only=True, omit_defaults=True):
    """What the steps of a lease were like, for people: nothing is decided by it.

    Means over its steps; 0: not measured.
    """

    lr: float = 0.0
    """Factor of the peak learning rates at the last step."""
    grad_norm: float = 0.0
    """Global norm before clipping."""
    data_wait_s: float = 0.0
    """Waiting for rows, of the whole lease."""
    copy_s: float = 0.0
    """Copying departing and landing fragments, of the whole lease."""
    flops: float = 0.0
    """Model FLOPs of a token, forward and backward: 6 N + 12 L d T (inner/flops.py)."""
    mfu: float = 0.0
    """Model FLOPs per second of training time over the device's peak, in 0..1."""
    mfu_causal: float = 0.0
    """The same with attention counted by the causal mask: half of it."""
    memory_bytes: int = 0
    """Most that was allocated on the accelerator."""
    device: str = ""
    """`NVIDIA H200`; on CPUs their model and the number of threads."""


class WorkReport(_Part, frozen=True, kw_only=True):
    """What became of a lease. The departing fragment lies in its slot."""

    round: int
    rows: int
    """Positions of the lease that were trained: a prefix."""
    steps: int
    tokens: int
    """As the program counted them (`peer.step(tokens=...)`)."""
    loss_sum: float
    """Sum over the finite steps of the mean nats per token."""
    finite_steps: int
    """Steps whose loss was finite."""
    finite: bool
    """False: a loss or a departing parameter was not; the agent abstains."""
    compute_s: float
    wait_s: float
    """Blocked without a lease, before this one came."""
    note: str
    figures: StepFigures = StepFigures()

    @property
    def loss(self) -> float:
        """Mean nats per token of the finite steps; NaN when there is none."""
        return self.loss_sum / self.finite_steps if self.finite_steps else math.nan


class Landing(_Part, frozen=True, kw_only=True):
    """How to merge a committed fragment into the local parameters."""

    round: int
    fragment: int
    op: Operation
    """overwrite, blend: with the shared anchor. carry, rebase: the addend lies in the slot."""
    alpha: float
    """Of a blend."""
    slot: int

    @property
    def reads_anchor(self) -> bool:
        """Else the addend lies in the slot."""
        return reads_anchor(self.op)


class TrainerMessage(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag=True,
):
    """Base; the tag is the class name under `kind`."""


class Attach(TrainerMessage, frozen=True, kw_only=True):
    """The trainer's first words."""

    version: int
    layout: tuple[Entry, ...]
    """Name and shape of its trainable parameters."""
    frozen: tuple[Frozen, ...] = ()
    """Name, shape and hash of the others."""
    rank: int = 0
    world: int = 1
    """Ranks of this trainer. Each attaches by itself; rank 0 speaks for all from then on."""


class AcceptAttach(TrainerMessage, frozen=True, kw_only=True):
    """The agent's answer; the shared block comes with it, and sockets between ranks: for rank 0
    one to each other rank in their order, for the others one to rank 0."""

    version: int
    spec: bytes
    """Canonical JSON of the run spec."""
    layout: tuple[Entry, ...]
    """The run's order of parameters."""
    fragments: tuple[Ranges, ...]
    slots: int
    data_dir: str


class RefuseAttach(TrainerMessage, frozen=True, kw_only=True):
    sentence: str


class StartWork(TrainerMessage, frozen=True, kw_only=True):
    serial: int
    lease: Work


class Done(TrainerMessage, frozen=True, kw_only=True):
    """Answers StartWork."""

    serial: int
    trained: WorkReport


class Land(TrainerMessage, frozen=True, kw_only=True):
    serial: int
    landing: Landing


class Landed(TrainerMessage, frozen=True, kw_only=True):
    """Answers Land."""

    serial: int


class Reset(TrainerMessage, frozen=True, kw_only=True):
    """Local parameters start again from the anchor; a lease that still runs ends unanswered."""

    serial: int


class ResetDone(TrainerMessage, frozen=True, kw_only=True):
    """Answers Reset; with serial 0, unasked, after AcceptAttach: ready to train."""

    serial: int


class SaveInner(TrainerMessage, frozen=True, kw_only=True):
    """Write the inner optimizer's state to a file, between two leases."""

    serial: int
    path: str


class InnerSaved(TrainerMessage, frozen=True, kw_only=True):
    """Answers SaveInner, perhaps after later questions: the file is written meanwhile."""

    serial: int
    note: str
    """Empty, or why there is no file."""


class LoadInner(TrainerMessage, frozen=True, kw_only=True):
    """Take the inner optimizer's state from a file; before the first lease."""

    serial: int
    path: str


class InnerLoaded(TrainerMessage, frozen=True, kw_only=True):
    """Answers LoadInner."""

    serial: int
    note: str
    """Empty, or why the optimizer stays as it was."""


class StopEarly(TrainerMessage, frozen=True, kw_only=True):
    """End the lease of this serial at the next step boundary; ignored when it is over."""

    serial: int


class Progress(TrainerMessage, frozen=True, kw_only=True):
    """At most five a second."""

    steps: int
    """Inner steps of this process."""
    steps_per_s: float
    phase: NodePhase
    """compiling (until the first step is done), training or waiting."""


class Amended(TrainerMessage, frozen=True, kw_only=True):
    """The run's settings from the next lease on: its length and schedule may have changed."""

    spec: bytes
    """Canonical JSON of the run spec."""


class Shutdown(TrainerMessage, frozen=True, kw_only=True):
    """The trainer ends its loop and exits."""


FromTrainer = Attach | Progress | Done | Landed | ResetDone | InnerSaved | InnerLoaded
FromAgent = (
    AcceptAttach
    | RefuseAttach
    | StartWork
    | Land
    | Reset
    | SaveInner
    | LoadInner
    | StopEarly
    | Amended
    | Shutdown
)
Message = FromTrainer | FromAgent


class _Greeting(msgspec.Struct, frozen=True):
    """What every version's first frame holds."""

    kind: str
    version: int = TRAINER_PROTOCOL_VERSION


_encoder = msgspec.msgpack.Encoder()
_from_trainer: msgspec.msgpack.Decoder[FromTrainer] = msgspec.msgpack.Decoder(FromTrainer)
_from_agent: msgspec.msgpack.Decoder[FromAgent] = msgspec.msgpack.Decoder(FromAgent)
_greeting = msgspec.msgpack.Decoder(_Greeting)


def encode(message: Message) -> bytes:
    """One frame. Raises FrameError above the cap."""
    body = _encoder.encode(message)
    if len(body) > FRAME_CAP:
        raise FrameError(f"{type(message).__name__} of {len(body)} bytes exceeds {FRAME_CAP}")
    return LENGTH.pack(len(body)) + body


def frame_length(prefix: bytes) -> int:
    """Bytes of the body. Raises FrameError above the cap, before anything is allocated."""
    (length,) = LENGTH.unpack(prefix)
    if length > FRAME_CAP:
        raise FrameError(f"a frame of {length} bytes exceeds {FRAME_CAP}")
    return int(length)


def decode_from_trainer(body: bytes) -> FromTrainer:
    """Strict. Raises ProtocolError."""
    try:
        return _from_trainer.decode(body)
    except msgspec.DecodeError as error:
        raise ProtocolError(f"the trainer sent a malformed message: {error}") from None


def decode_from_agent(body: bytes) -> FromAgent:
    """Strict. Raises ProtocolError."""
    try:
        return _from_agent.decode(body)
    except msgspec.DecodeError as error:
        raise ProtocolError(f"the agent sent a malformed message: {error}") from None


def check_version(body: bytes, side: str) -> None:
    """Read the version before all else: other fields may differ between versions.

    Raises MismatchError with both versions, ProtocolError for no greeting at all.
    """
    try:
        version = _greeting.decode(body).version
    except msgspec.DecodeError as error:
        raise ProtocolError(f"the {side} did not greet: {error}") from None
    if version != TRAINER_PROTOCOL_VERSION:
        raise MismatchError(
            f"the {side} speaks trainer protocol {version}, this farflung "
            f"{TRAINER_PROTOCOL_VERSION}; install the same farflung for both"
        )


def check_layout(mine: Mapping[str, tuple[int, ...]], run: Mapping[str, tuple[int, ...]]) -> None:
    """The trainer's parameters against the run's. MismatchError names the first difference."""
    for name, shape in run.items():
        if name not in mine:
            raise MismatchError(
                f"the run has a parameter {name!r} that this model lacks; build the run's model "
                f"or map its names with layout_names"
            )
        if mine[name] != shape:
            raise MismatchError(
                f"parameter {name!r} has shape {list(mine[name])}, in the run {list(shape)}; "
                f"build the run's model"
            )
    for name in mine:
        if name not in run:
            raise MismatchError(
                f"this model has a parameter {name!r} that the run lacks; build the run's model "
                f"or map its names with layout_names"
            )


def check_frozen(mine: Iterable[Frozen], run: Iterable[Frozen]) -> None:
    """Parameters that are not trained, against the run's. MismatchError names the first that
    differs."""
    here, there = ({name: (shape, hash_) for name, shape, hash_ in x} for x in (mine, run))
    for name, (shape, hash_) in there.items():
        if name not in here:
            raise MismatchError(
                f"parameter {name!r} is frozen in the run and not here; set requires_grad=False "
                f"for it before attach"
            )
        if here[name][0] != shape:
            raise MismatchError(
                f"the frozen parameter {name!r} has shape {list(here[name][0])}, in the run "
                f"{list(shape)}; build the run's model"
            )
        if here[name][1] != hash_:
            raise MismatchError(
                f"the frozen parameter {name!r} has other values (hash {here[name][1][:12]}) than "
                f"the run's ({hash_[:12]}); load the same pretrained weights in the same type, or "
                f"seed before the model is built"
            )
    for name in here:
        if name not in there:
            raise MismatchError(
                f"parameter {name!r} is frozen here and not in the run; set requires_grad=True "
                f"for it before attach"
            )


class FrameBuffer:
    """Cuts a byte stream into frame bodies."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Every body that is complete with `data`. Raises FrameError."""
        self._bytes += data
        while len(self._bytes) >= LENGTH.size:
            stop = LENGTH.size + frame_length(bytes(self._bytes[: LENGTH.size]))
            if len(self._bytes) < stop:
                return
            body = bytes(self._bytes[LENGTH.size : stop])
            del self._bytes[:stop]
            yield body


class TrainerChannel:
    """The trainer's end: blocking, one thread; only `send` may be called from others."""

    def __init__(self, path: str) -> None:
        """Dial the agent. Raises LinkDown."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.circle: list[int] = []
        """Descriptors of sockets to the other ranks, of a trainer that has several."""
        self._sending = threading.Lock()
        self._buffer = FrameBuffer()
        self._inbox: list[FromAgent] = []
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise LinkDown(f"no agent listens at {path}: {error.strerror}") from None

    def greet(self, attach: Attach) -> tuple[AcceptAttach, int]:
        """The agent's welcome and the descriptor of the shared block.

        Raises MismatchError with the agent's sentence when it refuses, LinkDown, ProtocolError.
        """
        self.send(attach)
        prefix, fds, _, _ = socket.recv_fds(self._socket, LENGTH.size, 1 + attach.world)
        while len(prefix) < LENGTH.size:
            prefix += self._receive(LENGTH.size - len(prefix))
        body = b""
        length = frame_length(prefix)
        while len(body) < length:
            body += self._receive(length - len(body))
        check_version(body, "agent")
        answer = decode_from_agent(body)
        if isinstance(answer, RefuseAttach):
            raise MismatchError(answer.sentence)
        if not isinstance(answer, AcceptAttach) or not fds or len(fds) > attach.world:
            raise ProtocolError(f"expected AcceptAttach with one descriptor, not {answer!r}")
        self.circle = list(fds[1:])
        return answer, fds[0]

    def send(self, message: FromTrainer) -> None:
        """Raises LinkDown when the agent is gone."""
        frame = encode(message)
        try:
            with self._sending:
                self._socket.sendall(frame)
        except OSError as error:
            raise LinkDown(f"the agent is gone: {error.strerror}") from None

    def receive(self) -> FromAgent:
        """The next message; blocks. Raises LinkDown, ProtocolError."""
        while not self._inbox:
            self._read()
        return self._inbox.pop(0)

    def poll(self, seconds: float = 0) -> FromAgent | None:
        """The next message if one is here, or comes within so long. Raises as `receive`."""
        while not self._inbox and select.select([self._socket], [], [], seconds)[0]:
            self._read()
        return self._inbox.pop(0) if self._inbox else None

    def _read(self) -> None:
        bodies = self._buffer.feed(self._receive(65_536))
        self._inbox.extend(decode_from_agent(body) for body in bodies)

    def _receive(self, at_most: int) -> bytes:
        try:
            data = self._socket.recv(at_most)
        except OSError as error:
            raise LinkDown(f"the agent is gone: {error.strerror}") from None
        if not data:
            raise LinkDown("the agent is gone")
        return data

    @property
    def end(self) -> socket.socket:
        """For whoever watches whether the agent is there."""
        return self._socket

    def close(self) -> None:
        self._socket.close()
