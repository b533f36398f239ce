"""One generation: a peer's uninterrupted stay, from the preparation of its trainer to its end.

What belongs to a stay is built with it and dropped with it: the rounds' runner with its leases and
departed contributions, the averager with its attempts, the landings. Nothing of it is reused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from farflung.averaging.reduce import EncodedChunks
from farflung.errors import FarflungError
from farflung.peer.averager import Averager
from farflung.peer.node import LocalNode
from farflung.peer.round import RoundRunner
from farflung.tasks import Tasks, root_cause
from farflung.trainers.port import TrainerPort


class GenerationFailed(FarflungError):
    """A task of the stay ended by an exception that nobody expected (event `TaskFailed`)."""


class Generation:
    """Owned by the agent's loop. Without a trainer (a keeper) it only averages."""

    def __init__(self, node: LocalNode, trainer: TrainerPort | None) -> None:
        self._trainer = trainer
        self._tasks = Tasks(node.world.emit, self._fail)
        self.runner = None if trainer is None else RoundRunner(node, trainer, self._tasks)
        self.averager = Averager(node, self._contribution, self._fail)
        self._over = asyncio.Event()
        self._failure: Exception | None = None

    async def run(self, prepared: Callable[[], None]) -> None:
        """Reset the trainer to the anchor, say that it is `prepared`, and live through rounds.

        Returns when the stay is over (`end`). Commits that come while the trainer resets land as
        the anchor itself; one that does not answer (suspended, hung) keeps this node out until it
        does. Raises TrainerDied, ProgressLost, GenerationFailed, StorageError.
        """
        if self._trainer is not None:
            await self._trainer.reset()
        if not self._over.is_set():
            prepared()
        rounds = self._tasks.start(self._rounds(), "rounds", expects=(FarflungError,))
        rounds.add_done_callback(lambda _: self._over.set())
        await self._over.wait()
        if self._failure is not None:
            cause = root_cause(self._failure)
            raise GenerationFailed(f"{type(cause).__name__}: {cause}")
        if rounds.done():
            rounds.result()

    def end(self) -> None:
        """The stay is over: it was closed, or the state that it stands on is gone."""
        self._over.set()

    async def close(self) -> None:
        """Drop everything; nothing of the stay runs any more when this returns."""
        if self._trainer is not None:
            self._trainer.stop_early()
        self._tasks.cancel()
        self.averager.cancel()
        try:
            await self._tasks.close()
        finally:
            await self.averager.close()

    async def _rounds(self) -> None:
        if self.runner is not None:
            await self.runner.run()
        await self._over.wait()

    def _contribution(self, round_: int) -> EncodedChunks | None:
        return None if self.runner is None else self.runner.contribution(round_)

    def _fail(self, error: Exception) -> None:
        self._failure = self._failure or error
        self._over.set()
