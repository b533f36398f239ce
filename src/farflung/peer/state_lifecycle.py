"""How a node comes to its state, and what it does when it has to part with it."""

from __future__ import annotations

from farflung.errors import StorageError
from farflung.events import DiskAwaited, Resynced
from farflung.outer.layout import Layout
from farflung.peer.bootstrap import Bootstrap
from farflung.peer.node import LocalNode
from farflung.peer.outer_state import OuterState, SharedAnchor
from farflung.peer.patience import Patience
from farflung.peer.replay import LogTrimmed, Replay
from farflung.peer.retention import Retention
from farflung.swarm.records import Genesis


class StateLifecycle:
    """Owned by the agent's loop."""

    def __init__(
        self, node: LocalNode, bootstrap: Bootstrap, replay: Replay, retention: Retention
    ) -> None:
        self._node = node
        self._bootstrap = bootstrap
        self._replay = replay
        self._retention = retention
        self._patience = Patience(node.world.clock)
        """With a disk that refuses."""
        self._distrust = False
        """My disk holds what the journal does not confirm."""
        self._at_least = 0
        """Result bytes of the rounds below are gone everywhere."""

    async def empty(self, genesis: Genesis) -> OuterState:
        """A state of the run's shape; ConfigError when --max-disk is too small for it."""
        state = OuterState(Layout.from_json(genesis.layout), self._node.follower.spec.outer)
        await self._retention.open(state)
        return state

    async def fill(self, state: OuterState, shared: SharedAnchor | None) -> None:
        """From my disk or from donors, into memory shared with the trainer if there is one."""
        if shared is not None:
            state.share(shared)
        await self._node.follower.bring_up(
            state, self._bootstrap, trust_disk=not self._distrust, at_least=self._at_least
        )
        await self._retention.fetched()
        self._distrust = False

    async def forget(self, error: BaseException) -> None:
        """What is in memory is not the journal's, too old to be replayed, or the disk failed: it
        is read anew, from a donor when mine cannot be trusted. Nothing uses it any more."""
        reason, round_ = str(error), self._node.follower.state.next_round
        if isinstance(error, StorageError):
            if self._patience.failed():
                self._node.world.emit(DiskAwaited(what="the next stay", reason=reason))
        else:
            self._node.world.emit(Resynced(round=round_, reason=reason))
            self._distrust = True
        if isinstance(error, LogTrimmed):
            self._at_least = max(self._at_least, round_ + 1)
        await self.drop()
        if isinstance(error, StorageError):
            await self._patience.pause()

    async def drop(self) -> None:
        """Nothing is wrong with it: my disk brings it again."""
        await self._replay.close()
        await self._retention.before_fetch()
        self._node.follower.forget()
