"""What the agent asks of a trainer: a process (process.py) or its in-process twin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from farflung.config.run import RunSpec
from farflung.errors import FarflungError
from farflung.ids import NodePhase
from farflung.inner.channel import Landing, StepFigures, Work, WorkReport
from farflung.inner.seam import SharedState
from farflung.outer.layout import Layout

__all__ = [
    "Landing",
    "StepFigures",
    "TrainerDied",
    "TrainerFactory",
    "TrainerPort",
    "Work",
    "WorkReport",
]


class TrainerDied(FarflungError):
    """The trainer is gone, or would not start; the message is its last sentence."""


class TrainerPort(Protocol):
    """Belongs to the agent's loop. A dead trainer is started again with `start`."""

    shared: SharedState

    @property
    def has_inner_state(self) -> bool:
        """Whether its optimizer has a state that `save_inner` could write."""

    @property
    def steps(self) -> int:
        """Inner steps so far, over all restarts; for beats."""

    @property
    def steps_per_s(self) -> float:
        """Smoothed, of training time only; 0 is unknown."""

    @property
    def phase(self) -> NodePhase:
        """loading, compiling, training or waiting."""

    @property
    def failure(self) -> str:
        """Why it ended by itself; empty while it has not, and when it has trained since."""

    async def start(self) -> None:
        """Returns when it is ready to train and its local parameters are the anchor.

        Raises TrainerDied with a one-line reason.
        """

    def amend(self, spec: RunSpec) -> None:
        """The run's settings from the next lease on, and for later starts. Told again and again:
        nothing happens when they are the same."""

    async def train(self, lease: Work) -> WorkReport:
        """Returns after departure: `shared.sent(lease.slot, lease.fragment)` holds the local
        parameters. When cancelled the lease ends at the next step. Raises TrainerDied."""

    def stop_early(self) -> None:
        """End the running lease at the next step boundary; nothing happens without one."""

    async def land(self, landing: Landing) -> None:
        """Returns when merged, between an optimizer step and the next forward. TrainerDied."""

    async def reset(self) -> None:
        """Local parameters := anchor, all fragments; the inner optimizer keeps its state.

        A lease that still runs ends unanswered. Raises TrainerDied.
        """

    async def save_inner(self, file: str) -> str:
        """Write the optimizer's state, as it is between two leases, to `file` of the node's folder.

        Returns why there is none, or ''. Raises TrainerDied.
        """

    async def load_inner(self, file: str) -> str:
        """Before the first lease: the optimizer goes on with the state of `file`.

        Returns why it starts fresh, or ''. Raises TrainerDied.
        """

    async def close(self) -> None:
        """End the trainer, politely first. Idempotent."""


TrainerFactory = Callable[[RunSpec, Layout], TrainerPort]
"""Makes a trainer, not started yet; its shared anchor becomes the node's."""
