"""The coordinator's shell: sockets, journal and clock around the pure `decide`.

One inbox, one consumer: events are decided in order of arrival. What a decision appends is
journalled and synced before anything of it is sent. A full disk holds the decision back (nothing
is committed, connections are served) until there is room again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from farflung.coordinator.awake_clock import AwakeClock
from farflung.coordinator.decision_queue import DecisionQueue
from farflung.coordinator.disk_pause import DiskPause
from farflung.coordinator.lingering import LINGER_S, Lingering
from farflung.coordinator.measures import MeasureBook
from farflung.coordinator.roster import Roster
from farflung.coordinator.sessions import Door, Sessions
from farflung.errors import FarflungError, Forked, ProtocolError, StorageError
from farflung.events import (
    ForkDetected,
    LastRoundAwaited,
    LinkClosed,
    RunStarted,
    SessionsClosed,
)
from farflung.failpoints import hit, sent
from farflung.ids import Endpoint
from farflung.network.messages import JournalFrames, Verdict
from farflung.swarm.amendments import amended_event, granted
from farflung.swarm.decide import decide
from farflung.swarm.journal import Journal
from farflung.swarm.records import Abandon, Amend, AnyRecord, Close, Lease, Mix, Term
from farflung.swarm.replay import orphans, replay, replay_more
from farflung.swarm.state import (
    Action,
    Amending,
    Append,
    Connected,
    Input,
    Received,
    Send,
    State,
    Tell,
)
from farflung.tasks import Tasks, failure, first_ended
from farflung.world import World

TICK_S = 0.1
CATCH_UP_BYTES = 512 << 10


class DecisionFault(FarflungError):
    """This program could not decide about what a node said."""

    def __init__(self, node: str, error: Exception) -> None:
        super().__init__(str(error))
        self.node, self.error = node, error


@dataclass(frozen=True, kw_only=True)
class CoordinatorOptions:
    """What differs between a host, a restored host and a simulation."""

    incarnation: str = ""
    """Random, so that no other process writes the same TERM."""
    tick_s: float = TICK_S
    """Between two looks at the timers."""
    on_append: Callable[[int, list[AnyRecord]], None] | None = None
    """Told of every record that is on the disk, with the first one's index."""
    descent: str = ""
    """What the run began with, for people."""
    wall_now: Callable[[], float] | None = None
    """Seconds since 1970, for people; None: the world's clock, which is virtual in simulation."""
    amending: Amending | None = None
    """What the operator wants to be changed with this start."""


