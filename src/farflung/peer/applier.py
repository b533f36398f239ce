"""Step 6 and 7 of a round for one node: apply what the journal resolves, in order, and land it."""

from __future__ import annotations

from collections.abc import Sequence

from farflung.errors import Refused
from farflung.events import Applied, Skipped
from farflung.failpoints import hit
from farflung.ids import Role
from farflung.network.messages import Moved
from farflung.peer.anchor_write import AnchorWrite
from farflung.peer.generations import Generations
from farflung.peer.node import LocalNode
from farflung.peer.replay import Replay
from farflung.peer.retention import Retention
from farflung.peer.round import RoundRunner
from farflung.peer.standing import Standing
from farflung.swarm.records import Commit, Contributor


class Applier:
    """The apply loop of one node. Owned by the agent's loop."""

    def __init__(
        self,
        node: LocalNode,
        standing: Standing,
        generations: Generations,
        replay: Replay,
        retention: Retention,
    ) -> None:
        self._node = node
        self._standing = standing
        self._generations = generations
        self._follower = node.follower
        self._replay = replay
        self._retention = retention
        self._moved_bytes = (0, 0)

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
            await self._skip(self._follower.state.next_round)
        elif self._follower.holds(commit):
            await self._pass_over(commit)
        else:
            await self._apply(commit)
        return True

    async def _apply(self, commit: Commit) -> None:
        results = await self._results(commit)
        mine, measures = self._mine(commit), self._node.measures
        measures.interrupt(commit.round, "vote")
        with measures.during(commit.round, "merge"):
            if (runner := self._runner) is not None:
                await runner.landed()
            await self._follower.apply(commit, results, self._writing(commit, mine))
        if (generation := self._generations.current) is not None:
            generation.averager.resolved(commit.round)
            if generation.runner is not None:
                generation.runner.on_commit(commit, None if mine is None else mine.credited)
        await self._applied(commit, contributed=mine is not None)

    async def _pass_over(self, commit: Commit) -> None:
        """The snapshot holds it: so does a trainer, which began from that anchor."""
        self._follower.pass_over(commit)
        if (generation := self._generations.current) is not None:
            generation.averager.resolved(commit.round)
        await self._applied(commit, contributed=False)

    async def _applied(self, commit: Commit, *, contributed: bool) -> None:
        """Say so, unless the state is not yet that of one moment: it has no root to show."""
        if self._follower.whole:
            self._node.world.emit(
                Applied(
                    round=commit.round,
                    fragment=commit.fragment,
                    attempt=commit.attempt,
                    fragment_hash=commit.fragment_hash.hex(),
                    state_root=self._follower.state.root.hex(),
                    contributed=contributed,
                )
            )
            await self._report(commit.round)
        await self._tell_measures(commit.round)
        await self._retention.after_round(
            commit.round, committed=(commit.term, commit.attempt), behind=self._behind()
        )

    def _writing(self, commit: Commit, mine: Contributor | None) -> AnchorWrite:
        runner = self._runner
        return AnchorWrite(
            self._follower.state,
            commit.fragment,
            keep=self._retention.before_write,
            addend=None if runner is None else runner.addend(commit, contributed=mine is not None),
        )

    async def _results(self, commit: Commit) -> Sequence[bytes]:
        """The averaged bytes: from my exchange, my round log, or by hash from a holder."""
        generation = self._generations.current
        if generation is not None and not self._behind():
            results = await generation.averager.results_of(commit)
            if results is not None:
                return results
        self._judge_pace()
        return await self._replay.results(commit)

    def _judge_pace(self) -> None:
        """A trainer that is more than the window behind may never get there."""
        if self._node.config.role != Role.TRAINER:
            return
        if not self._behind():
            self._replay.end()
            return
        self._replay.begin()
        if sentence := self._replay.refusal():
            raise Refused(sentence)

    @property
    def _runner(self) -> RoundRunner | None:
        generation = self._generations.current
        return None if generation is None else generation.runner

    def _behind(self) -> bool:
        """More than the window behind the journal: no exchange of mine can be in flight."""
        state = self._follower.state
        return self._follower.resolved - state.next_round > state.outer.window

    def _mine(self, commit: Commit) -> Contributor | None:
        """My entry in the commit, if it is of my present stay."""
        me = (self._node.config.node, self._standing.number)
        return next((c for c in commit.contributors if (c.node, c.generation) == me), None)

    async def _skip(self, round_: int) -> None:
        self._follower.skip(round_)
        if (generation := self._generations.current) is not None:
            generation.averager.resolved(round_)
            if generation.runner is not None:
                generation.runner.on_abandon(round_)
        self._node.world.emit(Skipped(round=round_))
        await self._tell_measures(round_)
        await self._retention.after_round(round_, committed=None, behind=self._behind())

    @property
    def disk(self) -> tuple[int, int]:
        """(bytes that this node stores, their limit)."""
        return self._retention.used, self._retention.limit

    def count_bytes_from_now(self) -> None:
        """Reports count from here: what joining moved is not the rounds' traffic."""
        self._moved_bytes = (self._node.mesh.sent_bytes(), self._node.mesh.received_bytes())
        self._node.meter.take()

    async def _tell_measures(self, round_: int) -> None:
        """For people, and of rounds that this node had a part in: nothing waits for it."""
        node = self._node
        links = node.meter.take() if node.measures.knows(round_) else ()
        if (told := node.measures.close(round_, links)) is not None:
            await node.control.offer(told)

    async def _report(self, round_: int) -> None:
        """Bytes moved since the last report, and my own state root."""
        mesh, (before_up, before_down) = self._node.mesh, self._moved_bytes
        self._moved_bytes = (mesh.sent_bytes(), mesh.received_bytes())
        await self._node.control.send(
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
