"""The data plane of one node: links to other nodes, bulk frames in and out, blobs by hash.

A pair of nodes needs one working link; whoever can dial does. A node that nobody can dial (no
endpoints) dials everybody else, so all-outbound peers work.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from farflung.averaging.rates import Traffic
from farflung.config.run import PROTOCOL_VERSION
from farflung.errors import LinkDown, ProtocolError
from farflung.events import Emit, LinkClosed
from farflung.ids import Endpoint, NodeId
from farflung.network.link import BulkFrame, Connection, Transport
from farflung.network.messages import (
    Blob,
    BulkHeader,
    Catalogue,
    CatalogueReply,
    DataHello,
    Fetch,
    FetchJournal,
    InnerOffer,
    InnerWanted,
    JournalFrames,
    Member,
)
from farflung.transfer.blobs import BlobExchange

DIAL_S = 5.0
LOOKS = 10
"""How often a sender looks for progress in the time that makes a stall."""


class NodeServices(Protocol):
    """What the mesh asks of its agent."""

    def expected_bytes(self, header: BulkHeader) -> int:
        """Exact payload size that the plan allows; ProtocolError when it allows none."""

    def on_bulk(self, sender: str, header: BulkHeader, payload: memoryview) -> None: ...

    def on_link_lost(self, node: str) -> None: ...

    def read_blob(self, name: bytes, offset: int, length: int) -> bytes | None: ...

    def catalogue(self) -> CatalogueReply: ...

    def journal(self, first: int) -> JournalFrames:
        """Records from `first` on, at most one message full; ProtocolError for a wrong index."""

    def inner_offer(self) -> InnerOffer: ...

    def on_inner_offer(self, node: str, offer: InnerOffer) -> None: ...


class Mesh:
    """All data links of one node. Owned by the agent's event loop."""

    def __init__(
        self, *, node: NodeId, run: str, transport: Transport, services: NodeServices, emit: Emit
    ) -> None:
        self._node = node
        self._run = run
        self._transport = transport
        self._services = services
        self._emit = emit
        self._links: dict[str, list[Connection]] = {}
        self._endpoints: dict[str, tuple[str, ...]] = {}
        self._arrived = asyncio.Event()
        self._dialling: dict[str, asyncio.Task[Connection]] = {}
        self.blobs = BlobExchange(self, services.read_blob)
        self._tasks: set[asyncio.Task[None]] = set()
        self._sending = 0
        self._silent = asyncio.Event()
        self._silent.set()
        self.bytes_up = 0
        self.bytes_down = 0

    async def listen(self, bind: Endpoint) -> Endpoint:
        return await self._transport.listen(bind, self._accept)

    def know(self, members: tuple[Member, ...]) -> None:
        for member in members:
            self._endpoints[member.node] = member.endpoints
        self._arrived.set()  # who waits to be dialled may dial now

    def sent_bytes(self) -> int:
        return self.bytes_up + sum(c.sent_bytes for ls in self._links.values() for c in ls)

    def received_bytes(self) -> int:
        return self.bytes_down + sum(c.received_bytes for ls in self._links.values() for c in ls)

    def traffic(self) -> Traffic:
        """Counters of the open links, for measuring rates."""
        links = [link for links in self._links.values() for link in links]
        return Traffic(
            left=sum(link.acknowledged_bytes for link in links),
            waiting=sum(link.waiting_bytes for link in links),
            arrived=sum(link.received_bytes for link in links),
        )

    def heard(self, node: str) -> int:
        """Bytes that have arrived on the open links of a node."""
        return sum(link.received_bytes for link in self._links.get(node, ()))

    # ---- links -----------------------------------------------------------------------------

    async def reach(self, node: str, deadline_s: float) -> Connection:
        """A link to the node: the one there is, a dialled one, or one that it dials.

        Raises LinkDown when there is none by the deadline.
        """
        try:
            async with asyncio.timeout(deadline_s):
                while not self._links.get(node):
                    if self._endpoints.get(node):
                        return await self._dial_shared(node)
                    self._arrived.clear()
                    await self._arrived.wait()
                return self._links[node][0]
        except TimeoutError:
            raise LinkDown(f"no data link to {node[:8]} in {deadline_s:g} s") from None

    def linked(self, node: str) -> bool:
        return bool(self._links.get(node))

    async def _dial_shared(self, node: str) -> Connection:
        """One dial at a time per node; others wait for it."""
        task = self._dialling.get(node)
        if task is None:
            task = asyncio.create_task(self._dial(node))
            self._dialling[node] = task
            task.add_done_callback(lambda _: self._dialling.pop(node, None))
            task.add_done_callback(lambda t: t.cancelled() or t.exception())
        return await asyncio.shield(task)

    async def _dial(self, node: str) -> Connection:
        failure = LinkDown(f"{node[:8]} has no endpoint")
        for endpoint in self._endpoints[node]:
            try:
                link = await self._transport.dial(
                    Endpoint(endpoint), expect=NodeId(node), deadline_s=DIAL_S
                )
                await link.send(DataHello(protocol=PROTOCOL_VERSION, run=self._run))
            except (LinkDown, ProtocolError) as error:
                failure = LinkDown(str(error))
                continue
            self._adopt(node, link)
            return link
        raise failure

    async def _accept(self, link: Connection) -> None:
        """An inbound link: it must be a member's and begin with DataHello."""
        if link.remote is None or link.remote_role != "peer":
            link.close("the data plane needs a peer's certificate")
            return
        hello = await link.receive()
        if not isinstance(hello, DataHello) or hello.run != self._run:
            raise ProtocolError("a data link begins with DataHello of the same run")
        if hello.protocol != PROTOCOL_VERSION:
            raise ProtocolError(
                f"data protocol {hello.protocol} is not mine ({PROTOCOL_VERSION}); upgrade"
            )
        reader = self._adopt(link.remote, link)
        await reader

    def _adopt(self, node: str, link: Connection) -> asyncio.Task[None]:
        link.bulk_size = lambda header: self._expected(node, header)
        self._links.setdefault(node, []).append(link)
        self._arrived.set()
        task = asyncio.create_task(self._read(node, link))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _read(self, node: str, link: Connection) -> None:
        try:
            while True:
                received = await link.receive()
                if isinstance(received, BulkFrame):
                    self._on_bulk(node, received)
                else:
                    await self._on_control(node, link, received)
        except LinkDown:
            pass
        except ProtocolError as error:
            self._emit(LinkClosed(plane="data", name=node[:8], reason=str(error)))
        finally:
            self._forget(node, link)

    def _forget(self, node: str, link: Connection) -> None:
        link.close()
        self.bytes_up += link.sent_bytes
        self.bytes_down += link.received_bytes
        self._links[node].remove(link)
        self.blobs.on_lost(node, link)
        if self._links[node]:
            return
        self._services.on_link_lost(node)

    # ---- bulk ------------------------------------------------------------------------------

    async def send_bulk(
        self, node: str, header: BulkHeader, payload: bytes, stall_s: float
    ) -> None:
        """A frame of a round. Raises LinkDown when there is no link, or when the node took no
        byte, of this frame or of those before it, for `stall_s`."""
        link = await self.reach(node, stall_s)
        self._sending += 1
        self._silent.clear()
        try:
            await self._send_all(link, node, header, payload, stall_s)
        finally:
            self._sending -= 1
            if not self._sending:
                self._silent.set()

    async def _send_all(
        self, link: Connection, node: str, header: BulkHeader, payload: bytes, stall_s: float
    ) -> None:
        sending = asyncio.ensure_future(link.send_bulk(header, payload))
        try:
            taken, quiet_looks = -1, 0
            while not sending.done():
                if quiet_looks > LOOKS:
                    link.close("stalled")
                    raise LinkDown(f"{node[:8]} took no bytes for {stall_s:g} s")
                await asyncio.wait({sending}, timeout=stall_s / LOOKS)
                before, taken = taken, link.acknowledged_bytes
                quiet_looks = quiet_looks + 1 if taken == before else 0
            sending.result()
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def quiet(self) -> None:
        """Returns when no frame of a round waits for a link: blobs go after those."""
        await self._silent.wait()

    def _on_bulk(self, node: str, frame: BulkFrame) -> None:
        if isinstance(frame.header, Blob):
            self.blobs.on_blob(node, frame.header, frame.payload)
        else:
            self._services.on_bulk(node, frame.header, frame.payload)

    def _expected(self, node: str, header: BulkHeader) -> int:
        if isinstance(header, Blob):
            return self.blobs.expected(node, header)
        return self._services.expected_bytes(header)

    async def _on_control(self, node: str, link: Connection, message: object) -> None:
        match message:
            case Fetch():
                self.blobs.on_fetch(link, message)
            case Catalogue():
                await link.send(self._services.catalogue())
            case FetchJournal(first=first):
                await link.send(self._services.journal(first))
            case CatalogueReply():
                self.blobs.on_catalogue(node, message)
            case InnerWanted():
                await link.send(self._services.inner_offer())
            case InnerOffer():
                self._services.on_inner_offer(node, message)
            case _:
                raise ProtocolError(f"{type(message).__name__} does not belong on a data link")

    async def close(self) -> None:
        """Close every link; waits for the readers. Safe to cancel."""
        for links in list(self._links.values()):
            for link in list(links):
                link.close("leaving")
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._transport.close()
