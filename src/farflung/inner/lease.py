"""A lease as the training loop sees it: batches, learning rate, and what became of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from torch import Tensor

from farflung.config.run import RunSpec
from farflung.data.mixture import Change
from farflung.errors import UserError
from farflung.inner import progress
from farflung.inner.channel import StepFigures, Work, WorkReport
from farflung.inner.late import LateValue
from farflung.inner.meter import Meter
from farflung.inner.optimizer import HasParamGroups, set_lr_factor
from farflung.inner.rows import TakenRows
from farflung.inner.shards import ALONE, RankPlace

STEPS_BEHIND = 1
"""Losses that are read later: a step is queued while the device works on the one before."""
ONE_AT_A_TIME = (
    "{what} was taken before peer.step() for the last batch: call peer.step() after every batch "
    "of lease.batches(); a loop that accumulates or prefetches takes its rows from peer.stream()"
)


class LrSetter:
    """Keeps the optimizer's learning rates on the run's schedule, unless they are the program's."""

    def __init__(self, spec: RunSpec, optimizer: HasParamGroups, *, own: bool = False) -> None:
        """`own`: learning rates are the program's and never written."""
        self._spec = spec
        self._rate = progress.LearningRate(spec)
        self._optimizer = optimizer
        self._own = own
        self._started_at = 0
        self.own_steps = 0

    def factor(self, lease: Work, step: int, steps: int) -> float:
        return self._rate.factor(lease, step, steps, self.own_steps - self._started_at)

    def warm(self) -> None:
        """The optimizer holds the state of one that has trained."""
        self._rate.warm()

    def amend(self, spec: RunSpec) -> None:
        """Other settings of the schedule, from the next lease on."""
        self._spec = spec
        self._rate.amend(spec)

    def restart(self) -> None:
        """The optimizer has lost its state: in mid-run its rate ramps up again."""
        self._rate = progress.LearningRate(self._spec)
        self._started_at = self.own_steps

    def apply(self, lease: TrainLease) -> None:
        factor = lease.lr_factor()  # also notes whether this peer joined late
        if not self._own:
            set_lr_factor(self._optimizer, factor)


class TrainLease:
    """Work for one round. Over when its batches are trained, or when the agent ends it early."""

    def __init__(
        self,
        serial: int,
        lease: Work,
        spec: RunSpec,
        rate: LrSetter,
        taken: TakenRows,
        place: RankPlace = ALONE,
        joint: Callable[[float], float] = float,
    ) -> None:
        """`place`: of several ranks each takes its part of every batch. `joint`: this rank's loss
        of a step becomes the peer's; all ranks call it for the same steps."""
        self.spec = spec
        self.round = lease.round
        self.steps = progress.whole_batches(lease, spec.inner.batch_rows)
        """Batches to train."""
        self.over = False
        self.meter: Meter | None = None
        """Tells what the steps were like, when the lease ends; whoever trains sets it."""
        self.serial = serial
        self._lease = lease
        self._rate = rate
        self._taken = taken
        self._place = place
        self._joint = joint
        self._untaken = self._batches()
        self._n_taken = 0
        self._stopping = False
        self._done = 0
        self._tokens = 0
        self._losses = progress.Losses()
        self._unread: deque[LateValue] = deque()
        self._compute_s = 0.0
        self._factor = 0.0

    @property
    def mixture(self) -> tuple[Change, ...]:
        """Changes of the mixture of sources that these positions know."""
        return self._lease.mixture

    def rows(self) -> list[int]:
        """All positions of the lease, in order; of several ranks this one's part."""
        if self._place.world == 1:
            return list(progress.positions(self._lease))
        return [position for batch in self._batches() for position in batch]

    def batches(self) -> Iterator[list[int]]:
        """Positions of each batch still to train, of several ranks this one's part of it; ends
        when the lease is over.

        Call `peer.step` after each: UserError when the next is taken before that.
        """
        while not self.over:
            if self._taken.waiting:
                raise UserError(ONE_AT_A_TIME.format(what="a second batch"))
            batch = self.take()
            if batch is None:
                return
            yield batch

    def lr_factor(self) -> float:
        """What the peak learning rates are multiplied by in the coming step."""
        self._factor = self._rate.factor(self._lease, self._done, self.steps)
        return self._factor

    @property
    def progress(self) -> float:
        """Share of the run's committed work at the coming step, in [0, 1]."""
        return progress.share(self._lease, self._done, self.steps)

    # ---- for Peer and Stream ---------------------------------------------------------------

    @property
    def departs(self) -> tuple[int, int]:
        """(slot, fragment)"""
        return self._lease.slot, self._lease.fragment

    @property
    def finished(self) -> bool:
        return self._stopping or self._done >= self.steps

    @property
    def untouched(self) -> bool:
        """Nothing of it is taken or trained, and it shall not end."""
        return self._n_taken == 0 and not self.finished

    @property
    def stalled(self) -> bool:
        """All of it is taken, nothing trained: a loop that runs ahead by more than a lease."""
        return self._done == 0 and self._n_taken > 0 and not self._stopping

    def stop(self) -> None:
        self._stopping = True

    def take(self) -> list[int] | None:
        """The next batch, noted as taken; None when the lease has no more to give."""
        if self.over or self._stopping:
            return None
        batch = next(self._untaken, None)
        if batch is not None:
            self._n_taken += 1
            self._taken.take(batch)
        return batch

    def begins_with(self, batches: Sequence[list[int]]) -> bool:
        """Whether these are its first batches, as many as it has. If so they count as taken."""
        mine = list(islice(self._batches(), len(batches)))
        if mine != list(batches[: len(mine)]):
            return False
        self._n_taken = len(list(islice(self._untaken, len(mine))))
        return True

    def _batches(self) -> Iterator[list[int]]:
        whole = progress.batches(self._lease, self.spec.inner.batch_rows)
        return (self._place.part(batch) for batch in whole)

    def count(self, tokens: int, loss: float | Tensor) -> None:
        """A step has been made. Its loss is read a step later, which waits for the step before."""
        self._done += 1
        self._tokens += tokens
        self._unread.append(LateValue(loss))
        self._read_losses(STEPS_BEHIND)

    def settle(self) -> None:
        """Read the losses that are left, which waits for all steps."""
        self._read_losses(0)

    def took(self, seconds: float) -> None:
        """Time of training, the waits of `count` and `settle` among it."""
        self._compute_s += seconds

    def _read_losses(self, keep: int) -> None:
        while len(self._unread) > keep:
            self._losses.note(self._joint(self._unread.popleft().read()))

    def outcome(self, parameters_finite: bool, wait_s: float) -> WorkReport:
        self.settle()
        note = self._losses.trouble or ("" if parameters_finite else "non-finite parameters")
        return WorkReport(
            round=self.round,
            rows=self._done * self.spec.inner.batch_rows,
            steps=self._done,
            tokens=self._tokens,
            loss_sum=self._losses.total,
            finite_steps=self._losses.finite,
            finite=not note,
            compute_s=self._compute_s,
            wait_s=wait_s,
            note=note,
            figures=self._figures(),
        )

    def _figures(self) -> StepFigures:
        if self.meter is None:
            return StepFigures(lr=self._factor)
        return self.meter.figures(lr=self._factor, tokens=self._tokens, seconds=self._compute_s)
