"""Who may talk to the coordinator: strangers with an invite, nodes with their Hello.

A connection is served here until it ends; what a node says becomes an input of the decide loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from farflung.config.run import PROTOCOL_VERSION
from farflung.coordinator.fork_check import examine, fits
from farflung.coordinator.handshake import refuse, refuse_version
from farflung.coordinator.measures import MeasureBook
from farflung.coordinator.roster import Past, Roster, Session
from farflung.errors import (
    CorruptState,
    FarflungError,
    Forked,
    LinkDown,
    ProtocolError,
    StorageError,
    UserError,
)
from farflung.events import Emit, LinkClosed, NodeRefused, inert
from farflung.network.link import BulkFrame, Connection
from farflung.network.messages import (
    Control,
    Donors,
    Extend,
    Extended,
    Hello,
    JournalFrames,
    Redeem,
    Redeemed,
    Refuse,
    RoundMeasures,
    Status,
    StatusRequest,
    Vote,
    Welcome,
)
from farflung.swarm.amendments import granted
from farflung.swarm.identity import node_id_of
from farflung.swarm.journal import Journal
from farflung.swarm.state import Amending, Connected, Disconnected, Input, Received, State
from farflung.swarm.votes import vote_body
from farflung.tasks import Tasks, first_ended, nothing_else
from farflung.words import counted

HELLO_S = 5.0
MAX_NAME = 64

Admission = Callable[[Redeem], "tuple[Control, Input | None]"]
"""Judges an invite: the answer, and the event that admits its bearer."""
VoteCheck = Callable[[bytes, bytes, bytes], bool]
"""(public key, body, signature) -> valid."""


@dataclass(frozen=True, kw_only=True)
class Door:
    """How strangers become members, and who may look."""

    admission: Admission
    check_vote: VoteCheck
    status: Callable[[str], str]
    """The run as JSON, for the node with this id."""
    operator: str = ""
    """Node id of the run's own key: who has it may amend the run. Empty: nobody."""
    alone_since: int = 0
    """Lower terms were given up by the operator, when the run was restored."""


class ControlPlane(Protocol):
    """What sessions ask of their coordinator."""

    state: State
    journal: Journal
    measures: MeasureBook

    @property
    def roster(self) -> Roster: ...

    @property
    def blocked(self) -> asyncio.Event:
        """Set while the disk refuses records."""

    def now(self) -> float: ...

    def submit(self, event: Input) -> None: ...

    async def drained(self) -> None:
        """Wait until all that was submitted is decided."""

    async def past(self, first: int) -> JournalFrames:
        """Journal records from `first` on, one message full. Raises StorageError."""

    def halt(self, fork: Forked) -> None:
        """The run has forked: decide nothing more."""


