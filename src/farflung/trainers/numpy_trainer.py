"""The trainer's twin inside the agent's process: a quadratic problem in NumPy.

For `model.preset = "quadratic"`: protocol tests, simulation, demonstrations without torch. Each
row r has a target t(r) = c + noise(r); the loss of a batch is the mean of 0.5 (theta - t)^2 over
coordinates and rows, and a step is SGD along each coordinate,

    v     <- momentum * v + (theta - mean over rows of t(r))
    theta <- theta - lr * v.

Everything follows from the spec and the positions: equal leases give equal bits. With a momentum
above 0 and a disk, v is saved and loaded as a real trainer's inner optimizer state is.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

import numpy as np

from farflung.config.run import RunSpec
from farflung.disk import Disk
from farflung.errors import CorruptState
from farflung.ids import NodePhase
from farflung.inner.channel import Entry, Landing, StepFigures, Work, WorkReport
from farflung.inner.progress import LearningRate, Losses, batches
from farflung.inner.seam import Float32, SharedState
from farflung.inner.state_file import (
    STATE_VERSION,
    Header,
    StateEntry,
    encode_header,
    read_header,
)
from farflung.outer import merge
from farflung.outer.fragments import gather, places
from farflung.trainers.port import TrainerDied

LAYERS = 8
NOISE = 0.1
NOISE_PERIOD = 4093
"""Rows draw their noise as windows of one long table; a prime, so that batches differ."""
_BUSY_S = 0.001


def quadratic_genesis(spec: RunSpec) -> tuple[list[tuple[str, tuple[int, ...]]], Float32]:
    """(layout entries, initial float32 vector) of `spec.model.parameters` elements.

    The entries look like layers, so that several fragments can be cut.
    """
    return _entries(spec.model.parameters), _normal(spec.seed, 0, spec.model.parameters)


def _entries(n: int) -> list[Entry]:
    layers = max(1, min(LAYERS, n))
    return [
        (f"model.layers.{layer}.w", (n // layers + (layer < n % layers),))
        for layer in range(layers)
    ]


class NumpyTrainer:
    """TrainerPort without a process. One step takes `step_s` of the loop's (virtual) time."""

    def __init__(
        self,
        shared: SharedState,
        spec: RunSpec,
        step_s: float = 0.0,
        *,
        momentum: float = 0.0,
        disk: Disk | None = None,
    ) -> None:
        """`disk`: the node's, where its inner state is saved; None: never."""
        self.shared = shared
        self.step_s = step_s
        self.has_inner_state = momentum > 0 and disk is not None
        self._momentum = np.float32(momentum)
        self._velocity: Float32 = np.zeros(shared.n if momentum else 0, np.float32)
        self._disk = disk
        self._round = -1
        self.steps = 0
        self.phase = NodePhase.LOADING
        self.local: Float32 = np.zeros(shared.n, np.float32)
        self._spec = spec
        self._rate = LearningRate(spec)
        self._own_steps = 0
        self._factor = 0.0
        self._norms: list[float] = []
        """Of the present lease's gradients."""
        self._centre = _normal(spec.seed, 1, shared.n)
        self._noise = _normal(spec.seed, 2, shared.n + NOISE_PERIOD) * np.float32(NOISE)
        self._stopping = False
        self._resets = 0
        self._dead = ""
        self._idle_since_s = 0.0

    @property
    def steps_per_s(self) -> float:
        """Unknown (0) when steps take no time."""
        return 1.0 / self.step_s if self.step_s > 0 else 0.0

    async def start(self) -> None:
        self._dead = ""
        self._own_steps = 0
        self._rate = LearningRate(self._spec)
        self._velocity[:] = 0
        await self.reset()
        self.phase = NodePhase.WAITING
        self._idle_since_s = self._now()

    def amend(self, spec: RunSpec) -> None:
        self._spec = spec
        self._rate.amend(spec)

    async def train(self, lease: Work) -> WorkReport:
        self._check_alive()
        started_s = self._now()
        self._stopping = False
        self._round = lease.round
        self.phase = NodePhase.TRAINING
        try:
            seen = await self._train(lease)
        finally:
            self.phase = NodePhase.WAITING
        local = self.shared.sent(lease.slot, lease.fragment)
        gather(self.local, self.shared.fragments[lease.fragment], local)
        losses = Losses()
        for loss in seen:
            losses.note(loss)
        note = losses.trouble or ("" if np.isfinite(local).all() else "non-finite parameters")
        wait_s, self._idle_since_s = started_s - self._idle_since_s, self._now()
        return WorkReport(
            round=lease.round,
            rows=len(seen) * self._spec.inner.batch_rows,
            steps=len(seen),
            tokens=len(seen) * self._spec.inner_batch_tokens,
            loss_sum=losses.total,
            finite_steps=losses.finite,
            finite=not note,
            compute_s=self._idle_since_s - started_s,
            wait_s=wait_s,
            note=note,
            figures=self._figures(),
        )

    def _figures(self) -> StepFigures:
        """Of the last lease; plain SGD on a quadratic has no data to wait for."""
        norms = self._norms
        return StepFigures(
            lr=self._factor,
            grad_norm=sum(norms) / len(norms) if norms else 0.0,
            flops=6.0 * self.shared.n,
            device="NumPy",
        )

    def stop_early(self) -> None:
        self._stopping = True

    async def land(self, landing: Landing) -> None:
        """At once: a step never awaits in its middle."""
        self._check_alive()
        fragment = landing.fragment
        if landing.reads_anchor:
            values = await self._anchor(fragment)
        else:
            values = self.shared.land(landing.slot, fragment)
        self._land(fragment, landing.op, values, landing.alpha)

    async def reset(self) -> None:
        self._check_alive()
        self._stopping = True
        self._resets += 1
        for fragment in range(len(self.shared.fragments)):
            self._land(fragment, "overwrite", await self._anchor(fragment))

    async def save_inner(self, file: str) -> str:
        self._check_alive()
        if self._disk is None or not self.has_inner_state:
            return "plain SGD has no state"
        sizes = [shape[0] for _, shape in _entries(self.shared.n)]
        entries = tuple(
            StateEntry(parameter=i, slots=("velocity",), scalars=(("steps", self._own_steps),))
            for i in range(len(sizes))
        )
        header = Header(version=STATE_VERSION, kind="numpy-sgd", round=self._round, entries=entries)
        self._disk.remove(file)
        self._disk.append(file, encode_header(header) + self._velocity.tobytes())
        self._disk.sync(file)
        return ""

    async def load_inner(self, file: str) -> str:
        self._check_alive()
        if self._disk is None or not self.has_inner_state:
            return "plain SGD has no state"
        data = self._disk.read(file) or b""
        try:
            header, start, total = read_header(data, [s[0] for _, s in _entries(self.shared.n)])
        except CorruptState as error:
            return str(error)
        if header.kind != "numpy-sgd" or total != len(data):
            return "it is the state of another optimizer"
        self._velocity[:] = np.frombuffer(data, "<f4", offset=start)
        self._rate.warm()
        return ""

    async def close(self) -> None:
        self._stopping = True
        self.phase = NodePhase.WAITING

    @property
    def failure(self) -> str:
        return self._dead

    def die(self, reason: str) -> None:
        """As a crash would: whatever runs or is asked raises TrainerDied until `start`."""
        self._dead = reason

    # ---- inside ----------------------------------------------------------------------------

    async def _train(self, lease: Work) -> list[float]:
        losses: list[float] = []
        self._norms = []
        resets = self._resets
        for batch in batches(lease, self._spec.inner.batch_rows):
            if self._stopping:
                break
            await asyncio.sleep(self.step_s)
            self._check_alive()
            if resets != self._resets:
                break
            factor = self._rate.factor(lease, len(losses), lease.steps, self._own_steps)
            self._factor = factor
            losses.append(self._step(batch, factor))
        return losses

    def _step(self, batch: Sequence[int], factor: float) -> float:
        """One SGD step on the rows at these positions; returns the loss before it."""
        mean = self._target(batch[0])
        for position in batch[1:]:
            mean += self._target(position)
        mean /= np.float32(len(batch))
        gap = self.local - mean
        loss = 0.5 * float(np.mean(np.square(gap), dtype=np.float64))
        self._norms.append(math.sqrt(2 * loss * gap.size))
        if self._velocity.size:
            self._velocity *= self._momentum
            self._velocity += gap
            gap = self._velocity
        self.local -= gap * np.float32(self._spec.inner.lr * factor)
        self.steps += 1
        self._own_steps += 1
        return loss

    def _target(self, position: int) -> Float32:
        """float32[n]; the order of rows is that of the positions."""
        row = position % self._spec.data.rows
        start = row * 2654435761 % NOISE_PERIOD
        return self._centre + self._noise[start : start + self.shared.n]

    def _land(
        self, fragment: int, operation: merge.Operation, values: Float32, alpha: float = 0.0
    ) -> None:
        for there, here in places(self.shared.fragments[fragment]):
            merge.land(self.local[there], operation, values[here], alpha)

    async def _anchor(self, fragment: int) -> Float32:
        """The writer may need this very loop to finish, so waiting must not block it."""
        values = np.empty(self.shared.elements(fragment), np.float32)
        while not self.shared.try_read(fragment, values):  # noqa: ASYNC110 - no event exists
            await asyncio.sleep(_BUSY_S)
        return values

    def _check_alive(self) -> None:
        if self._dead:
            raise TrainerDied(self._dead)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _normal(seed: int, stream: int, n: int) -> Float32:
    """float32[n] of standard normals from a counter-based generator."""
    philox = np.random.Philox(key=np.array([seed, stream], np.uint64))
    return np.random.Generator(philox).standard_normal(n, np.float32)
