"""The control link of one node: always dialled by the node, kept up with full-jitter backoff."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Protocol

from farflung.clock import Clock
from farflung.config.run import PROTOCOL_VERSION
from farflung.errors import LinkDown, MismatchError, ProtocolError, Refused, StorageError
from farflung.events import DiskAwaited, Emit, ForkDetected, NoCoordinator, Reconnected
from farflung.failpoints import hit, sent
from farflung.ids import Endpoint
from farflung.network.link import BulkFrame, Connection, Received
from farflung.network.messages import Control, Dispute, Hello, JournalFrames, Leave, Refuse, Welcome
from farflung.peer.patience import Patience
from farflung.world import World

FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 3.0
REMIND_S = 60.0
DIAL_S = 5.0
STORAGE_BACKOFF_S = 1.0
BUSY_BYTES = 64 << 10
"""With more than this waiting, only what matters is sent."""


class Handler(Protocol):
    """What the link asks of its node; called from its event loop."""

    def hello(self) -> Hello: ...

    def on_welcome(self, welcome: Welcome) -> None:
        """The link is up. Raises MismatchError, ProtocolError when it should not be."""

    def on_message(self, message: Control) -> None:
        """Raises ProtocolError, StorageError."""

    def on_down(self) -> None: ...

    def shown(self, index: int) -> bytes:
        """A record of the node's journal, as it stands in the file."""


class ControlLink:
    """Owned by the agent's loop. `send` drops messages while the link is down: the coordinator
    asks again for whatever still matters (PLAN is repeated, READY answers it)."""

    def __init__(self, world: World, endpoints: Sequence[str]) -> None:
        self._transport = world.transport
        self._rng, self._clock, self._emit = world.rng, world.clock, world.emit
        self._endpoints = [Endpoint(e) for e in endpoints]
        self._handler: Handler | None = None
        self._fork: ForkDetected | None = None
        self._link: Connection | None = None
        self.sent_bytes = 0
        self.received_bytes = 0

    async def send(self, message: Control) -> None:
        """Send if the link is up. Never raises for a lost link: whoever reads it finds out."""
        if self._link is not None:
            with contextlib.suppress(LinkDown):
                await self._link.send(message)

    async def offer(self, message: Control) -> None:
        """Send what may as well be lost: not while the link is down or other bytes wait for it."""
        if self._link is not None and self._link.waiting_bytes <= BUSY_BYTES:
            await self.send(message)

    async def leave(self, reason: str) -> None:
        """Say that my stay ends."""
        await self.send(Leave(reason=reason))
        await sent("leave.sent")

    async def run(self, handler: Handler) -> None:
        """Connect, read, reconnect, until cancelled. Cancelling leaves the link up, so that a
        last message can be sent; `close` ends it.

        Raises Refused or MismatchError when the coordinator says that this node may not be here.
        """
        self._handler = handler
        trouble = Absence(self._clock, self._emit)
        disk = Patience(self._clock)
        missed, up_s = False, 0.0
        while True:
            try:
                term = await self._connect()
                up_s = self._clock.now()
                if missed:
                    self._emit(Reconnected(after_s=trouble.lasts_s, term=term))
                missed = True
                await self._read()
            except LinkDown as error:
                if self._link is None:
                    trouble.tell(str(error))
                else:
                    trouble.begin()
            except (Refused, MismatchError):
                self._drop()
                raise
            except ProtocolError as error:
                if self._link is not None and self._clock.now() - up_s > REMIND_S:
                    trouble.begin()
                self._try_next_first()
                trouble.tell(f"coordinator: {error}")
            except StorageError as error:  # the coordinator sends again what was not kept
                missed = False  # it was there all the time
                if disk.failed():
                    self._emit(DiskAwaited(what="the journal's copy", reason=str(error)))
                trouble.backoff_s = max(trouble.backoff_s, STORAGE_BACKOFF_S, disk.pause_s)
            self._drop()
            await asyncio.sleep(self._rng.uniform(0, trouble.backoff_s))

    async def _connect(self) -> int:
        failure = LinkDown("no coordinator endpoint is known")
        for endpoint in self._endpoints:
            try:
                link = await self._transport.dial(endpoint, expect=None, deadline_s=DIAL_S)
            except LinkDown as error:
                failure = error
                continue
            return await self._greet(link)
        raise failure

    def _ask(self) -> Handler:
        assert self._handler is not None, "a link is up only while `run` runs, or after it"
        return self._handler

    def _try_next_first(self) -> None:
        """Another endpoint may lead to the coordinator that I follow."""
        self._endpoints = [*self._endpoints[1:], *self._endpoints[:1]]

    async def _greet(self, link: Connection) -> int:
        hello = self._ask().hello()
        try:
            async with asyncio.timeout(DIAL_S):
                await link.send(hello)
                await sent("hello.sent")
                answer = await link.receive()
                if isinstance(answer, Dispute):
                    answer = await self._dispute(link, hello, answer)
        except TimeoutError:
            link.close()
            raise LinkDown(f"the coordinator did not answer in {DIAL_S:g} s") from None
        if isinstance(answer, Refuse):
            link.close()
            raise Refused(answer.sentence)
        if not isinstance(answer, Welcome):
            link.close()
            raise ProtocolError("expected Welcome")
        self._link = link
        self._ask().on_welcome(answer)
        hit("hello.welcomed")
        return answer.term

    async def _dispute(self, link: Connection, hello: Hello, theirs: Dispute) -> Received:
        """My journal is not this coordinator's: show what its run key signed, and stay with it.

        Only a coordinator that proves to be right by not halting gets to refuse me.
        """
        index = hello.journal_length - 1
        if index < 0:
            raise ProtocolError("it disputes an empty journal")
        await link.send(JournalFrames(first=index, frames=(self._ask().shown(index),)))
        try:
            return await link.receive()
        except LinkDown:
            sentence = (
                f"fork: the coordinator has {theirs.journal_length} records and not my record "
                f"{index}, which the run's key signed; I stay with mine"
            )
            event = ForkDetected(
                index=index,
                mine=hello.journal_head.hex(),
                theirs=theirs.hash.hex(),
                sentence=sentence,
            )
            if event != self._fork:  # the same one again at every try: told once
                self._fork = event
                self._emit(event)
            raise ProtocolError(sentence) from None

    async def _read(self) -> None:
        link = self._link
        assert link is not None
        while True:
            received = await link.receive()
            if isinstance(received, BulkFrame):
                raise ProtocolError("no bulk on the control link")
            if isinstance(received, Refuse):
                raise Refused(received.sentence)
            self._ask().on_message(received)

    def _drop(self) -> None:
        if self._link is not None:
            self._link.close()
            self.sent_bytes += self._link.sent_bytes
            self.received_bytes += self._link.received_bytes
            self._link = None
            self._ask().on_down()

    @property
    def connected(self) -> bool:
        return self._link is not None

    def reconnect(self) -> None:
        """End the link, if there is one; `run` dials again and says hello."""
        if self._link is not None:
            self._link.close("says hello again")

    def close(self) -> None:
        self._drop()


