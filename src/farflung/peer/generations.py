"""The stays of one node, one after the other; the trainer that lives through them."""

from __future__ import annotations

from farflung.events import TrainerRestarted
from farflung.peer.generation import Generation, GenerationFailed
from farflung.peer.node import LocalNode
from farflung.peer.round import ProgressLost
from farflung.peer.standing import Standing, StayPhase
from farflung.trainers.port import TrainerDied, TrainerPort

FAST_DEATHS = 3
"""Deaths in a row without a single inner step after which starting again is pointless."""
FAILURES = 3
"""Stays in a row that failed within CALM_ROUNDS of the one before: this program cannot go on."""
CALM_ROUNDS = 8


class Generations:
    """Owned by the agent's loop."""

    def __init__(self, node: LocalNode, standing: Standing) -> None:
        self._node = node
        self._standing = standing
        self.current: Generation | None = None
        """The one that is being prepared or open."""

    async def run(self, trainer: TrainerPort | None) -> None:
        """Until cancelled. Raises TrainerDied when the trainer dies again and again at once, and
        GenerationFailed when stays do."""
        fast = failures = failed_at = 0
        while True:
            steps = 0 if trainer is None else trainer.steps
            try:
                if trainer is not None:
                    await trainer.start()
                while True:
                    try:
                        await self._one(trainer)
                    except GenerationFailed as error:
                        calm = self._next_round() - failed_at > CALM_ROUNDS
                        failures, failed_at = 1 if calm else failures + 1, self._next_round()
                        if failures >= FAILURES:
                            raise
                        await self.lost(f"failed: {error}")
            except TrainerDied as error:
                assert trainer is not None
                self._node.world.emit(TrainerRestarted(reason=str(error)))
                fast = 0 if trainer.steps > steps else fast + 1
                if fast >= FAST_DEATHS or (fast and not trainer.steps):
                    raise
                await self.lost(f"trainer died: {error}")

    async def _one(self, trainer: TrainerPort | None) -> None:
        """One stay. Local parameters start from the anchor."""
        generation = self.current = Generation(self._node, trainer)
        try:
            await generation.run(lambda: self._standing.enter(StayPhase.READY))
        except ProgressLost as error:
            await self.lost(f"non-finite training: {error}")
        finally:
            self._forget(generation)
            await generation.close()

    def end(self) -> None:
        """My stay was closed: the next one is prepared."""
        self._standing.ended()
        if self.current is not None:
            generation, self.current = self.current, None
            generation.end()

    async def lost(self, reason: str) -> None:
        """What was trained since the last commit is gone: this stay ends."""
        control, standing = self._node.control, self._standing
        number, asked = standing.number, standing.phase in (StayPhase.ASKED, StayPhase.MEMBER)
        self.end()
        if number:
            await control.leave(reason)
        elif asked:  # a stay may be open that I have not heard of: the next hello ends it
            control.reconnect()

    def _forget(self, generation: Generation) -> None:
        if self.current is generation:
            self.current = None

    def _next_round(self) -> int:
        follower = self._node.follower
        return follower.state.next_round if follower.ready else 0
