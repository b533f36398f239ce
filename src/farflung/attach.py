"""The public trainer protocol: any PyTorch loop joins a run through it (docs/trainer.md).

    with farflung.attach(model, optimizer) as peer:
        while lease := peer.lease():
            for positions in lease.batches():
                ...forward, backward, optimizer.step()...
                peer.step(tokens=n, metrics={"loss": loss})

A loop that accumulates gradients or prefetches takes its rows from `peer.stream()`. The built-in
trainer (inner/trainer.py) is a loop like this one. One thread; needs torch. A program of several
ranks (torchrun; docs/ranks.md) calls all of this in each rank, with that rank's rows.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn

from farflung.config.run import spec_from_bytes
from farflung.errors import LinkDown, ProtocolError, UserError
from farflung.ids import NodePhase
from farflung.inner.channel import (
    ENV_GENESIS,
    ENV_SOCKET,
    TRAINER_PROTOCOL_VERSION,
    AcceptAttach,
    Amended,
    Attach,
    Done,
    FromAgent,
    InnerLoaded,
    Land,
    Landed,
    Landing,
    LoadInner,
    Progress,
    Reset,
    ResetDone,
    SaveInner,
    Shutdown,
    StartWork,
    StopEarly,
    TrainerChannel,
)
from farflung.inner.flat import FlatParameters
from farflung.inner.genesis import write_genesis
from farflung.inner.lease import ONE_AT_A_TIME, LrSetter, TrainLease
from farflung.inner.line import AgentLine, RankLine, SoloLine
from farflung.inner.meter import Meter
from farflung.inner.optimizer import HasParamGroups, take_peaks
from farflung.inner.optimizer_state import OptimizerStateIo, forget, is_finite
from farflung.inner.pinned import register
from farflung.inner.progress import Speed
from farflung.inner.ranks import RankCircle, die_with_parent
from farflung.inner.rows import TakenRows, row_numbers
from farflung.inner.seam import Float32, SharedState
from farflung.inner.sharded_state import ShardedStateIo
from farflung.inner.shards import RankPlace, check_rows, place_from_environment
from farflung.inner.stream import Stream

__all__ = ["Peer", "Stream", "TrainLease", "attach"]

PROGRESS_S = 0.2
"""Least time between two Progress messages of one phase."""


def attach(
    model: nn.Module,
    optimizer: HasParamGroups,
    *,
    layout_names: Mapping[str, str] | None = None,
    schedule: Literal["run", "own"] = "run",
) -> Peer:
    """Connect this process's model to the agent that started it.

    The parameters become the run's anchor; frozen ones (`requires_grad=False`) stay as they are
    and must equal the run's. `layout_names` maps parameter names of this module to names of the
    run where they differ.

    `schedule`: with `run` the learning rates of `optimizer` (`initial_lr` where a torch scheduler
    has set it) are peak values, which the run's schedule scales; with `own` they are the
    program's, and farflung never writes them.

    In genesis mode (`farflung host` makes the first weights) writes the model's parameters and
    ends the process with SystemExit(0).

    Raises UserError without an agent or for a peak of 0, MismatchError when versions or parameters
    differ or a parameter cannot be averaged, LinkDown.
    """
    if schedule not in ("run", "own"):
        raise UserError(f"schedule={schedule!r} must be 'run' or 'own'")
    place = place_from_environment()
    flat = FlatParameters(model, layout_names, place)
    if schedule == "run":
        take_peaks(optimizer)
    genesis = os.environ.get(ENV_GENESIS)
    if genesis:
        write_genesis(flat, Path(genesis))
        raise SystemExit(0)
    path = os.environ.get(ENV_SOCKET)
    if not path:
        raise UserError(
            "this program trains only under an agent; "
            "start it with: farflung join INVITE --trainer 'python THIS_PROGRAM.py'"
        )
    channel = TrainerChannel(path)
    try:
        own, meter = schedule == "own", Meter.of_module(model, devices=place.world)
        return _greet(channel, flat, optimizer, place, own_schedule=own, meter=meter)
    except BaseException:
        channel.close()
        raise


def _greet(
    channel: TrainerChannel,
    flat: FlatParameters,
    optimizer: HasParamGroups,
    place: RankPlace,
    *,
    own_schedule: bool,
    meter: Meter,
) -> Peer:
    welcome, fd = channel.greet(
        Attach(
            version=TRAINER_PROTOCOL_VERSION,
            layout=flat.entries,
            frozen=flat.frozen,
            rank=place.rank,
            world=place.world,
        )
    )
    try:
        flat.adopt(welcome.layout)
        shared = SharedState.open(fd, flat.size, welcome.fragments, welcome.slots)
    except BaseException:
        os.close(fd)
        raise
    line: AgentLine = SoloLine(channel)
    if place.world > 1:
        die_with_parent()
        line = RankLine(channel, RankCircle.of_descriptors(place, channel.circle))
    return Peer(line, flat, shared, optimizer, welcome, own_schedule=own_schedule, meter=meter)


class Peer:
    """This trainer's place in the run. Not thread-safe: all calls from the training thread."""

    def __init__(
        self,
        line: AgentLine,
        flat: FlatParameters,
        shared: SharedState,
        optimizer: HasParamGroups,
        welcome: AcceptAttach,
        *,
        own_schedule: bool,
        meter: Meter | None = None,
    ) -> None:
        """`meter`: tells what the steps of a loop are like that brings none of its own."""
        self.spec = spec_from_bytes(welcome.spec)
        self.data_dir = Path(welcome.data_dir)
        """The run's token shards, if it has any."""
        self.place = line.place
        """This process among the ranks of its peer."""
        check_rows(self.spec.inner.batch_rows, line.place.world)
        self._line = line
        self._flat = flat
        self._shared = shared
        self._optimizer = optimizer
        self._rate = LrSetter(self.spec, optimizer, own=own_schedule)
        self._taken = TakenRows()
        self._state_io = _state_io(line, flat, optimizer)
        self._pinned = register(shared.buffers, flat.device)
        self._meter = meter
        self._trained_round = -1
        self._speed = Speed()
        self._lease: TrainLease | None = None
        self._granted: StartWork | None = None
        self._closed = False
        self._wait_s = 0.0
        self._resumed_s = time.perf_counter()
        self._phase = NodePhase.NONE
        self._reported_s = -PROGRESS_S
        self._take_anchor()
        self._line.agree("attach", True)
        self._send(ResetDone(serial=0))

    def lease(self) -> TrainLease | None:
        """The next work; blocks, and merges commits meanwhile. None: the run ends here.

        Raises UserError while a batch is taken for which `step` was not called.
        """
        if self.running is not None and self._taken.waiting:
            raise UserError(ONE_AT_A_TIME.format(what="a lease"))
        self._taken.give_back()
        self._leave_lease()
        return self._await_lease()

    def stream(self, micro_rows: int = 0, *, endless: bool = True) -> Stream:
        """Rows for a loop that takes batches ahead of its steps; then `step` needs `rows`.

        `micro_rows`: rows of a micro-batch; 0: the whole inner batch, of several ranks this one's
        part. `endless`: one pass goes
        over all leases, else over one: see inner/stream.py. Raises UserError when `micro_rows`
        does not divide `inner.batch_rows`.
        """
        self._taken.named = True
        rows = self.spec.inner.batch_rows // self.place.world
        return Stream(self, rows, micro_rows, endless=endless)

    def step(
        self,
        tokens: int,
        metrics: Mapping[str, float | Tensor] | None = None,
        rows: Any = None,
    ) -> None:
        """Call after each `optimizer.step()`, with the tokens of its batch.

        `metrics["loss"]` is the batch's mean nats per token; of several ranks each gives the mean
        and the tokens of its own rows, or of the whole batch. `rows`: the row numbers of all
        micro-batches that the step has used, in order (integers, or tensors of them); they must
        be the next inner batch. Merges commits that arrived, sets the learning rate of the next
        step and hands over the fragment after the last one. Raises UserError when there is no
        lease or it is over, and for other rows.
        """
        if self._closed:  # a loader's last batches, after the end
            return
        lease = self.running
        if not (self._taken.waiting or self._taken.has_void) and (
            lease is None or lease.take() is None  # a loop may go by lease.rows()
        ):
            raise UserError(
                "peer.step() came without a running lease; "
                "take batches from lease.batches(), which ends when the lease is over"
            )
        counts = self._taken.use(None if rows is None else row_numbers(rows))
        tokens = self._line.boundary(tokens)
        if lease is None or not counts:
            self._undo_step()
            return
        lease.count(tokens, (metrics or {}).get("loss", 0.0))
        took_s = time.perf_counter() - self._resumed_s  # on a device: of the step before
        lease.took(took_s)
        self._speed.note(took_s)
        self._rate.own_steps += 1
        self._handle_arrived()
        if lease.finished and not lease.over and not self._taken.waiting:
            self._depart(lease)
        if not lease.over:
            self._rate.apply(lease)
        self._report(NodePhase.TRAINING)
        self._resumed_s = time.perf_counter()

    @property
    def over(self) -> bool:
        """The run is over for this program, or its agent is gone."""
        return self._closed

    @property
    def progress(self) -> float:
        """Share of the run's work that is committed at the coming step, in [0, 1]; for an own
        learning-rate schedule, which a peer that joins in mid-run must not begin at 0."""
        return 0.0 if self._lease is None else self._lease.progress

    def close(self) -> None:
        """End the connection. Idempotent; an open lease ends unanswered."""
        self._closed = True
        if self._lease is not None:
            self._lease.over = True
        self._line.close()
        self._shared.close()

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # ---- leases ----------------------------------------------------------------------------

    @property
    def running(self) -> TrainLease | None:
        """The lease that is not over."""
        return None if self._lease is None or self._lease.over else self._lease

    def fresh_lease(self) -> TrainLease | None:
        """A lease of which nothing is taken; what was taken and not trained goes back. Blocks."""
        self._taken.give_back()
        if self.running is not None and self.running.untouched:
            return self.running
        self._leave_lease()
        return self._await_lease()

    def following_lease(self) -> TrainLease | None:
        """The lease after the running one; what is taken comes first in it. Blocks.

        Raises UserError when the loop runs ahead by more than a whole lease.
        """
        lease = self.running
        if lease is not None and lease.stalled:
            raise UserError(
                f"the loop takes {lease.steps} batches before it trains the first, and a lease "
                f"has no more: let the loader prefetch less, or raise outer.inner_steps"
            )
        self._leave_lease()
        following = self._await_lease()
        if following is not None and not following.begins_with(self._taken.waiting):
            self._taken.void()
        return following

    def _await_lease(self) -> TrainLease | None:
        self._report(NodePhase.WAITING)
        started_s = time.perf_counter()
        while not self._closed:
            grant = self._next_grant()
            if grant is None:
                continue
            lease = TrainLease(
                grant.serial,
                grant.lease,
                self.spec,
                self._rate,
                self._taken,
                self.place,
                self._line.mean,
            )
            self._wait_s += time.perf_counter() - started_s
            if lease.steps == 0:
                self._depart(lease)
                started_s = time.perf_counter()
                continue
            return self._begin(lease)
        return None

    def _undo_step(self) -> None:
        """A step on rows of an ended stay: others train them, so it must not be in here.

        Steps use rows in order, so nothing that counts was trained since the anchor was taken.
        """
        self._take_anchor()
        self._handle_arrived()
        self._resumed_s = time.perf_counter()

    def _begin(self, lease: TrainLease) -> TrainLease:
        self._lease = lease
        lease.meter = self._meter
        self._rate.apply(lease)
        self._report(NodePhase.TRAINING if self._rate.own_steps else NodePhase.COMPILING)
        self._resumed_s = time.perf_counter()
        return lease

    def _leave_lease(self) -> None:
        """The caller is done with a lease, perhaps before its end."""
        if self._lease is not None and not self._lease.over:
            self._depart(self._lease)
        if self._lease is not None:
            self._meter = self._lease.meter  # the program's own, if it has set one
        self._lease = None

    def _depart(self, lease: TrainLease) -> None:
        """The departing fragment's local parameters go to their slot; the lease is over."""
        self._flat.check_frozen()
        self._settle(lease)
        slot, fragment = lease.departs
        with self._copying():
            finite = self._copy_out(fragment, self._shared.sent(slot, fragment))
        finite, _ = self._line.agree("depart", finite)
        lease.over = True
        self._progress()
        self._send(Done(serial=lease.serial, trained=lease.outcome(finite, self._wait_s)))
        self._wait_s = 0.0
        self._trained_round = lease.round
        self._save_inner()

    def _settle(self, lease: TrainLease) -> None:
        """All steps have ended, also on the device, and count as training: what comes now would
        wait for them and is copying."""
        started_s = time.perf_counter()
        lease.settle()
        lease.took(time.perf_counter() - started_s)

    def _copy_out(self, fragment: int, local_F: Float32) -> bool:
        """This process's share of a fragment's local parameters; whether it is finite."""
        ranges = self._shared.fragments[fragment]
        if self._pinned:
            return self._flat.read_pinned(ranges, local_F)
        self._flat.read(ranges, local_F)
        return all(np.isfinite(local_F[a:b]).all() for a, b in self._flat.here(ranges))

    def _next_grant(self) -> StartWork | None:
        if self._granted is None:
            try:
                for message in self._line.wait():
                    self._handle(message)
            except LinkDown as error:
                self._orphaned(error)
        grant, self._granted = self._granted, None
        return grant

    # ---- what the agent asks ---------------------------------------------------------------

    def _handle_arrived(self) -> None:
        try:
            for message in self._line.arrived():
                self._handle(message)
        except LinkDown as error:
            self._orphaned(error)

    def _handle(self, message: FromAgent) -> None:
        match message:
            case StartWork():
                self._granted = message
                if self._lease is not None:
                    self._lease.stop()  # the agent gave the former one up
            case Land():
                if self.running is not None:
                    self._settle(self.running)
                with self._copying():
                    self._merge(message.landing)
                self._line.agree("land", True)
                self._send(Landed(serial=message.serial))
            case Reset():
                self._granted = None
                if self._lease is not None:
                    self._lease.over = True
                self._taken.void()
                self._take_anchor()
                finite, _ = self._line.agree("reset", is_finite(self._optimizer))
                if not finite:
                    forget(self._optimizer)
                    self._rate.restart()
                self._send(ResetDone(serial=message.serial))
            case SaveInner():
                self._state_io.ask(message)
                if self._lease is None or self._lease.over:
                    self._save_inner()
            case LoadInner():
                self._load_inner(message)
            case StopEarly():
                self._stop_early(message.serial)
            case Amended():
                self.spec = spec_from_bytes(message.spec)
                self._rate.amend(self.spec)
            case Shutdown():
                self._end()
            case _:
                raise ProtocolError(f"the agent sent {type(message).__name__} out of place")

    def _save_inner(self) -> None:
        """Between two leases, if the agent asked for it."""
        if self._state_io.asked:
            before = self._phase
            self._report(NodePhase.SAVING)
            self._state_io.serve(self._trained_round)
            self._report(before)

    def _load_inner(self, message: LoadInner) -> None:
        if self._rate.own_steps:
            raise ProtocolError("the agent sent an inner state after the first step")
        answer = self._state_io.load(message)
        loaded, note = self._line.agree("load", not answer.note, answer.note)
        if loaded:
            self._rate.warm()
        elif self.place.world > 1:
            forget(self._optimizer)  # some ranks may have loaded theirs
        self._send(InnerLoaded(serial=answer.serial, note=note))

    def _copying(self) -> AbstractContextManager[None]:
        """Time in here counts as copying, in the figures of the lease that runs or comes next."""
        meter = self._meter if self._lease is None else self._lease.meter
        return nullcontext() if meter is None else meter.copying()

    def _stop_early(self, serial: int) -> None:
        if self._lease is not None and self._lease.serial == serial:
            self._lease.stop()

    def _merge(self, landing: Landing) -> None:
        fragment, shared = landing.fragment, self._shared
        if landing.reads_anchor:
            values_F = shared.read_fragment(fragment, here=self._here(fragment))
        else:
            values_F = shared.land(landing.slot, fragment)
        self._flat.land(shared.fragments[fragment], landing.op, values_F, landing.alpha)

    def _take_anchor(self) -> None:
        """Local parameters start from the anchor, all fragments."""
        for fragment, ranges in enumerate(self._shared.fragments):
            values_F = self._shared.read_fragment(fragment, here=self._here(fragment))
            self._flat.land(ranges, "overwrite", values_F)

    def _here(self, fragment: int) -> list[tuple[int, int]] | None:
        """What a rank reads of a fragment; None: all of it."""
        if self.place.world == 1:
            return None
        return self._flat.here(self._shared.fragments[fragment])

    # ---- the line to the agent -------------------------------------------------------------

    def _report(self, phase: NodePhase) -> None:
        due = time.monotonic() - self._reported_s >= PROGRESS_S
        if phase != self._phase or due:
            self._phase = phase
            self._progress()

    def _progress(self) -> None:
        self._reported_s = time.monotonic()
        self._send(
            Progress(
                steps=self._rate.own_steps,
                steps_per_s=self._speed.steps_per_s,
                phase=self._phase,
            )
        )

    def _send(self, message: Progress | Done | Landed | ResetDone | InnerLoaded) -> None:
        if self._closed:
            return
        try:
            self._line.send(message)
        except LinkDown as error:
            self._orphaned(error)

    def _orphaned(self, error: LinkDown) -> None:
        """Nobody can use what this process would train: end the loop."""
        print(f"farflung: {error}; the trainer ends", file=sys.stderr)
        self._end()

    def _end(self) -> None:
        self._closed = True
        if self._lease is not None:
            self._lease.over = True


def _state_io(
    line: AgentLine, flat: FlatParameters, optimizer: HasParamGroups
) -> OptimizerStateIo | ShardedStateIo:
    if isinstance(line, RankLine):
        return ShardedStateIo(flat, optimizer, line)
    return OptimizerStateIo(flat, optimizer, line.send)


class _Callable(ModuleType):
    """`farflung.attach(...)` works, whether the name is this module or the function in it."""

    def __call__(self, *args: Any, **kwargs: Any) -> Peer:
        return attach(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
