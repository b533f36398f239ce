"""Who is connected, what goes to whom, and who serves state and blobs to the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from farflung.errors import CorruptState, LinkDown, StorageError
from farflung.failpoints import sent
from farflung.ids import GUESTS
from farflung.network.link import Connection
from farflung.network.messages import Control, Donors, JournalFrames, Member
from farflung.swarm.records import AnyRecord, Commit
from farflung.swarm.state import Link, Node, State

OUTBOX_MESSAGES = 10_000
"""A node that lets this many messages pile up is disconnected."""


@dataclass(frozen=True)
class Past:
    """In an outbox: journal records `first` to `stop`, read when it is their turn."""

    first: int
    stop: int


ReadPast = Callable[[int], Awaitable[JournalFrames]]
"""Records from an index on, one message full, read in the pool. Raises StorageError."""


@dataclass
class Session:
    """One connected node."""

    node: str
    session: str
    link: Connection
    read: ReadPast
    outbox: asyncio.Queue[Control | Past] = field(
        default_factory=lambda: asyncio.Queue(OUTBOX_MESSAGES)
    )

    def put(self, message: Control) -> None:
        """Send it in its turn; a node that does not read is disconnected."""
        try:
            self.outbox.put_nowait(message)
        except asyncio.QueueFull:
            self.link.close(f"{OUTBOX_MESSAGES} messages piled up")

    async def write(self) -> None:
        """Send the outbox in its order until the link ends. A long journal is read page by page,
        no faster than the node takes it."""
        try:
            while True:
                message = await self.outbox.get()
                if isinstance(message, Past):
                    await self._send_past(message)
                else:
                    await self.link.send(message)
        except LinkDown:
            self.link.close()
        except (StorageError, CorruptState) as error:  # the journal cannot be read
            self.link.close(str(error))

    async def _send_past(self, past: Past) -> None:
        first = past.first
        while first < past.stop:
            frames = (await self.read(first)).frames[: past.stop - first]
            await self.link.send(JournalFrames(first=first, frames=frames))  # later ones follow
            first += len(frames)


class Roster:
    """Owned by the coordinator's loop."""

    def __init__(self) -> None:
        self.sessions: dict[str, Session] = {}
        """By node."""
        self.donors: tuple[Member, ...] = ()
        """As every node was told."""

    def send(self, node: str, message: Control) -> None:
        """To a node that is connected; whoever is not asks when it is back."""
        session = self.sessions.get(node)
        if session is not None:
            session.put(message)

    def broadcast(self, message: Control) -> None:
        for node in self.sessions:
            self.send(node, message)

    async def broadcast_records(self, message: JournalFrames, records: list[AnyRecord]) -> None:
        """Records that are on the disk; with a failpoint in the middle of a commit."""
        commits = any(isinstance(r, Commit) for r in records)
        nodes = list(self.sessions)
        for i, node in enumerate(nodes):
            if commits and i == len(nodes) // 2:
                await sent("commit.half-sent")
            self.send(node, message)

    def update_donors(self, state: State) -> None:
        """Tell everybody when it changes who serves: keepers first, they have everything."""
        serving = [n for n in state.nodes.values() if n.endpoints and _serves(n)]
        members = sorted(serving, key=lambda m: (not m.open, m.role in GUESTS, m.node))
        donors = tuple(Member(node=m.node, endpoints=m.endpoints) for m in members)
        if donors != self.donors:
            self.donors = donors
            self.broadcast(Donors(members=donors))

    def close(self, node: str, reason: str) -> None:
        if node in self.sessions:
            self.sessions[node].link.close(reason)

    def close_all(self, reason: str) -> None:
        for session in list(self.sessions.values()):
            session.link.close(reason)


def _serves(node: Node) -> bool:
    """Whoever is connected may hold bytes that others miss, also while it catches up itself:
    after a power cut everywhere nobody is active until the holders' bytes have gone round."""
    return node.link is not Link.GONE
