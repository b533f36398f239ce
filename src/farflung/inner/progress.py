"""How a lease becomes batches and learning-rate factors; the same for every trainer. No torch."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator

from farflung.config.run import RunSpec
from farflung.inner.channel import Work
from farflung.inner.schedule import join_ramp, lr_factor

SPEED_STEPS = 32
"""Steps that the measured speed looks back on."""


def total_steps(spec: RunSpec) -> float:
    """Inner steps of the whole run of one peer at full speed.

    A run that ends by tokens is taken as shared by its genesis cohort.
    """
    if spec.outer.tokens:
        return spec.outer.tokens / (spec.inner_batch_tokens * spec.swarm.start_peers)
    return spec.outer.rounds * spec.steps_per_round


def positions(lease: Work) -> Iterator[int]:
    for start, stop in lease.ranges:
        yield from range(start, stop)


def batches(lease: Work, batch_rows: int) -> Iterator[list[int]]:
    """Whole batches of positions, in order; a rest is left out."""
    batch: list[int] = []
    for position in positions(lease):
        batch.append(position)
        if len(batch) == batch_rows:
            yield batch
            batch = []


def whole_batches(lease: Work, batch_rows: int) -> int:
    return sum(stop - start for start, stop in lease.ranges) // batch_rows


def share(lease: Work, step: int, steps: int) -> float:
    """Share of the run's committed work before step `step` of `steps` of a lease."""
    done = step / steps if steps else 0.0
    return lease.progress_start + (lease.progress_end - lease.progress_start) * done


class LearningRate:
    """The factor on the peak rate: the run's schedule, and a private ramp for a late joiner."""

    def __init__(self, spec: RunSpec) -> None:
        self._inner = spec.inner
        self._total = total_steps(spec)
        self._joined_late: bool | None = None

    def amend(self, spec: RunSpec) -> None:
        """The run was extended, or its schedule changed."""
        self._inner, self._total = spec.inner, total_steps(spec)

    def warm(self) -> None:
        """The inner state is a warm one: no ramp."""
        self._joined_late = False

    def factor(self, lease: Work, step: int, steps: int, own_steps: int) -> float:
        """For step `step` of `steps` of a lease, `own_steps` after the optimizer started.

        A trainer whose first lease begins in mid-run has fresh inner state amid others' warm
        ones, hence the ramp; at the start of the run the schedule's warm-up is the ramp.
        """
        if self._joined_late is None:
            self._joined_late = lease.progress_start > 0
        ramp = join_ramp(own_steps, self._inner) if self._joined_late else 1.0
        return lr_factor(share(lease, step, steps), self._inner, self._total) * ramp


class Losses:
    """The losses of a lease's steps. One that is not finite is told, not added and not hidden."""

    def __init__(self) -> None:
        self.total = 0.0
        """Of the finite ones."""
        self.finite = 0
        """How many were."""
        self._steps = 0
        self._first_bad = 0

    def note(self, loss: float) -> None:
        self._steps += 1
        if math.isfinite(loss):
            self.total += loss
            self.finite += 1
        elif not self._first_bad:
            self._first_bad = self._steps

    @property
    def trouble(self) -> str:
        """Which step's loss was the first that was not finite, and how many; empty: none."""
        bad = self._steps - self.finite
        if not bad:
            return ""
        many = f" (of {self._steps} steps, {bad} were not finite)" if bad > 1 else ""
        return f"non-finite loss at step {self._first_bad}{many}"


class Speed:
    """Steps per second over the last steps, without the first one (it compiles and warms up)."""

    def __init__(self) -> None:
        self._durations: deque[float] = deque(maxlen=SPEED_STEPS)
        self._warm = False

    def note(self, seconds: float) -> None:
        if len(self._durations) == 1 and not self._warm:
            self._durations.clear()
            self._warm = True
        self._durations.append(seconds)

    @property
    def steps_per_s(self) -> float:
        """0 before the first step."""
        spent = sum(self._durations)
        return len(self._durations) / spent if spent > 0 else 0.0
