"""The control link of one node: always dialled by the node, kept up with full-jitter backoff."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

from farflung.clock import Clock
from farflung.errors import LinkDown, MismatchError, ProtocolError, Refused, StorageError
from farflung.events import Emit, Reconnected, Warned
from farflung.failpoints import hit, sent
from farflung.ids import Endpoint
from farflung.network.link import BulkFrame, Connection, Transport
from farflung.network.messages import Control, Hello, Refuse, Welcome

MAX_BACKOFF_S = 3.0
DIAL_S = 5.0
STORAGE_BACKOFF_S = 1.0


class ControlLink:
    """Owned by the agent's loop. `send` drops messages while the link is down: the coordinator
    asks again for whatever still matters (PLAN is repeated, READY answers it)."""

    def __init__(
        self,
        *,
        transport: Transport,
        endpoints: Sequence[str],
        hello: Callable[[], Hello],
        on_welcome: Callable[[Welcome], None],
        on_message: Callable[[Control], None],
        rng: random.Random,
        clock: Clock,
        emit: Emit,
    ) -> None:
        self._transport = transport
        self._endpoints = [Endpoint(e) for e in endpoints]
        self._hello = hello
        self._on_welcome = on_welcome
        self._on_message = on_message
        self._rng = rng
        self._clock = clock
        self._emit = emit
        self._link: Connection | None = None
        self.sent_bytes = 0
        self.received_bytes = 0

    @property
    def up(self) -> bool:
        return self._link is not None

    async def send(self, message: Control) -> None:
        """Send if the link is up. Never raises for a lost link."""
        link = self._link
        if link is not None:
            try:
                await link.send(message)
            except LinkDown:
                self._link = None

    async def run(self) -> None:
        """Connect, read, reconnect, until cancelled. Cancelling leaves the link up, so that a
        last message can be sent; `close` ends it.

        Raises Refused or MismatchError when the coordinator says that this node may not be here.
        """
        backoff_s, lost_s = 0.1, self._clock.now()
        first = True
        while True:
            try:
                term = await self._connect()
                if not first:
                    self._emit(Reconnected(after_s=self._clock.now() - lost_s, term=term))
                first, backoff_s = False, 0.1
                await self._read()
            except LinkDown as error:
                if first:
                    self._emit(Warned(sentence=f"{error}; trying again"))
            except (Refused, MismatchError):
                self._drop()
                raise
            except ProtocolError as error:
                self._emit(Warned(sentence=f"coordinator: {error}"))
            except StorageError as error:  # the coordinator sends again what was not kept
                self._emit(Warned(sentence=f"the journal's copy waits for the disk: {error}"))
                backoff_s = max(backoff_s, STORAGE_BACKOFF_S)
            if self._link is not None:
                lost_s = self._clock.now()
            self._drop()
            await asyncio.sleep(self._rng.uniform(0, backoff_s))
            backoff_s = min(MAX_BACKOFF_S, backoff_s * 2)

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

    async def _greet(self, link: Connection) -> int:
        try:
            async with asyncio.timeout(DIAL_S):
                await link.send(self._hello())
                await sent("hello.sent")
                answer = await link.receive()
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
        self._on_welcome(answer)
        hit("hello.welcomed")
        return answer.term

    async def _read(self) -> None:
        link = self._link
        assert link is not None
        while True:
            received = await link.receive()
            if isinstance(received, BulkFrame):
                raise ProtocolError("no bulk on the control link")
            if isinstance(received, Refuse):
                raise Refused(received.sentence)
            self._on_message(received)

    def _drop(self) -> None:
        if self._link is not None:
            self._link.close()
            self.sent_bytes += self._link.sent_bytes
            self.received_bytes += self._link.received_bytes
            self._link = None

    def reconnect(self) -> None:
        """End the link, if there is one; `run` dials again and says hello."""
        if self._link is not None:
            self._link.close("says hello again")

    def close(self) -> None:
        self._drop()
