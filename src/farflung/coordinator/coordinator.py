"""The coordinator's shell: sockets, journal and clock around the pure `decide`.

One inbox, one consumer: events are decided in order of arrival. What a decision appends is
journalled and synced before anything of it is sent. A full disk holds the decision back (nothing
is committed, connections are served) until there is room again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from farflung.clock import Clock, Workers
from farflung.coordinator.awake_clock import AwakeClock
from farflung.coordinator.disk_pause import DiskPause
from farflung.coordinator.sessions import Admission, Session, Sessions, VoteCheck
from farflung.errors import Forked, ProtocolError, StorageError
from farflung.events import (
    Emit,
    ForkDetected,
    LastRoundAwaited,
    LinkClosed,
    RunStarted,
    SessionsClosed,
)
from farflung.failpoints import hit, sent
from farflung.ids import Endpoint
from farflung.network.link import Transport
from farflung.network.messages import (
    Beat,
    Control,
    Donors,
    JournalFrames,
    Member,
    Verdict,
)
from farflung.swarm.decide import decide
from farflung.swarm.ending import PATIENCE_S, lacking
from farflung.swarm.journal import Journal
from farflung.swarm.records import Abandon, AnyRecord, Close, Commit, Lease, Term
from farflung.swarm.replay import orphans, replay, replay_more
from farflung.swarm.state import (
    Action,
    Append,
    Connected,
    Input,
    Link,
    Node,
    Received,
    Send,
    State,
    Tell,
    Tick,
)
from farflung.tasks import Tasks, failure

TICK_S = 0.1
LINGER_S = PATIENCE_S + 10.0
"""How long a finished run waits for its peers to take the last round and say goodbye."""

LINGER_TOLD_S = 5.0
"""After so long it says for whom it waits."""


class Fault(Exception):
    """This program could not decide about what a node said."""

    def __init__(self, node: str, error: Exception) -> None:
        super().__init__(str(error))
        self.node, self.error = node, error


class Coordinator:
    """The control plane of one run. Owned by one event loop."""

    def __init__(
        self,
        *,
        transport: Transport,
        clock: Clock,
        workers: Workers,
        emit: Emit,
        journal: Journal,
        fragment_elements: tuple[int, ...],
        admission: Admission,
        check_vote: VoteCheck,
        status: Callable[[], str],
        on_append: Callable[[int, list[AnyRecord]], None] | None = None,
        tick_s: float = TICK_S,
        alone_since: int = 0,
        incarnation: str = "",
    ) -> None:
        """`alone_since`: lower terms were given up by the operator, when the run was restored.
        `incarnation`: random, so that no other process writes the same TERM."""
        self._transport = transport
        self._clock = AwakeClock(clock)
        self._workers = workers
        self._emit = emit
        self.journal = journal
        self._acceptor = Sessions(
            self,
            emit=emit,
            admission=admission,
            check_vote=check_vote,
            status=status,
            alone_since=alone_since,
        )
        self._on_append = on_append
        self._tick_s = tick_s
        self._disk = DiskPause(self._clock, emit)
        self.blocked = self._disk.blocked
        self._incarnation = incarnation
        self._tick_waits = False
        self.sessions: dict[str, Session] = {}
        self._inbox: asyncio.Queue[Input] = asyncio.Queue()
        self._tasks = Tasks(emit, self._fail)
        self._failure: Exception | None = None
        self._done = asyncio.Event()
        self._finished_s: float | None = None
        self._linger_told = False
        self.donors: tuple[Member, ...] = ()
        self.state: State = replay(journal.records(), fragment_elements, self._clock.now())
        self._least_linger_s = self.state.spec.swarm.restart_grace_s if self.state.finished else 0.0
        """A finished run that is started again serves for so long whoever missed its end."""

    # ---- life ------------------------------------------------------------------------------

    async def start(self, bind: Endpoint) -> Endpoint:
        """Begin a new term and listen. Raises StorageError, LinkDown (port in use)."""
        term = self.state.term + 1
        records = [
            Term(term=term, incarnation=self._incarnation),
            *orphans(self.state),
        ]
        await self._append(records)
        hit("term.appended")
        self.state = replay_more(self.state, records, self._clock.now())
        endpoint = await self._transport.listen(bind, self._acceptor.accept, self._tasks)
        self._emit(
            RunStarted(
                run=self.state.run,
                name=self.state.spec.name,
                parameters=sum(self.state.fragment_elements),
                term=term,
                rounds=self.state.spec.outer.rounds,
            )
        )
        if self._least_linger_s:
            self._emit(LastRoundAwaited(names=(), up_to_s=self._least_linger_s))
        return endpoint

    async def run(self) -> None:
        """Decide until the run is finished and its trainers have gone. Cancel to stop.

        Raises Forked: another coordinator has continued this run; and whatever ended deciding,
        ticking or listening, without which it could only pretend to coordinate.
        """
        loops = (
            self._tasks.start(self._decide_loop(), "decide"),
            self._tasks.start(self._tick_loop(), "tick"),
        )
        try:
            await self._done.wait()
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.wait(loops)
        if self._failure is not None:
            raise self._failure

    def _fail(self, error: Exception) -> None:
        """`run` raises the first error that it ended by."""
        self._failure = self._failure or error
        self._done.set()

    async def close(self) -> None:
        for session in list(self.sessions.values()):
            session.link.close("the coordinator stops")
        await self._acceptor.close()
        await self._transport.close()
        await self._tasks.close()

    @property
    def waiting(self) -> int:
        """Inputs that no decision has taken yet."""
        return self._inbox.qsize()

    def submit(self, event: Input) -> None:
        """Put an event into the inbox (the host admits its own keeper this way)."""
        beat = isinstance(event, Received) and isinstance(event.message, Beat)
        if beat and self.blocked.is_set():
            return  # time stands still: the first beat after it is early enough
        self._inbox.put_nowait(event)

    # ---- deciding --------------------------------------------------------------------------

    async def _tick_loop(self) -> None:
        while True:
            await asyncio.sleep(self._tick_s)
            if not self._tick_waits:  # a disk that refuses for hours piles up no ticks
                self._tick_waits = True
                self._inbox.put_nowait(Tick())
            if self.state.finished:
                self._linger()

    def _linger(self) -> None:
        now = self._clock.now()
        if self._finished_s is None:
            self._finished_s = now
        waited_s = now - self._finished_s
        late = self._late()
        if waited_s > LINGER_S or (
            not late and waited_s >= self._least_linger_s and self.state.ended
        ):
            self._done.set()
        elif late and waited_s > LINGER_TOLD_S and not self._linger_told:
            self._linger_told = True
            lack = [n.node for n in lacking(self.state)]  # first the keeper, whom all wait for
            names = tuple(sorted(self._name(n) for n in lack or late))
            self._emit(LastRoundAwaited(names=names, up_to_s=LINGER_S))

    def _late(self) -> list[str]:
        """Trainers that may lack the last round. Who is connected leaves when it holds it; an
        open stay without a link is waited for until it is closed, also after a restart."""
        missing = {n.node for n in lacking(self.state)}
        return [
            n.node
            for n in self.state.nodes.values()
            if n.trains and (n.node in self.sessions or n.node in missing)
        ]

    async def _decide_loop(self) -> None:
        while True:
            event = await self._inbox.get()
            if isinstance(event, Tick):
                self._tick_waits = False
            try:
                await self._decide(event)
            except Fault as fault:
                self._emit(failure(f"decide what {self._name(fault.node)} said", fault.error))
                if fault.node in self.sessions:
                    self.sessions[fault.node].link.close("internal error")
            except ProtocolError as error:
                node = getattr(event, "node", "")
                name = self._name(node)
                self._emit(LinkClosed(plane="control", name=name, reason=str(error)))
                if node in self.sessions:
                    self.sessions[node].link.close(str(error))
            except StorageError as error:  # journalled, but not told: they ask when they are back
                self._emit(SessionsClosed(reason=str(error)))
                for session in list(self.sessions.values()):
                    session.link.close(str(error))
            finally:
                self._inbox.task_done()

    async def _decide(self, event: Input) -> None:
        """One decision, taken again until the disk takes what it appends."""
        while True:
            state, actions = self._judge(event)
            records = [a.record for a in actions if isinstance(a, Append)]
            try:
                if records:
                    hit("coordinator.before-append")
                frames, first = await self._append(records)
            except StorageError as error:
                await self._disk.wait(error)
                continue
            break
        if records:
            self._disk.over()
        self.state = state
        if frames:
            _hit_appended(records)
            await self._broadcast_records(JournalFrames(first=first, frames=tuple(frames)), records)
        for action in actions:
            if isinstance(action, Send):
                self._send(action.node, action.message)
            elif isinstance(action, Tell):
                self._emit(action.event)
        self._update_donors()
        if any(isinstance(a, Send) and isinstance(a.message, Verdict) for a in actions):
            await sent("verdict.sent")

    def _judge(self, event: Input) -> tuple[State, tuple[Action, ...]]:
        """Nothing is journalled yet: a fault over what one node said costs that node its link,
        and the state stands as it was. Every other fault ends the process."""
        try:
            state, actions, _ = decide(self.state, event, self._clock.now())
        except ProtocolError:
            raise
        except Exception as error:
            if isinstance(event, Received | Connected):
                raise Fault(event.node, error) from error
            raise
        return state, actions

    async def _append(self, records: list[AnyRecord]) -> tuple[list[bytes], int]:
        first = self.journal.length
        if not records:
            return [], first
        frames = await self._workers.run(lambda: self.journal.append_all(records))
        if self._on_append is not None:
            self._on_append(first, records)
        return frames, first

    async def _broadcast_records(self, message: JournalFrames, records: list[AnyRecord]) -> None:
        commits = any(isinstance(r, Commit) for r in records)
        nodes = list(self.sessions)
        for i, node in enumerate(nodes):
            if commits and i == len(nodes) // 2:
                await sent("commit.half-sent")
            self._send(node, message)

    def _update_donors(self) -> None:
        serving = [n for n in self.state.nodes.values() if n.endpoints and _serves(n)]
        members = sorted(serving, key=lambda m: (not m.open, m.trains, m.node))
        donors = tuple(Member(node=m.node, endpoints=m.endpoints) for m in members)
        if donors != self.donors:
            self.donors = donors
            self._broadcast(Donors(members=donors))

    # ---- sending ---------------------------------------------------------------------------

    def _send(self, node: str, message: Control) -> None:
        session = self.sessions.get(node)
        if session is not None:
            session.put(message)

    def _broadcast(self, message: Control) -> None:
        for node in self.sessions:
            self._send(node, message)

    # ---- for sessions ------------------------------------------------------------------

    def now(self) -> float:
        return self._clock.now()

    async def drained(self) -> None:
        """Wait until all that was submitted is decided."""
        await self._inbox.join()

    def halt(self, fork: Forked) -> None:
        """Decide nothing more; `run` raises the fork."""
        if not isinstance(self._failure, Forked):
            mine, theirs = fork.mine.hex(), fork.theirs.hex()
            self._emit(ForkDetected(index=fork.index, mine=mine, theirs=theirs, sentence=str(fork)))
            self._failure = fork
            self._done.set()

    def _name(self, node: str) -> str:
        known = self.state.nodes.get(node)
        return known.name if known else node[:8]


def _serves(node: Node) -> bool:
    """Whoever is connected may hold bytes that others miss, also while it catches up itself:
    after a power cut everywhere nobody is active until the holders' bytes have gone round."""
    return node.link is not Link.GONE


def _hit_appended(records: list[AnyRecord]) -> None:
    """The failpoints of a decision that is durable and was not sent yet."""
    hit("coordinator.appended")
    for record in records:
        match record:
            case Lease():
                hit("lease.appended")
            case Abandon():
                hit("abandon.appended")
            case Close():
                hit("generation.closed")
            case _:
                pass
