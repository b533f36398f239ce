"""Step 6 and 7 of a round for one node: apply what the journal resolves, in order, and land it."""

from __future__ import annotations

from collections.abc import Sequence

from farflung.errors import Refused
from farflung.events import Applied, Skipped
from farflung.failpoints import hit
from farflung.ids import Role
from farflung.network.messages import Moved
from farflung.peer.averager import Averager
from farflung.peer.control_link import ControlLink
from farflung.peer.follower import Follower
from farflung.peer.node import NodeConfig
from farflung.peer.replay import Replay
from farflung.peer.retention import Retention
from farflung.peer.round import RoundRunner
from farflung.swarm.records import Commit, Contributor
from farflung.trainers.port import TrainerPort
from farflung.transfer.mesh import Mesh
from farflung.world import World


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
        replay: Replay,
        retention: Retention,
    ) -> None:
        self._config = config
        self._world = world
        self._follower = follower
        self._mesh = mesh
        self._control = control
        self._replay = replay
        self._retention = retention
        self._moved_bytes = (0, 0)
        self.trainer: TrainerPort | None = None
        self.runner: RoundRunner | None = None
        self.averager: Averager | None = None
        self.generation = 0
        """My open stay; 0: none."""

    async def step(self) -> bool:
        """Apply or skip the next resolved round. False when nothing is left to apply.

        Raises CorruptState when my state is not the journal's, LogTrimmed when the bytes of the
        round are gone everywhere, Refused when replay could never end, StorageError.
        """
        resolved, commit = self._follower.next_resolution()
        if not resolved:
            return False
        if self._behind():
            hit("replay.step")
        if commit is None:
            self._skip(self._follower.state.next_round)
        else:
            await self._apply(commit)
        return True

    async def _apply(self, commit: Commit) -> None:
        results = await self._results(commit)
        if self.runner is not None:
            await self.runner.landed()
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
        if self.runner is not None:
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
        self._retention.after_round(
            commit.round, committed=(commit.term, commit.attempt), behind=self._behind()
        )

    async def _results(self, commit: Commit) -> Sequence[bytes]:
        """The averaged bytes: from my exchange, my round log, or by hash from a holder."""
        if self.averager is not None and not self._behind():
            results = await self.averager.results_of(commit)
            if results is not None:
                return results
        self._judge_pace()
        return await self._replay.results(commit)

    def _judge_pace(self) -> None:
        """A trainer that is more than the window behind may never get there."""
        if self._config.role != Role.TRAINER:
            return
        if not self._behind():
            self._replay.end()
            return
        self._replay.begin()
        if sentence := self._replay.refusal():
            raise Refused(sentence)

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
        self._retention.after_round(round_, committed=None, behind=self._behind())

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

    async def close(self) -> None:
        """End the downloads; let a snapshot that is being written come to its end."""
        await self._replay.close()
        follower = self._follower
        await self._retention.close(lambda: follower.ready and follower.state.next_round > 0)