class Absence:
    """A time without a coordinator: how long it lasts, when to say so, when to try again."""

    def __init__(
        self,
        clock: Clock,
        emit: Emit,
        first_s: float = FIRST_BACKOFF_S,
        most_s: float = MAX_BACKOFF_S,
    ) -> None:
        """`first_s`, `most_s`: between two tries."""
        self._clock = clock
        self._emit = emit
        self._first_s, self._most_s = first_s, most_s
        self.begin()

    def begin(self) -> None:
        """The link was fine until now."""
        self._began_s = self._clock.now()
        self._told_s = -REMIND_S
        self._tries = 0
        self.backoff_s = self._first_s

    @property
    def lasts_s(self) -> float:
        return self._clock.now() - self._began_s

    def tell(self, reason: str) -> None:
        """One more try failed."""
        self._tries += 1
        self.backoff_s = min(self._most_s, self.backoff_s * 2)
        if self.lasts_s - self._told_s >= REMIND_S:
            self._told_s = self.lasts_s
            self._emit(NoCoordinator(reason=reason, tries=self._tries, for_s=self.lasts_s))


def check_welcome(welcome: Welcome, followed_term: int) -> None:
    """What a node asks of a coordinator. Raises MismatchError (protocol), ProtocolError (a term
    below the one it has followed: another endpoint may lead to the newer coordinator)."""
    if welcome.protocol != PROTOCOL_VERSION:
        raise MismatchError(
            f"the run speaks protocol {welcome.protocol}, this farflung "
            f"{PROTOCOL_VERSION}; install the version that the host runs"
        )
    if welcome.term < followed_term:
        raise ProtocolError(
            f"its term {welcome.term} is older than {followed_term}, which I have followed; stop "
            f"the stale coordinator"
        )
