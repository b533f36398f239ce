"""A lease as the training loop sees it: batches, learning rate, and what became of it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from farflung.config.run import RunSpec
from farflung.data.mixture import Change
from farflung.inner import progress
from farflung.inner.channel import Work, WorkReport
from farflung.inner.optimizer import HasParamGroups, set_lr_factor


class LrSetter:
    """Keeps the optimizer's learning rates on the run's schedule."""

    def __init__(self, spec: RunSpec, optimizer: HasParamGroups) -> None:
        self._spec = spec
        self._rate = progress.LearningRate(spec)
        self._optimizer = optimizer
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
        set_lr_factor(self._optimizer, lease.lr_factor())


class TrainLease:
    """Work for one round. Over when its batches are trained, or when the agent ends it early."""

    def __init__(self, serial: int, lease: Work, spec: RunSpec, rate: LrSetter) -> None:
        self.spec = spec
        self.round = lease.round
        self.steps = progress.whole_batches(lease, spec.inner.batch_rows)
        """Batches to train."""
        self.over = False
        self.serial = serial
        self._lease = lease
        self._rate = rate
        self._stopping = False
        self._done = 0
        self._tokens = 0
        self._loss_sum = 0.0
        self._compute_s = 0.0
        self._note = ""

    @property
    def mixture(self) -> tuple[Change, ...]:
        """Changes of the mixture of sources that these positions know."""
        return self._lease.mixture

    def rows(self) -> list[int]:
        """All positions of the lease, in order."""
        return list(progress.positions(self._lease))

    def batches(self) -> Iterator[list[int]]:
        """Positions of each batch still to train; ends when the lease is over.

        Call `peer.step` after each.
        """
        rows = self.spec.inner.batch_rows
        for index, batch in enumerate(progress.batches(self._lease, rows)):
            if self.over:
                return
            if index >= self._done:
                yield batch

    def lr_factor(self) -> float:
        """What the peak learning rates are multiplied by in the coming step."""
        return self._rate.factor(self._lease, self._done, self.steps)

    # ---- for Peer --------------------------------------------------------------------------

    @property
    def departs(self) -> tuple[int, int]:
        """(slot, fragment)"""
        return self._lease.slot, self._lease.fragment

    @property
    def finished(self) -> bool:
        return self._stopping or self._done >= self.steps

    def stop(self) -> None:
        self._stopping = True

    def count(self, tokens: int, loss: float, seconds: float) -> None:
        self._done += 1
        self._tokens += tokens
        self._compute_s += seconds
        if math.isfinite(loss):
            self._loss_sum += loss
        elif not self._note:
            self._note = f"non-finite loss at step {self._done}"

    def outcome(self, parameters_finite: bool, wait_s: float) -> WorkReport:
        note = self._note or ("" if parameters_finite else "non-finite parameters")
        return WorkReport(
            round=self.round,
            rows=self._done * self.spec.inner.batch_rows,
            steps=self._done,
            tokens=self._tokens,
            loss_sum=self._loss_sum,
            finite=not note,
            compute_s=self._compute_s,
            wait_s=wait_s,
            note=note,
        )
