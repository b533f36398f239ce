"""Step 6 and 7 of a round for one node: apply what the journal resolves, in order, and land it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from farflung.errors import CorruptState, LinkDown, StorageError
from farflung.events import Applied, Skipped, Warned
from farflung.network.messages import Moved
from farflung.run.averager import Averager
from farflung.run.control import ControlLink
from farflung.run.follower import RETRY_S, Follower
from farflung.run.mesh import Mesh
from farflung.run.node import NodeConfig, World
from farflung.run.round import RoundRunner
from farflung.run.trainer_port import TrainerPort
from farflung.swarm.records import Commit, Contributor


class Applier:
    """The apply loop of one node. Owned by the agent's loop."""

    def __init__(
        self,
        *,
        config: NodeConfig,
        world: World,
        follower: Follower,
        mesh: Mesh,
        control: ControlLink,
        donors: Callable[[], list[str]],
    ) -> None:
        self._config = config
        self._world = world
        self._follower = follower
        self._mesh = mesh
        self._control = control
        self._donors = donors
        self._moved_bytes = (0, 0)
        self._saving: asyncio.Task[None] | None = None
        self.trainer: TrainerPort | None = None
        self.runner: RoundRunner | None = None
        self.averager: Averager | None = None
        self.generation = 0
        """My open stay; 0: none."""

    async def step(self) -> bool:
        """Apply or skip the next resolved round. False when nothing is left to apply.

        Raises CorruptState when my state is not the journal's, StorageError.
        """
        resolved, commit = self._follower.next_resolution()
        if not resolved:
            return False
        if commit is None:
            self._skip(self._follower.state.next_round)
        else:
            await self._apply(commit)
        return True

    async def _apply(self, commit: Commit) -> None:
        results = await self._results(commit)
        if self.runner is not None:
            await self.runner.settled()
        shared = None if self.trainer is None else self.trainer.shared
        applied = await self._follower.apply(
            commit,
            results,
            before=lambda: shared.begin_write(commit.fragment) if shared else None,
            after=lambda: shared.end_write(commit.fragment) if shared else None,
        )
        if self.averager is not None:
            self.averager.resolved(commit.round)
        mine = self._mine(commit)
        if self.runner is not None and self.generation:
            self.runner.on_commit(applied, None if mine is None else mine.credited)
        self._world.emit(
            Applied(
                round=commit.round,
                fragment=commit.fragment,
                attempt=commit.attempt,
                fragment_hash=commit.fragment_hash.hex(),
                state_root=self._follower.state.root.hex(),
                contributed=mine is not None,
            )
        )
        await self._report(commit.round)
        self._keep_house(commit.round)

    async def _results(self, commit: Commit) -> Sequence[bytes]:
        """The averaged bytes: from my exchange, my round log, or by hash from a holder."""
        results: Sequence[bytes] | None = None
        if self.averager is not None and not self._behind():
            results = await self.averager.results_of(commit)
        if results is None:
            results = self._follower.stored(commit)
        while results is None:
            try:
                results = await self._follower.fetch_results(
                    commit, self._donors(), self._mesh.blobs
                )
            except (LinkDown, CorruptState, StorageError) as error:
                sentence = f"round {commit.round} is not here yet: {error}"
                self._world.emit(Warned(sentence=sentence))
                await asyncio.sleep(RETRY_S)
        return results

    def _behind(self) -> bool:
        """More than the window behind the journal: no exchange of mine can be in flight."""
        state = self._follower.state
        return self._follower.resolved - state.next_round > state.outer.window

    def _mine(self, commit: Commit) -> Contributor | None:
        """My entry in the commit, if it is of my present stay."""
        me = (self._config.node, self.generation)
        return next((c for c in commit.contributors if (c.node, c.generation) == me), None)

    def _skip(self, round_: int) -> None:
        self._follower.skip(round_)
        if self.averager is not None:
            self.averager.resolved(round_)
        if self.runner is not None:
            self.runner.on_abandon(round_)
        self._world.emit(Skipped(round=round_))

    def count_bytes_from_now(self) -> None:
        """Reports count from here: what joining moved is not the rounds' traffic."""
        self._moved_bytes = (self._mesh.sent_bytes(), self._mesh.received_bytes())

    async def _report(self, round_: int) -> None:
        """Bytes moved since the last report, and my own state root."""
        before_up, before_down = self._moved_bytes
        self.count_bytes_from_now()
        await self._control.send(
            Moved(
                round=round_,
                bytes_up=self._moved_bytes[0] - before_up,
                bytes_down=self._moved_bytes[1] - before_down,
                state_root=self._follower.state.root,
            )
        )

    def _keep_house(self, round_: int) -> None:
        rules = self._follower.spec.swarm
        if self._config.role == "trainer":
            self._follower.log.trim(round_ + 1 - rules.keep_rounds)
        due = (round_ + 1) % rules.snapshot_every == 0 and not self._behind()
        idle = self._saving is None or self._saving.done()  # else the disk is slower than that
        if due and idle:
            self._saving = asyncio.create_task(self._follower.snapshot(self._config.run))

    async def close(self) -> None:
        """Let a snapshot that is being written come to its end."""
        if self._saving is not None:
            await asyncio.gather(self._saving, return_exceptions=True)
