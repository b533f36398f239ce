"""The data plane of one node: links to other nodes, bulk frames in and out, blobs by hash.

A pair of nodes needs one working link; whoever can dial does. A node that nobody can dial (no
endpoints) dials everybody else, so all-outbound peers work.
"""

from __future__ import annotations

import asyncio
from typing import NoReturn, Protocol

from farflung.averaging.rates import Traffic
from farflung.config.run import PROTOCOL_VERSION
from farflung.errors import FarflungError, LinkDown, ProtocolError
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
from farflung.tasks import Tasks, first_ended, nothing_else
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

    async def read_blob(self, name: bytes, offset: int, length: int) -> bytes | None:
        """A piece of what the name is the hash of; None: not here. Raises StorageError."""

    def catalogue(self) -> CatalogueReply: ...

    def journal(self, first: int) -> JournalFrames:
        """Records from `first` on, at most one message full; ProtocolError for a wrong index."""

    def inner_offer(self) -> InnerOffer: ...

    def on_inner_offer(self, node: str, offer: InnerOffer) -> None: ...


class Mesh:
    """All data links of one node. Owned by the agent's event loop."""

    def __init__(self, node: NodeId, run: str, transport: Transport, emit: Emit) -> None:
        self._node = node
        self._run = run
        self._transport = transport
        self._emit = emit
        self._services: NodeServices | None = None
        self.endpoints: tuple[str, ...] = ()
        """What others dial; empty: outbound only."""
        self._links: dict[str, list[Connection]] = {}
        self._endpoints: dict[str, tuple[str, ...]] = {}
        self._arrived = asyncio.Event()
        self._dialling: dict[str, asyncio.Task[Connection]] = {}
        self._tasks = Tasks(emit)
        self.blobs = BlobExchange(
            self, lambda *piece: self._node_services.read_blob(*piece), self._tasks
        )
        self._sending = 0
        self._silent = asyncio.Event()
        self._silent.set()
        self._closed_up: dict[str, int] = {}
        """Sent on closed links, by node."""
        self.bytes_up = 0
        self.bytes_down = 0

    async def open(
        self, services: NodeServices, bind: Endpoint | None, advertise: tuple[str, ...] = ()
    ) -> None:
        """Serve, and listen where there is an address to; nothing is dialled or read before.

        `advertise`: what others dial; empty: where it listens. Raises LinkDown (port in use).
        """
        self._services = services
        if bind is not None:
            actual = await self._transport.listen(bind, self._accept, self._tasks)
            self.endpoints = advertise or (actual,)

    async def failed(self) -> NoReturn:
        """Raises what ended this node's listening: nobody can dial it any more. What fails on a
        link ends that link only."""
        await self._tasks.failed()

    @property
    def _node_services(self) -> NodeServices:
        assert self._services is not None, "opened before it is used"
        return self._services

    def know(self, members: tuple[Member, ...]) -> None:
        for member in members:
            self._endpoints[member.node] = member.endpoints
        self._arrived.set()  # who waits to be dialled may dial now

    def sent_bytes(self) -> int:
        return self.bytes_up + sum(c.sent_bytes for ls in self._links.values() for c in ls)

    def sent_to(self) -> dict[str, int]:
        """Bytes sent so far, by node."""
        sent = dict(self._closed_up)
        for node, links in self._links.items():
            sent[node] = sent.get(node, 0) + sum(link.sent_bytes for link in links)
        return sent

    def open_links(self, node: str) -> tuple[Connection, ...]:
        return tuple(self._links.get(node, ()))

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
        """One dial at a time per node; others wait for it. Raises LinkDown, whatever it failed by:
        what nobody expected has been told by then, and the next one who needs the link dials anew.
        """
        task = self._dialling.get(node)
        if task is None:
            task = self._tasks.start(
                self._dial(node), f"dial {node[:8]}", expects=(LinkDown,), on_failure=nothing_else
            )
            self._dialling[node] = task
            task.add_done_callback(lambda _: self._dialling.pop(node, None))
        await asyncio.wait([task])
        if task.cancelled():
            raise LinkDown("this node closes its links")
        error = task.exception()
        if error is not None and not isinstance(error, LinkDown):
            raise LinkDown(f"cannot dial {node[:8]}: {error}") from error
        return task.result()

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
        self._adopt(link.remote, link)

    def _adopt(self, node: str, link: Connection) -> None:
        link.bulk_size = lambda header: self._expected(node, header)
        self._links.setdefault(node, []).append(link)
        self._arrived.set()
        # A reader that ends, by whatever, closes its link: whoever needs one dials again.
        self._tasks.start(
            self._read(node, link), f"read from {node[:8]}", on_failure=lambda _: link.close()
        )

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
        except FarflungError as error:  # it broke a rule, or this disk cannot answer it
            self._emit(LinkClosed(plane="data", name=node[:8], reason=str(error)))
        finally:
            self._forget(node, link)

    def _forget(self, node: str, link: Connection) -> None:
        link.close()
        self.bytes_up += link.sent_bytes
        self._closed_up[node] = self._closed_up.get(node, 0) + link.sent_bytes
        self.bytes_down += link.received_bytes
        self._links[node].remove(link)
        self.blobs.on_lost(node, link)
        if self._links[node]:
            return
        self._node_services.on_link_lost(node)

    # ---- bulk ------------------------------------------------------------------------------

    async def send_bulk(
        self, node: str, header: BulkHeader, payload: bytes | memoryview, stall_s: float
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
        self,
        link: Connection,
        node: str,
        header: BulkHeader,
        payload: bytes | memoryview,
        stall_s: float,
    ) -> None:
        async def send() -> None:
            await link.send_bulk(header, payload)

        await first_ended(send(), _stalled(link, node, stall_s))

    async def quiet(self) -> None:
        """Returns when no frame of a round waits for a link: blobs go after those."""
        await self._silent.wait()

    def _on_bulk(self, node: str, frame: BulkFrame) -> None:
        if isinstance(frame.header, Blob):
            self.blobs.on_blob(node, frame.header, frame.payload)
        else:
            self._node_services.on_bulk(node, frame.header, frame.payload)

    def _expected(self, node: str, header: BulkHeader) -> int:
        if isinstance(header, Blob):
            return self.blobs.expected(node, header)
        return self._node_services.expected_bytes(header)

    async def _on_control(self, node: str, link: Connection, message: object) -> None:
        match message:
            case Fetch():
                self.blobs.on_fetch(link, message)
            case Catalogue():
                await link.send(self._node_services.catalogue())
            case FetchJournal(first=first):
                await link.send(self._node_services.journal(first))
            case CatalogueReply():
                self.blobs.on_catalogue(node, message)
            case InnerWanted():
                await link.send(self._node_services.inner_offer())
            case InnerOffer():
                self._node_services.on_inner_offer(node, message)
            case _:
                raise ProtocolError(f"{type(message).__name__} does not belong on a data link")

    async def close(self) -> None:
        """Close every link; waits for the readers. Safe to cancel."""
        for dialling in list(self._dialling.values()):
            dialling.cancel()
        for links in list(self._links.values()):
            for link in list(links):
                link.close("leaving")
        try:
            await self._transport.close()
        finally:
            await self._tasks.close()


async def _stalled(link: Connection, node: str, stall_s: float) -> None:
    """LinkDown, and the link closed, when the other side takes no byte for so long."""
    taken, quiet_looks = -1, 0
    while quiet_looks <= LOOKS:
        await asyncio.sleep(stall_s / LOOKS)
        before, taken = taken, link.acknowledged_bytes
        quiet_looks = quiet_looks + 1 if taken == before else 0
    link.close("stalled")
    raise LinkDown(f"{node[:8]} took no bytes for {stall_s:g} s")
