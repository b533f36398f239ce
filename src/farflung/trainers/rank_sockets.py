"""The ranks of one trainer as they attach: who has come, and the sockets between them. No torch."""

from __future__ import annotations

import socket

from farflung.errors import MismatchError, ProtocolError
from farflung.inner.channel import Attach
from farflung.inner.shards import MOST_RANKS, check_rows
from farflung.trainers.link import TrainerLink


class RankSockets:
    """Of one start. The agent makes the sockets and keeps none of them."""

    def __init__(self, ranks: int, batch_rows: int) -> None:
        """`ranks` that the agent has started; with one of its own the program may bring more."""
        self._started = ranks
        self._batch_rows = batch_rows
        self._ends: dict[tuple[int, int], socket.socket] = {}
        """(whose, to whom) of what is not handed out yet."""
        self.world = 0
        """0: nobody has come yet."""
        self.links: dict[int, TrainerLink] = {}
        self._greeted: set[int] = set()

    @property
    def complete(self) -> bool:
        return 0 < self.world == len(self.links)

    def admit(self, attach: Attach) -> None:
        """Raises MismatchError, ProtocolError, ConfigError for a rank that has no place here."""
        world = self.world or (self._started if self._started > 1 else attach.world)
        if not 1 <= attach.world <= MOST_RANKS:
            raise MismatchError(f"the trainer has {attach.world} ranks, at most {MOST_RANKS} may")
        if attach.world != world:
            raise MismatchError(
                f"a rank says that the trainer has {attach.world} ranks, {world} were started; "
                f"a program for several ranks reads RANK and WORLD_SIZE"
            )
        if not 0 <= attach.rank < world or attach.rank in self._greeted:
            raise ProtocolError(f"rank {attach.rank} of {world} attached twice or does not exist")
        check_rows(self._batch_rows, world)
        if not self.world:
            self.world = world
            for rank in range(1, world):
                self._ends[0, rank], self._ends[rank, 0] = socket.socketpair()
        self._greeted.add(attach.rank)

    def take(self, rank: int) -> list[socket.socket]:
        """This rank's sockets to others, to be sent and then closed here."""
        mine = sorted(key for key in self._ends if key[0] == rank)
        return [self._ends.pop(key) for key in mine]

    def close(self) -> None:
        """What nobody has come for; a rank that waits for its end sees that nobody will."""
        for end in self._ends.values():
            end.close()
        self._ends.clear()
