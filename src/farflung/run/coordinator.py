"""The coordinator's shell: sockets, journal and clock around the pure `decide`.

One inbox, one consumer: events are decided in order of arrival. What a decision appends is
journalled and synced before anything of it is sent. A full disk holds the decision back (nothing
is committed, connections are served) until there is room again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from farflung.clock import Clock, Workers
from farflung.config.run import PROTOCOL_VERSION
from farflung.errors import FarflungError, LinkDown, ProtocolError, StorageError
from farflung.events import Emit, RunStarted, Warned
from farflung.failpoints import hit, sent
from farflung.ids import Endpoint
from farflung.network.link import BulkFrame, Connection, Transport
from farflung.network.messages import (
    Control,
    Donors,
    Hello,
    Journal,
    Member,
    Redeem,
    Refuse,
    Status,
    StatusRequest,
    Verdict,
    Vote,
    Welcome,
)
from farflung.run.welcome import AwakeClock, hit_appended, orphans, refuse, serves
from farflung.swarm.decide import decide
from farflung.swarm.journal import Journal as JournalFile
from farflung.swarm.records import AnyRecord, Commit
from farflung.swarm.records import Term as TermRecord
from farflung.swarm.replay import replay, replay_more
from farflung.swarm.state import (
    Append,
    Connected,
    Disconnected,
    Input,
    Received,
    Send,
    State,
    Tell,
    Tick,
)
from farflung.swarm.votes import vote_body

TICK_S = 0.1
HELLO_S = 5.0
CATCH_UP_BYTES = 512 << 10
OUTBOX_MESSAGES = 10_000
"""A node that lets this many messages pile up is disconnected."""
RETRY_DISK_S = 1.0
FAREWELL_S = 15.0
"""How long a finished run waits for its peers to say goodbye."""


@dataclass
class Session:
    """One connected node."""

    node: str
    session: str
    link: Connection
    outbox: asyncio.Queue[Control]


Admission = Callable[[Redeem], "tuple[Control, Input | None]"]
"""Judges an invite: the answer, and the event that admits its bearer."""
VoteCheck = Callable[[bytes, bytes, bytes], bool]
"""(public key, body, signature) -> valid."""


class Coordinator:
    """The control plane of one run. Owned by one event loop."""

    def __init__(
        self,
        *,
        transport: Transport,
        clock: Clock,
        workers: Workers,
        emit: Emit,
        journal: JournalFile,
        fragment_elements: tuple[int, ...],
        admission: Admission,
        check_vote: VoteCheck,
        status: Callable[[], str],
        on_append: Callable[[int, list[AnyRecord]], None] | None = None,
        tick_s: float = TICK_S,
    ) -> None:
        self._transport = transport
        self._clock = AwakeClock(clock)
        self._workers = workers
        self._emit = emit
        self._journal = journal
        self._admission = admission
        self._check_vote = check_vote
        self._status = status
        self._on_append = on_append
        self._tick_s = tick_s
        self._sessions: dict[str, Session] = {}
        self._inbox: asyncio.Queue[Input] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._done = asyncio.Event()
        self._donors: tuple[Member, ...] = ()
        self.state: State = replay(journal.records(), fragment_elements, self._clock.now())

    # ---- life ------------------------------------------------------------------------------

    async def start(self, bind: Endpoint) -> Endpoint:
        """Begin a new term and listen. Raises StorageError, LinkDown (port in use)."""
        term = self.state.term + 1
        records = [TermRecord(term=term), *orphans(self.state)]
        await self._append(records)
        hit("term.appended")
        self.state = replay_more(self.state, records, self._clock.now())
        endpoint = await self._transport.listen(bind, self._accept)
        self._emit(
            RunStarted(
                run=self.state.run,
                name=self.state.spec.name,
                parameters=sum(self.state.fragment_elements),
                term=term,
                rounds=self.state.spec.outer.rounds,
            )
        )
        return endpoint

    async def run(self) -> None:
        """Decide until the run is finished and its trainers have gone. Cancel to stop."""
        async with asyncio.TaskGroup() as group:
            deciding = group.create_task(self._decide_loop())
            ticking = group.create_task(self._tick_loop())
            await self._done.wait()
            deciding.cancel()
            ticking.cancel()

    async def close(self) -> None:
        for session in list(self._sessions.values()):
            session.link.close("the coordinator stops")
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._transport.close()

    def submit(self, event: Input) -> None:
        """Put an event into the inbox (the host admits its own keeper this way)."""
        self._inbox.put_nowait(event)

    # ---- deciding --------------------------------------------------------------------------

    async def _tick_loop(self) -> None:
        finished_s: float | None = None
        while True:
            await asyncio.sleep(self._tick_s)
            self._inbox.put_nowait(Tick())
            if self.state.finished:
                finished_s = finished_s or self._clock.now()
                if self._alone() or self._clock.now() - finished_s > FAREWELL_S:
                    self._done.set()

    def _alone(self) -> bool:
        return not any(self.state.nodes[n].trains for n in self._sessions if n in self.state.nodes)

    async def _decide_loop(self) -> None:
        while True:
            event = await self._inbox.get()
            try:
                await self._decide(event)
            except ProtocolError as error:
                node = getattr(event, "node", "")
                self._emit(Warned(sentence=f"{self._name(node)}: {error}"))
                if node in self._sessions:
                    self._sessions[node].link.close(str(error))
            except StorageError as error:  # journalled, but not told: they ask when they are back
                self._emit(Warned(sentence=f"every node connects again: {error}"))
                for session in list(self._sessions.values()):
                    session.link.close(str(error))
            finally:
                self._inbox.task_done()

    async def _decide(self, event: Input) -> None:
        """One decision, taken again until the disk takes what it appends."""
        while True:
            state, actions, _ = decide(self.state, event, self._clock.now())
            records = [a.record for a in actions if isinstance(a, Append)]
            try:
                if records:
                    hit("coordinator.before-append")
                frames, first = await self._append(records)
            except StorageError as error:
                self._emit(Warned(sentence=f"nothing is committed: {error}"))
                await asyncio.sleep(RETRY_DISK_S)
                continue
            break
        self.state = state
        if frames:
            hit_appended(records)
            await self._broadcast_records(Journal(first=first, frames=tuple(frames)), records)
        for action in actions:
            if isinstance(action, Send):
                self._send(action.node, action.message)
            elif isinstance(action, Tell):
                self._emit(action.event)
        self._update_donors()
        if any(isinstance(a, Send) and isinstance(a.message, Verdict) for a in actions):
            await sent("verdict.sent")

    async def _append(self, records: list[AnyRecord]) -> tuple[list[bytes], int]:
        first = self._journal.length
        if not records:
            return [], first
        frames = await self._workers.run(lambda: self._journal.append_all(records))
        if self._on_append is not None:
            self._on_append(first, records)
        return frames, first

    async def _broadcast_records(self, message: Journal, records: list[AnyRecord]) -> None:
        commits = any(isinstance(r, Commit) for r in records)
        nodes = list(self._sessions)
        for i, node in enumerate(nodes):
            if commits and i == len(nodes) // 2:
                await sent("commit.half-sent")
            self._send(node, message)

    def _update_donors(self) -> None:
        serving = [n for n in self.state.nodes.values() if n.endpoints and serves(n)]
        members = sorted(serving, key=lambda m: (not m.open, m.trains, m.node))
        donors = tuple(Member(node=m.node, endpoints=m.endpoints) for m in members)
        if donors != self._donors:
            self._donors = donors
            self._broadcast(Donors(members=donors))

    # ---- sending ---------------------------------------------------------------------------

    def _send(self, node: str, message: Control) -> None:
        session = self._sessions.get(node)
        if session is None:
            return
        try:
            session.outbox.put_nowait(message)
        except asyncio.QueueFull:
            session.link.close(f"{OUTBOX_MESSAGES} messages piled up")

    def _broadcast(self, message: Control) -> None:
        for node in self._sessions:
            self._send(node, message)

    async def _write(self, session: Session) -> None:
        try:
            while True:
                await session.link.send(await session.outbox.get())
        except LinkDown:
            session.link.close()

    # ---- connections -----------------------------------------------------------------------

    async def _accept(self, link: Connection) -> None:
        """One inbound connection until it ends. Never raises for a remote's mistake."""
        try:
            async with asyncio.timeout(HELLO_S):
                first = await link.receive()
        except TimeoutError:
            link.close(f"no message in {HELLO_S:g} s")
            return
        if link.remote is None:
            await self._stranger(link, first)
        elif isinstance(first, StatusRequest):
            await link.send(Status(json=self._status()))
            link.close()
        elif isinstance(first, Hello):
            await self._member(link, link.remote, first)
        else:
            raise ProtocolError("a control connection begins with Hello")

    async def _stranger(self, link: Connection, first: object) -> None:
        if not isinstance(first, Redeem):
            raise ProtocolError("a stranger may only redeem an invite")
        answer, event = self._admission(first)
        if event is not None:
            self.submit(event)
            await self._inbox.join()  # the answer promises a journalled membership
        await link.send(answer)
        link.close()

    async def _member(self, link: Connection, node: str, hello: Hello) -> None:
        await self._inbox.join()  # its admission may still be on its way
        refusal = refuse(
            self.state, self._journal, node, hello, node in self._sessions, self._clock.now()
        )
        if refusal:
            self._emit(Warned(sentence=f"refused {hello.name}: {refusal}"))
            await link.send(Refuse(sentence=refusal))
            link.close()
            return
        await self._supersede(node)
        session = Session(node, hello.session, link, asyncio.Queue(OUTBOX_MESSAGES))
        self._greet(session, hello)
        writer = asyncio.create_task(self._write(session))
        self._tasks.add(writer)
        reason = "connection closed"
        try:
            await self._read(session)
        except LinkDown as error:
            reason = str(error) or reason
        except FarflungError as error:
            reason = str(error)
            self._emit(Warned(sentence=f"{hello.name}: {error}"))
        finally:
            writer.cancel()
            self._tasks.discard(writer)
            link.close()
            if self._sessions.get(node) is session:
                del self._sessions[node]
            self.submit(Disconnected(node=node, session=hello.session, reason=reason))

    async def _supersede(self, node: str) -> None:
        old = self._sessions.pop(node, None)
        if old is not None:
            old.link.close("another connection of this node took over")
            await asyncio.sleep(0)

    def _greet(self, session: Session, hello: Hello) -> None:
        """Welcome and the missing journal, then every broadcast: no gap, no await between."""
        put = session.outbox.put_nowait
        put(
            Welcome(
                protocol=PROTOCOL_VERSION,
                term=self.state.term,
                journal_length=self._journal.length,
            )
        )
        first = hello.journal_length
        while first < self._journal.length:
            frames = self._journal.frames(first, CATCH_UP_BYTES)
            put(Journal(first=first, frames=tuple(frames)))
            first += len(frames)
        put(Donors(members=self._donors))
        self._sessions[session.node] = session
        self.submit(
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
                self._send(session.node, Status(json=self._status()))
            elif isinstance(received, Vote) and not self._valid_vote(session.node, received):
                raise ProtocolError("a vote's signature is wrong")
            else:
                self.submit(Received(node=session.node, message=received))

    def _valid_vote(self, node: str, vote: Vote) -> bool:
        body = vote_body(
            self.state.run,
            vote.term,
            vote.round,
            vote.attempt,
            vote.bytes_root,
            vote.fragment_hash,
        )
        return self._check_vote(self.state.nodes[node].public_key, body, vote.signature)

    def _name(self, node: str) -> str:
        known = self.state.nodes.get(node)
        return known.name if known else node[:8]
