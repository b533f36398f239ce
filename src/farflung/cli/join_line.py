"""What `farflung join` shows: one calm line of a state, and the news above it.

    round 12 · step 30/50 · loss 2.31 · bpb 1.45 · 8.1k tok/s · MFU 41 % · 4 peers · eta 3 m

`JoinState` and `render` are pure; `JoinLine` holds them, the clock and the terminal.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from farflung.cli.live_line import LiveLine
from farflung.cli.news import News
from farflung.cli.screens.line import cells, plain, strung
from farflung.cli.screens.numbers import fixed, loss_text, percent, short, size, span
from farflung.cli.screens.text import inert
from farflung.cli.waiting import QUIET, Reminder, Wait, Waiting, brief, of_node, sentence
from farflung.events import (
    Applied,
    DiskAwaited,
    Event,
    FetchDelayed,
    InnerStateLoaded,
    ModelMeasured,
    NoCoordinator,
    Reconnected,
    Resynced,
    RunKnown,
    SnapshotFetched,
    StateProgress,
    Trained,
    TrainerRestarted,
)
from farflung.ids import Role
from farflung.peer.glance import NO_LEASE, Glance, LeaseGlance
from farflung.words import counted

PLAIN_EVERY_S = 10.0
"""Between two plain lines of rounds or of a download."""
BRIEF_S = 2.0
"""What a peer that trains waits for between two rounds is not shown sooner."""
PACE_ROUNDS = 16
"""The time left is told from the newest rounds."""
DELAYED_S = 90.0
"""A reason that is older explains nothing."""


@dataclass(frozen=True, kw_only=True)
class JoinState:
    """Of one moment; NaN and 0 stand for what is not known."""

    name: str = ""
    lease: LeaseGlance = NO_LEASE
    next_round: int = 0
    rounds_wanted: int = 0
    loss: float = math.nan
    """Nats per token of the newest lease."""
    bpb: float = math.nan
    tokens_per_s: float = 0.0
    mfu: float = 0.0
    peers: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    eta_s: float = math.nan
    waiting: Waiting | None = None


def parts(state: JoinState, now_s: float) -> list[tuple[int, str]]:
    """(how soon it goes when the room is short, text) of the live line, in order."""
    round_ = state.lease.round if state.lease.steps else state.next_round
    lease, waiting = state.lease, state.waiting
    stands = waiting is not None and _stands(waiting, state, now_s)
    return [
        (0, f"round {round_:,}" if round_ or lease.steps else ""),
        (1, f"step {lease.step}/{lease.steps}" if lease.steps else ""),
        (1, brief(waiting, now_s) if stands and waiting is not None else ""),
        (2, "" if math.isnan(state.loss) else f"loss {loss_text(state.loss)}"),
        (5, "" if math.isnan(state.bpb) else f"bpb {fixed(state.bpb)}"),
        (3, f"{short(state.tokens_per_s)} tok/s" if state.tokens_per_s else ""),
        (6, f"MFU {percent(state.mfu)}" if state.mfu else ""),
        (7, counted(state.peers, "peer") if state.peers else ""),
        (8, _moved(state)),
        (4, "" if math.isnan(state.eta_s) else f"eta {span(state.eta_s)}"),
        (1, "coordinator gone" if waiting and waiting.wait is Wait.COORDINATOR else ""),
    ]


def _stands(waiting: Waiting, state: JoinState, now_s: float) -> bool:
    """Whether a state is for the live line: not those of every round, unless they last."""
    if waiting.wait in (Wait.TRAINING, Wait.COORDINATOR):
        return False
    lasts = waiting.since_s is None or now_s - waiting.since_s >= BRIEF_S
    return lasts or math.isnan(state.loss)


def render(state: JoinState, width: int, now_s: float) -> str:
    """The live line in at most `width` cells: what matters least goes first."""
    shown = [(rank, text) for rank, text in parts(state, now_s) if text]
    while len(shown) > 1 and cells(strung(t for _, t in shown)) > width:
        shown.remove(max(shown, key=lambda part: part[0]))
    return plain(strung(text for _, text in shown))


def _moved(state: JoinState) -> str:
    if not (state.sent_bytes or state.received_bytes):
        return ""
    return f"up {size(state.sent_bytes)} down {size(state.received_bytes)}"


def bits_per_byte(nats_per_token: float, bytes_per_token: float) -> float:
    """Of the text that was trained on; NaN when one of the two is not known."""
    return nats_per_token / bytes_per_token / math.log(2) if bytes_per_token > 0 else math.nan


def download(event: StateProgress) -> str:
    """`120 of 512 MB, 14.2 MB/s from 3 peers, eta 28 s`."""
    total = size(event.total)
    unit = total.partition(" ")[2]
    here = size(event.here).removesuffix(f" {unit}")
    eta = f", eta {span(event.eta_s)}" if event.eta_s >= 0 else ""
    return (
        f"{here} of {total}, {size(event.bytes_per_s)}/s from {counted(event.sources, 'peer')}{eta}"
    )


class Pace:
    """How long a round takes, from the newest ones that were applied here."""

    def __init__(self) -> None:
        self._marks: list[tuple[int, float]] = []

    def applied(self, round_: int, now_s: float) -> None:
        self._marks = [*self._marks, (round_, now_s)][-PACE_ROUNDS:]

    def eta_s(self, rounds_left: int) -> float:
        """NaN until two rounds were seen, and when it is not known how many are left."""
        if len(self._marks) < 2 or rounds_left <= 0:
            return math.nan
        (first, from_s), (last, to_s) = self._marks[0], self._marks[-1]
        return (to_s - from_s) / max(1, last - first) * rounds_left


class JoinLine:
    """Hears a node's events, looks at it twice a second, and says what a person should know."""

    def __init__(
        self,
        name: str = "",
        *,
        hidden: bool = False,
        now: Callable[[], float] = time.monotonic,
        line: LiveLine | None = None,
    ) -> None:
        """`hidden`: nobody asked for it, but this peer dials out only; it is told once."""
        self._hidden = hidden
        self._now = now
        self._line = line or LiveLine()
        self._state = JoinState(name=name)
        self._role = Role.TRAINER
        self._met = False
        self.host = ""
        """Where the run's host is."""
        self.glance: Callable[[], Glance] | None = None
        """How to look at the node; None: it is not built yet."""
        self.bytes_per_token: Callable[[], float] = lambda: math.nan
        self._pace = Pace()
        self._details: dict[Wait, tuple[str, float]] = {}
        """What is known of a state besides, and when it was."""
        self._reminder = Reminder()
        self._news = News(now)
        self._printed_s = -math.inf
        self._contributed = False

    # ---- looking -----------------------------------------------------------------------------

    def tick(self) -> None:
        """Look at the node: the live line, and a whole sentence about a state that lasts."""
        now_s = self._now()
        self._look(now_s)
        waiting = self._state.waiting
        lasting = None if waiting is None or waiting.wait in QUIET else waiting
        if self._reminder.due(lasting, now_s) and lasting is not None:
            self._keep(sentence(lasting, now_s))
        self._line.show(render(self._state, self._line.width, now_s))

    def _look(self, now_s: float) -> None:
        glance = None if self.glance is None else self.glance()
        wait = self._disk_first(of_node(glance), now_s)
        before = self._state.waiting
        since_s = before.since_s if before is not None and before.wait is wait else now_s
        waiting = Waiting(wait=wait, since_s=since_s, detail=self._detail(wait, now_s))
        if glance is None:
            self._state = replace(self._state, waiting=waiting)
            return
        self._role = glance.role
        left = glance.rounds_wanted - glance.next_round
        self._state = replace(
            self._state,
            waiting=waiting,
            lease=glance.lease,
            next_round=glance.next_round,
            rounds_wanted=glance.rounds_wanted,
            tokens_per_s=glance.tokens_per_s or self._state.tokens_per_s,
            peers=glance.peers,
            sent_bytes=glance.sent_bytes,
            received_bytes=glance.received_bytes,
            eta_s=self._pace.eta_s(left),
        )

    def _disk_first(self, wait: Wait, now_s: float) -> Wait:
        """A disk that refuses explains whatever else stands still."""
        _, at_s = self._details.get(Wait.DISK, ("", -math.inf))
        return Wait.DISK if now_s - at_s < DELAYED_S and wait is not Wait.TRAINING else wait

    def _detail(self, wait: Wait, now_s: float) -> str:
        text, at_s = self._details.get(wait, ("", -math.inf))
        return text if now_s - at_s < DELAYED_S else ""

    def _explain(self, wait: Wait, text: str) -> None:
        self._details[wait] = inert(text), self._now()

    # ---- hearing -----------------------------------------------------------------------------

    def fetched(self, here: int, total: int) -> None:
        self._explain(Wait.DATA, f"{size(here)} of {size(total)}")

    def see(self, event: Event) -> None:
        match event:
            case Trained():
                self._trained(event)
            case Applied():
                self._applied(event)
            case StateProgress():
                self._explain(Wait.STATE, download(event))
            case RunKnown():
                self._met = True
                self._begin(event)
            case NoCoordinator():
                self._alone(event)
            case DiskAwaited():
                self._explain(Wait.DISK, event.reason)
                self._trouble(event)
            case FetchDelayed():
                self._explain(Wait.STATE, event.reason)
                self._trouble(event)
            case TrainerRestarted() | Resynced():
                self._keep(f"! {event.reason}")
            case _:
                if told := _good_news(event):
                    self._keep(told)
                else:
                    self._trouble(event)

    def _trouble(self, event: Event) -> None:
        if trouble := self._news.of(event):
            self._keep(f"! {trouble}")

    def _trained(self, event: Trained) -> None:
        if not event.steps:  # a plan without steps says nothing of the model
            return
        rate = event.tokens / event.compute_s if event.compute_s else 0.0
        self._state = replace(
            self._state,
            loss=event.loss,
            bpb=bits_per_byte(event.loss, self.bytes_per_token()),
            tokens_per_s=rate,
            mfu=event.mfu,
        )

    def _applied(self, event: Applied) -> None:
        """On a terminal the live line has it; elsewhere a line now and then, and at once when this
        peer is in for the first time."""
        now_s = self._now()
        self._pace.applied(event.round, now_s)
        first = event.contributed and not self._contributed
        self._contributed |= event.contributed
        if self._line.live or (now_s - self._printed_s < PLAIN_EVERY_S and not first):
            return
        self._look(now_s)
        self._printed_s = now_s
        shown = replace(self._state, waiting=None, lease=NO_LEASE, next_round=event.round)
        what = "contributed" if event.contributed else "followed"
        rest = [text for _, text in parts(shown, now_s)[1:]]
        self._keep(plain(strung([f"round {event.round:,}", what, *rest])))

    def _alone(self, event: NoCoordinator) -> None:
        wait = Wait.COORDINATOR if self._met else Wait.HOST
        self._explain(wait, event.reason)
        now_s = self._now()
        if event.tries != 1:
            return  # the reminder goes on with it
        waiting = Waiting(wait=wait, since_s=now_s - event.for_s, detail=event.reason)
        told = sentence(replace(waiting, since_s=None), now_s)
        self._keep(f"! {told}" if self._met else told)
        self._state = replace(self._state, waiting=waiting)
        self._reminder.said(waiting, now_s)

    def _begin(self, event: RunKnown) -> None:
        """The first line of a healthy start."""
        size_ = f"{event.model}, {event.parameters:,} parameters"
        self._keep(
            f"{self._state.name} joins run {event.name} of {self.host}: {size_}, "
            f"{counted(event.rounds, 'round')}"
        )
        if event.finished:
            self._keep("the run is finished; fetching its last state")
        if self._hidden:
            self._keep(
                "  it dials out only: the run is on other machines, and no --bind HOST:PORT says "
                "where they could dial this one"
            )

    # ---- printing ----------------------------------------------------------------------------

    def _keep(self, text: str) -> None:
        lead = len(text) - len(text.lstrip(" "))
        self._line.keep(" " * lead + inert(text))

    def say(self, text: str) -> None:
        """A line of this program's own."""
        self._keep(text)

    def end(self) -> None:
        self._line.end()


def _good_news(event: Event) -> str:
    """What is no trouble, and worth a line."""
    match event:
        case ModelMeasured():
            return (
                f"held-out text: {event.bits_per_byte:.3f} bits per byte after "
                f"{event.next_round} rounds (measured here, {event.took_s:.0f} s)"
            )
        case SnapshotFetched():
            return (
                f"state of round {event.next_round} fetched in {event.took_s:.1f} s "
                f"from {counted(event.sources, 'peer')}"
            )
        case InnerStateLoaded():
            whose = "my own" if event.source == "own" else f"{event.source[:8]}'s"
            return f"optimizer goes on with {whose} state of round {event.round}"
        case Reconnected():
            return f"coordinator back after {event.after_s:.1f} s"
        case _:
            return ""
