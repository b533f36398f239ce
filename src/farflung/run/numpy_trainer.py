"""The NumPy trainer: a real (if easy) problem, in the agent's process, in virtual time if wanted.

Row r has a target vector t(r), a cosine of its number; loss = mean((theta - t)^2) / 2, plain SGD.
It converges to the mean of the targets, so every swarm test also sees learning.
"""

from __future__ import annotations

import asyncio
import time

import numpy as np
import numpy.typing as npt

from farflung.config.run import RunSpec
from farflung.inner.seam import SharedState
from farflung.run.trainer_port import Landing, Lease, Trained

LAYERS = 8
Float32 = npt.NDArray[np.float32]


def quadratic_genesis(spec: RunSpec) -> tuple[list[tuple[str, tuple[int, ...]]], Float32]:
    """Layout entries and initial weights of the quadratic model."""
    n = spec.model.parameters
    cuts = [n * i // LAYERS for i in range(LAYERS + 1)]
    entries = [(f"model.layers.{i}.w", (cuts[i + 1] - cuts[i],)) for i in range(LAYERS)]
    rng = np.random.default_rng(spec.seed)
    return entries, rng.standard_normal(n).astype(np.float32)


class NumpyTrainer:
    """In-process TrainerPort for `model.preset = "quadratic"`."""

    def __init__(self, shared: SharedState, spec: RunSpec, *, step_s: float = 0.0) -> None:
        self.shared = shared
        self.steps = 0
        self.steps_per_s = 0.0
        self.phase = "loading"
        self._spec = spec
        self._step_s = step_s
        self._local = np.zeros(shared.anchor.size, np.float32)
        self._phases = np.linspace(0, 20, shared.anchor.size, dtype=np.float32)
        self._stop = False
        self._landings: list[tuple[Landing, asyncio.Future[None]]] = []
        self._training = False
        self._idle_since = 0.0

    async def start(self) -> None:
        await self.reset()
        self.phase = "waiting"
        self._idle_since = self._now()

    async def reset(self) -> None:
        self._drop_landings()
        self._local[:] = self.shared.anchor

    async def train(self, lease: Lease) -> Trained:
        batch = self._spec.inner.batch_rows
        positions = [p for start, stop in lease.ranges for p in range(start, stop)]
        self._stop, self._training, self.phase = False, True, "training"
        waited, started = self._now() - self._idle_since, self._now()
        losses: list[float] = []
        try:
            while len(losses) < len(positions) // batch and not self._stop:
                at = len(losses) * batch
                losses.append(self._step(positions[at : at + batch]))
                await asyncio.sleep(self._step_s)
                self._merge_all()
        finally:
            self._training, self.phase = False, "waiting"
            self._idle_since = self._now()
        elapsed = self._now() - started
        if losses and elapsed > 0:
            self.steps_per_s = len(losses) / elapsed
        self.shared.sent(lease.slot, lease.fragment)[:] = self._fragment(lease.fragment)
        return Trained(
            round=lease.round,
            rows=len(losses) * batch,
            steps=len(losses),
            tokens=len(losses) * self._spec.inner_batch_tokens,
            loss_sum=float(sum(losses)),
            finite=bool(np.isfinite(self._local).all()),
            compute_s=elapsed,
            wait_s=waited,
            note="",
        )

    def _step(self, positions: list[int]) -> float:
        rows = np.asarray(positions, np.float32)
        target = np.cos(self._phases + rows[:, None] * np.float32(0.37)).mean(axis=0)
        gap = self._local - target
        self._local -= np.float32(self._spec.inner.lr) * gap
        self.steps += 1
        return float(np.mean(gap * gap, dtype=np.float64) / 2)

    def stop_early(self) -> None:
        self._stop = True

    async def land(self, landing: Landing) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._landings.append((landing, future))
        if not self._training:
            self._merge_all()
        await future

    def _merge_all(self) -> None:
        landings, self._landings = self._landings, []
        for landing, future in landings:
            self._merge(landing)
            if not future.done():
                future.set_result(None)

    def _drop_landings(self) -> None:
        landings, self._landings = self._landings, []
        for _, future in landings:
            future.cancel()

    def _merge(self, landing: Landing) -> None:
        local = self._fragment(landing.fragment)
        new = np.empty_like(local)
        self.shared.read_fragment(landing.fragment, new)
        alpha = np.float32(landing.alpha)
        match landing.op:
            case "replace":
                local = new
            case "blend":
                local = alpha * local + (np.float32(1) - alpha) * new
            case "add":
                local = local + self.shared.land(landing.slot, landing.fragment)
        at = 0
        for start, stop in self.shared.fragments[landing.fragment]:
            self._local[start:stop] = local[at : at + stop - start]
            at += stop - start

    def _fragment(self, fragment: int) -> Float32:
        parts = [self._local[a:b] for a, b in self.shared.fragments[fragment]]
        return np.concatenate(parts)

    @staticmethod
    def _now() -> float:
        try:
            return asyncio.get_running_loop().time()
        except RuntimeError:
            return time.monotonic()

    async def close(self) -> None:
        self._drop_landings()