class Sessions:
    """Owned by the coordinator's loop."""

    def __init__(self, control: ControlPlane, door: Door, emit: Emit) -> None:
        self._control = control
        self._door = door
        self._emit = emit
        self._writers = Tasks(emit, nothing_else)  # a fault of one ends its session, see below

    async def close(self) -> None:
        await self._writers.close()

    async def accept(self, link: Connection) -> None:
        """One inbound connection until it ends. Never raises for a remote's mistake."""
        try:
            async with asyncio.timeout(HELLO_S):
                first = await link.receive()
        except TimeoutError:
            link.close(f"no message in {HELLO_S:g} s")
            return
        try:
            await self._serve(link, first)
        except (StorageError, CorruptState) as error:  # the journal cannot be read
            self._emit(
                LinkClosed(plane="control", name=link.remote or "a stranger", reason=str(error))
            )
            link.close(str(error))

    async def _serve(self, link: Connection, first: object) -> None:
        if link.remote is None:
            await self._stranger(link, first)
        elif isinstance(first, StatusRequest):
            await link.send(Status(json=self._door.status(link.remote)))
            link.close()
        elif isinstance(first, Extend):
            await link.send(await self._extended(link.remote, first))
            link.close()
        elif isinstance(first, Hello):
            await self._member(link, link.remote, first)
        else:
            raise ProtocolError("a control connection begins with Hello")

    async def _stranger(self, link: Connection, first: object) -> None:
        if not isinstance(first, Redeem):
            raise ProtocolError("a stranger may only redeem an invite")
        answer, event = self._door.admission(first)
        if event is not None:
            self._control.submit(event)
        if isinstance(answer, Redeemed) and not await self._journalled(first):
            answer = Refuse(sentence="the host's disk takes no new members now; try again later")
        await link.send(answer)
        link.close()

    async def _extended(self, node: str, message: Extend) -> Control:
        """The answer to the operator, after what it asked for is in the journal."""
        if node != self._door.operator:
            return Refuse(sentence="only the host itself may change a run's settings")
        wanted = Amending(request=message.request, wishes=message.wishes)
        try:
            if not granted(self._control.state, wanted):
                return Extended(sentence="nothing to change: these are the run's settings already")
        except UserError as error:
            return Refuse(sentence=str(error))
        self._control.submit(wanted)
        await first_ended(self._control.drained(), self._control.blocked.wait())
        if self._control.blocked.is_set():
            return Refuse(sentence="the host's disk is full; the change is made when it has room")
        if message.request not in self._control.state.amended:
            return Refuse(sentence="the run has moved on meanwhile; look at its status, ask again")
        outer = self._control.state.spec.outer
        end = f"{outer.tokens:,} tokens" if outer.tokens else counted(outer.rounds, "round")
        wishes = ", ".join(message.wishes)
        return Extended(sentence=f"amended: {wishes}; the run now ends after {end}")

    async def _journalled(self, redeem: Redeem) -> bool:
        node = node_id_of(redeem.public_key)
        return await self._admitted(node) and node in self._control.state.nodes

    async def _member(self, link: Connection, node: str, hello: Hello) -> None:
        if not await self._admitted(node):
            link.close("the coordinator's disk takes no records now")
            return
        try:
            refusal = await self._refusal(link, node, hello)
        except Forked as fork:
            self._control.halt(fork)
            link.close(str(fork))
            return
        if refusal:
            self._emit(NodeRefused(name=inert(hello.name, MAX_NAME), reason=refusal))
            await link.send(Refuse(sentence=refusal))
            link.close()
            return
        await self._supersede(node)
        session = Session(node, hello.session, link, self._control.past)
        self._greet(session, hello)
        self._control.measures.greeted(self._control.state, node, hello)
        writer = self._writers.start(
            session.write(),
            f"write to {node[:8]}",
            on_failure=lambda _: link.close("internal error"),
        )
        reason = "connection closed"
        try:
            await self._read(session)
        except LinkDown as error:
            reason = str(error) or reason
        except FarflungError as error:
            reason = str(error)
            self._emit(LinkClosed(plane="control", name=inert(hello.name, MAX_NAME), reason=reason))
        finally:
            writer.cancel()
            link.close()
            if self._control.roster.sessions.get(node) is session:
                del self._control.roster.sessions[node]
            self._control.submit(Disconnected(node=node, session=hello.session, reason=reason))

    async def _admitted(self, node: str) -> bool:
        """Wait for a membership that may be on its way into the journal. False: it stays out for
        now, because the disk refuses; nothing is promised that is not journalled."""
        if node in self._control.state.nodes:
            return True
        await first_ended(self._control.drained(), self._control.blocked.wait())
        return not self._control.blocked.is_set()

    async def _refusal(self, link: Connection, node: str, hello: Hello) -> str:
        """Why this node may not take part, or ''. Raises Forked."""
        refusal = refuse_version(self._control.state, hello)
        if not refusal and not fits(self._control.journal, hello):
            refusal = await examine(
                link, self._control.journal, hello, alone_since=self._door.alone_since
            )
        connected = node in self._control.roster.sessions
        return refusal or refuse(self._control.state, node, hello, connected, self._control.now())

    async def _supersede(self, node: str) -> None:
        old = self._control.roster.sessions.pop(node, None)
        if old is not None:
            old.link.close("another connection of this node took over")
            await asyncio.sleep(0)

    def _greet(self, session: Session, hello: Hello) -> None:
        """Welcome and the missing journal, then every broadcast: no gap, no await between."""
        put = session.outbox.put_nowait
        put(
            Welcome(
                protocol=PROTOCOL_VERSION,
                term=self._control.state.term,
                journal_length=self._control.journal.length,
            )
        )
        put(Past(hello.journal_length, self._control.journal.length))
        put(Donors(members=self._control.roster.donors))
        self._control.roster.sessions[session.node] = session
        self._control.submit(
            Connected(
                node=session.node,
                session=hello.session,
                generation=hello.generation,
                endpoints=hello.endpoints,
            )
        )

    async def _read(self, session: Session) -> None:
        while True:
            received = await session.link.receive()
            if isinstance(received, BulkFrame):
                raise ProtocolError("no bulk on the control link")
            if isinstance(received, StatusRequest):
                session.put(Status(json=self._door.status(session.node)))
            elif isinstance(received, RoundMeasures):
                self._control.measures.heard(self._control.state, session.node, received)
            elif isinstance(received, Vote) and not self._valid_vote(session.node, received):
                raise ProtocolError("a vote's signature is wrong")
            else:
                self._control.submit(Received(node=session.node, message=received))

    def _valid_vote(self, node: str, vote: Vote) -> bool:
        body = vote_body(
            self._control.state.run,
            vote.term,
            vote.round,
            vote.attempt,
            vote.bytes_root,
            vote.fragment_hash,
        )
        key = self._control.state.nodes[node].public_key
        return self._door.check_vote(key, body, vote.signature)
