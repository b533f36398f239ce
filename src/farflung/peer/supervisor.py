"""Keeps a trainer running: starts it, gives it rounds, starts it again when it dies."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from farflung.events import Emit, TrainerRestarted
from farflung.peer.round import ProgressLost, RoundRunner
from farflung.trainers.port import TrainerDied, TrainerPort

FAST_DEATHS = 3
"""Deaths in a row without a single inner step after which starting again is pointless."""


class Supervisor:
    """Owned by the agent's loop."""

    def __init__(
        self,
        *,
        trainer: TrainerPort,
        make_runner: Callable[[], RoundRunner],
        on_runner: Callable[[RoundRunner | None], None],
        lost: Callable[[str], Awaitable[None]],
        emit: Emit,
    ) -> None:
        self._trainer = trainer
        self._make_runner = make_runner
        self._on_runner = on_runner
        self._lost = lost
        self._emit = emit
        self._ended = asyncio.Event()
        self.ready = False
        """The trainer's local parameters are the anchor: a stay may begin."""

    def end_generation(self) -> None:
        """The stay was closed: local parameters start again from the anchor."""
        self.ready = False
        self._ended.set()

    async def run(self) -> None:
        """Until cancelled. Raises TrainerDied when the trainer dies again and again at once."""
        fast = 0
        while True:
            before = self._trainer.steps
            try:
                await self._trainer.start()
                runner = self._make_runner()
                self._on_runner(runner)
                await self._generations(runner)
            except TrainerDied as error:
                self.ready = False
                self._on_runner(None)
                self._emit(TrainerRestarted(reason=str(error)))
                fast = 0 if self._trainer.steps > before else fast + 1
                if fast >= FAST_DEATHS or (fast and not self._trainer.steps):
                    raise
                await self._lost(f"trainer died: {error}")

    async def _generations(self, runner: RoundRunner) -> None:
        """One stay after the other: each begins from the anchor.

        Commits that come while the trainer resets land as the anchor itself. A trainer that does
        not answer (suspended, hung) keeps this node out until it does.
        """
        while True:
            self._ended.clear()
            runner.forget()
            await self._trainer.reset()
            self.ready = not self._ended.is_set()
            self._on_runner(runner)
            rounds = asyncio.create_task(runner.run())
            ended = asyncio.create_task(self._ended.wait())
            try:
                await asyncio.wait({rounds, ended}, return_when=asyncio.FIRST_COMPLETED)
                if rounds.done():
                    rounds.result()
                self._trainer.stop_early()
            except ProgressLost as error:
                await self._lost(f"non-finite training: {error}")
            finally:
                for task in (rounds, ended):
                    task.cancel()
                await asyncio.gather(rounds, ended, return_exceptions=True)