class Coordinator:
    """The control plane of one run. Owned by one event loop."""

    def __init__(
        self,
        world: World,
        journal: Journal,
        fragment_elements: tuple[int, ...],
        door: Door,
        options: CoordinatorOptions,
    ) -> None:
        self._world = world
        self._clock = AwakeClock(world.clock)
        self._options = options
        self.journal = journal
        self.state: State = replay(journal.records(), fragment_elements, self._clock.now())
        self.roster = Roster()
        now = world.clock.now
        self.measures = MeasureBook(world.emit, now, options.wall_now or now)
        self._acceptor = Sessions(self, door, world.emit)
        self._disk = DiskPause(self._clock, world.emit)
        self._inbox = DecisionQueue(self._disk.blocked)
        self._lingering = Lingering(self.state)
        self._tasks = Tasks(world.emit)
        self._end = _End()

    # ---- life ------------------------------------------------------------------------------

    async def start(self, bind: Endpoint) -> Endpoint:
        """Begin a new term and listen. Raises StorageError, LinkDown (port in use), UserError (what
        it was told to amend makes no sense; nothing is written then)."""
        term = self.state.term + 1
        records: list[AnyRecord] = [
            Term(term=term, incarnation=self._options.incarnation),
            *orphans(self.state),
        ]
        amending = self._amending(records)
        records += amending
        await self._append(records)
        hit("term.appended")
        self.state = replay_more(self.state, records, self._clock.now())
        endpoint = await self._world.transport.listen(bind, self._acceptor.accept, self._tasks)
        self._world.emit(
            RunStarted(
                run=self.state.run,
                name=self.state.spec.name,
                parameters=sum(self.state.fragment_elements),
                term=term,
                rounds=self.state.spec.outer.rounds,
                descent=self._options.descent,
            )
        )
        if amending:
            self._world.emit(amended_event(self.state, amending))
        if not self.state.finished:
            self._lingering.reopened()
        if self._lingering.least_s:
            self._world.emit(LastRoundAwaited(names=(), up_to_s=self._lingering.least_s))
        return endpoint

    def _amending(self, first: list[AnyRecord]) -> tuple[Mix | Amend, ...]:
        """The records that grant what this start was told, after the `first` ones."""
        if self._options.amending is None:
            return ()
        state = replay_more(self.state, first, self._clock.now())
        return granted(state, self._options.amending)

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
            while not self._end.is_set or not self.state.finished:
                self._end.clear()  # at its last moment it was extended
                await first_ended(self._end.wait(), self._tasks.failed())
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.wait(loops)

    async def close(self) -> None:
        self.roster.close_all("the coordinator stops")
        await self._acceptor.close()
        await self._world.transport.close()
        await self._tasks.close()

    def submit(self, event: Input) -> None:
        """Put an event into the inbox (the host admits its own keeper this way)."""
        self._inbox.put(event)

    # ---- deciding --------------------------------------------------------------------------

    async def _tick_loop(self) -> None:
        while True:
            await asyncio.sleep(self._options.tick_s)
            self._inbox.tick()
            if self.state.finished:
                self._linger()
            else:
                self._lingering.reopened()

    def _linger(self) -> None:
        seen = self.state, self.roster.sessions, self._clock.now()
        if self._lingering.over(*seen):
            self._end.set()
        elif names := self._lingering.awaited(*seen):
            self._world.emit(LastRoundAwaited(names=names, up_to_s=LINGER_S))

    async def _decide_loop(self) -> None:
        while True:
            event = await self._inbox.get()
            try:
                await self._decide(event)
            except DecisionFault as fault:
                self._world.emit(failure(f"decide what {self._name(fault.node)} said", fault.error))
                self.roster.close(fault.node, "internal error")
            except ProtocolError as error:
                node = getattr(event, "node", "")
                name = self._name(node)
                self._world.emit(LinkClosed(plane="control", name=name, reason=str(error)))
                self.roster.close(node, str(error))
            except StorageError as error:  # journalled, but not told: they ask when they are back
                self._world.emit(SessionsClosed(reason=str(error)))
                self.roster.close_all(str(error))
            finally:
                self._inbox.done()

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
            await self.roster.broadcast_records(
                JournalFrames(first=first, frames=tuple(frames)), records
            )
        for action in actions:
            if isinstance(action, Send):
                self.roster.send(action.node, action.message)
            elif isinstance(action, Tell):
                self._world.emit(action.event)
        self.roster.update_donors(self.state)
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
                raise DecisionFault(event.node, error) from error
            raise
        return state, actions

    async def _append(self, records: list[AnyRecord]) -> tuple[list[bytes], int]:
        first = self.journal.length
        if not records:
            return [], first
        frames = await self._world.workers.run(lambda: self.journal.append_all(records))
        if self._options.on_append is not None:
            self._options.on_append(first, records)
        return frames, first

    # ---- for sessions ------------------------------------------------------------------

    @property
    def blocked(self) -> asyncio.Event:
        """Set while the disk refuses records."""
        return self._disk.blocked

    @property
    def waiting(self) -> int:
        """Inputs that no decision has taken yet."""
        return len(self._inbox)

    def now(self) -> float:
        return self._clock.now()

    async def drained(self) -> None:
        """Wait until all that was submitted is decided."""
        await self._inbox.drained()

    async def past(self, first: int) -> JournalFrames:
        """Journal records from `first` on, one message full, read in the pool: between two writes,
        so never the half of one. Raises StorageError, CorruptState."""
        frames = await self._world.workers.run(lambda: self.journal.frames(first, CATCH_UP_BYTES))
        return JournalFrames(first=first, frames=tuple(frames))

    def halt(self, fork: Forked) -> None:
        """Decide nothing more; `run` raises the fork."""
        if not isinstance(self._end.error, Forked):
            mine, theirs = fork.mine.hex(), fork.theirs.hex()
            self._world.emit(
                ForkDetected(index=fork.index, mine=mine, theirs=theirs, sentence=str(fork))
            )
            self._end.set(fork)

    def _name(self, node: str) -> str:
        known = self.state.nodes.get(node)
        return known.name if known else node[:8]


class _End:
    """That the coordinator has to end, and by what error if any."""

    def __init__(self) -> None:
        self._over = asyncio.Event()
        self.error: Forked | None = None

    @property
    def is_set(self) -> bool:
        return self._over.is_set()

    def clear(self) -> None:
        """Not for an error: that is final."""
        if self.error is None:
            self._over.clear()

    def set(self, error: Forked | None = None) -> None:
        self.error = self.error or error
        self._over.set()

    async def wait(self) -> None:
        """Raises the error."""
        await self._over.wait()
        if self.error is not None:
            raise self.error


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
