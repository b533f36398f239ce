"""A trainer whose optimizer outlives it: its state is saved now and then, and loaded at a start."""

from __future__ import annotations

from typing import Protocol

from farflung.config.run import RunSpec
from farflung.ids import NodePhase
from farflung.trainers.port import Landing, TrainerPort, Work, WorkReport


class Keeper(Protocol):
    """What keeps the states (trainers/inner_state.py)."""

    def amend(self, spec: RunSpec) -> None: ...

    def save_soon(self) -> None: ...

    async def saved(self) -> None:
        """Returns when no save is under way."""

    async def prepare(self, trainer: TrainerPort) -> None: ...


class ResumingTrainer:
    """TrainerPort over another one."""

    has_inner_state = True

    def __init__(self, trainer: TrainerPort, keeper: Keeper, every: int) -> None:
        """`every`: rounds between two saves, in step with the node's snapshots."""
        self.shared = trainer.shared
        self._trainer = trainer
        self._keeper = keeper
        self._every = every

    @property
    def steps(self) -> int:
        return self._trainer.steps

    @property
    def steps_per_s(self) -> float:
        return self._trainer.steps_per_s

    @property
    def phase(self) -> NodePhase:
        return self._trainer.phase

    @property
    def failure(self) -> str:
        return self._trainer.failure

    async def start(self) -> None:
        await self._trainer.start()
        await self._keeper.prepare(self._trainer)

    def amend(self, spec: RunSpec) -> None:
        self._every = spec.swarm.snapshot_every
        self._keeper.amend(spec)
        self._trainer.amend(spec)

    async def train(self, lease: Work) -> WorkReport:
        trained = await self._trainer.train(lease)
        if (lease.round + 1) % self._every == 0:
            self._keeper.save_soon()
        return trained

    def stop_early(self) -> None:
        self._trainer.stop_early()

    async def land(self, landing: Landing) -> None:
        await self._trainer.land(landing)

    async def reset(self) -> None:
        await self._trainer.reset()

    async def save_inner(self, file: str) -> str:
        return await self._trainer.save_inner(file)

    async def load_inner(self, file: str) -> str:
        return await self._trainer.load_inner(file)

    async def close(self) -> None:
        await self._trainer.close()
        await self._keeper.saved()
