"""What `farflung host` shows: a live line of the run, and above it what an operator should know.

round 12 of 500 · 4 peers · loss 2.31 · 8.1k tok/s · eta 3 m
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from farflung.cli.live_line import LiveLine
from farflung.cli.news import News
from farflung.cli.screens.line import plain, strung, strung_in
from farflung.cli.screens.numbers import loss_text, short, span
from farflung.cli.screens.text import inert
from farflung.cli.waiting import Reminder, Wait, Waiting, brief, sentence
from farflung.events import (
    Event,
    ForkDetected,
    GenerationClosed,
    GenerationOpened,
    JournalBlocked,
    JournalWritable,
    LastRoundAwaited,
    ModelEvaluated,
    Paused,
    Resumed,
    RoundAbandoned,
    RoundCommitted,
    RoundOpened,
    RunAmended,
    RunFinished,
    RunStarted,
    SnapshotUploaded,
    Trouble,
    WindowOpened,
)
from farflung.words import counted

PLAIN_EVERY_S, LIVE_EVERY_S = 10.0, 60.0
"""Between two lines of rounds that stay: where there is no live line, and where there is one."""
PACE_ROUNDS = 16


@dataclass(frozen=True, kw_only=True)
class HostState:
    """Of one moment."""

    round: int = -1
    """The newest open or resolved one."""
    wanted: int = 0
    peers: int = 0
    """Of the newest round."""
    loss: float = math.nan
    waiting: Waiting | None = None


def host_line(state: HostState, tokens_per_s: float, eta_s: float, width: int, now_s: float) -> str:
    """The live line in at most `width` cells: the last parts go first."""
    waiting = brief(state.waiting, now_s) if state.waiting else ""
    of = f" of {state.wanted:,}" if state.wanted else ""
    parts = [
        f"round {state.round:,}{of}" if state.round >= 0 else "",
        waiting,
        counted(state.peers, "peer") if state.peers and not waiting else "",
        "" if math.isnan(state.loss) else f"loss {loss_text(state.loss)}",
        f"{short(tokens_per_s)} tok/s" if tokens_per_s > 0 and not waiting else "",
        f"eta {span(eta_s)}" if math.isfinite(eta_s) and not waiting else "",
    ]
    return plain(strung_in([p for p in parts if p], width))


class Committed:
    """How fast rounds and tokens come, from the newest commits."""

    def __init__(self) -> None:
        self._marks: deque[tuple[int, int, float]] = deque(maxlen=PACE_ROUNDS)

    def note(self, round_: int, tokens: int, now_s: float) -> None:
        self._marks.append((round_, tokens, now_s))

    def forget(self) -> None:
        """A pause is no pace."""
        self._marks.clear()

    @property
    def tokens_per_s(self) -> float:
        """0 until two rounds were seen."""
        if len(self._marks) < 2:
            return 0.0
        (_, before, from_s), (_, after, to_s) = self._marks[0], self._marks[-1]
        return (after - before) / (to_s - from_s) if to_s > from_s else 0.0

    def eta_s(self, wanted: int) -> float:
        """NaN until two rounds were seen, and for a run that does not end by rounds."""
        if len(self._marks) < 2 or not wanted:
            return math.nan
        (first, _, from_s), (last, _, to_s) = self._marks[0], self._marks[-1]
        return (to_s - from_s) / max(1, last - first) * max(0, wanted - last - 1)


class HostLines:
    """Hears the coordinator's events and keeps the terminal."""

    def __init__(
        self, now: Callable[[], float] = time.monotonic, line: LiveLine | None = None
    ) -> None:
        self._now = now
        self._line = line or LiveLine()
        self._news = News(now)
        self._reminder = Reminder()
        self._state = HostState()
        self._pace = Committed()
        self._printed_s = -math.inf
        self._every_s = LIVE_EVERY_S if self._line.live else PLAIN_EVERY_S

    def say(self, text: str) -> None:
        """Words of this program's own that stay as they are: some are to be copied."""
        self._line.keep(text, whole=True)

    def note(self, text: str) -> None:
        """A sentence of this program's own."""
        self._keep(text)

    def tick(self) -> None:
        """The live line, and a whole sentence about a state that lasts."""
        now_s, state = self._now(), self._state
        if self._reminder.due(state.waiting, now_s) and state.waiting is not None:
            self._keep("  " + sentence(state.waiting, now_s))
        pace = self._pace
        eta_s = pace.eta_s(state.wanted)
        self._line.show(host_line(state, pace.tokens_per_s, eta_s, self._line.width, now_s))

    def end(self) -> None:
        self._line.end()

    # ---- hearing -------------------------------------------------------------------------------

    def see(self, event: Event) -> None:
        if isinstance(event, ForkDetected):
            return  # the command ends with its sentence
        self._follow(event)
        if isinstance(event, RoundCommitted):
            self._committed(event)
        elif told := told_of(event):
            self._keep(told, err=isinstance(event, JournalBlocked))
        # A change that the operator asked for has a sentence, and is no trouble.
        elif isinstance(event, Trouble) and (trouble := self._news.of(event)):
            self._keep(f"! {trouble}", err=True)

    def _follow(self, event: Event) -> None:
        state = self._state
        match event:
            case RunStarted():
                state = replace(state, wanted=event.rounds)
            case RunAmended():
                state = replace(state, wanted=event.rounds, waiting=None)
            case RoundOpened():
                state = replace(state, round=event.round, peers=event.peers, waiting=None)
            case Resumed() | JournalWritable():
                state = replace(state, waiting=None)
            case Paused():
                first = event.reason.startswith("waiting")
                self._wait(Wait.FIRST_PEERS if first else Wait.MIN_PEERS, event.reason)
                return
            case JournalBlocked():
                self._wait(Wait.JOURNAL_DISK, event.reason)
                return
            case LastRoundAwaited():
                self._wait(Wait.LAST_ROUND, "")
                return
            case _:
                return
        self._state = state

    def _wait(self, wait: Wait, reason: str) -> None:
        """The same state with another reason goes on; whoever said it has told it."""
        before, now_s = self._state.waiting, self._now()
        since_s = before.since_s if before is not None and before.wait is wait else now_s
        detail = inert(reason).partition(": ")[2] or inert(reason)
        waiting = Waiting(wait=wait, since_s=since_s, detail=detail)
        self._state = replace(self._state, waiting=waiting)
        self._pace.forget()
        self._reminder.due(waiting, now_s)

    def _committed(self, event: RoundCommitted) -> None:
        now_s = self._now()
        self._pace.note(event.round, event.total_tokens, now_s)
        loss = event.loss if math.isfinite(event.loss) else self._state.loss
        self._state = replace(
            self._state,
            round=max(self._state.round, event.round),
            peers=event.contributors,
            loss=loss,
        )
        if now_s - self._printed_s < self._every_s and event.replicated:
            return
        self._printed_s = now_s
        self._keep(round_line(event))

    def _keep(self, text: str, *, err: bool = False) -> None:
        """Names and reasons are the peers' words: nothing of them may steer the terminal."""
        lead = len(text) - len(text.lstrip(" "))
        self._line.keep(" " * lead + inert(text), err=err)


def round_line(event: RoundCommitted) -> str:
    """`round 12 · loss 2.31 · 4 peers · 1,234,567 tokens · 5.1 s`."""
    return plain(
        strung(
            [
                f"round {event.round:,}",
                f"loss {loss_text(event.loss)}" if math.isfinite(event.loss) else "",
                counted(event.contributors, "peer"),
                f"{short(event.total_tokens)} tokens",
                f"{event.took_s:.1f} s",
                "" if event.replicated else "not replicated",
            ]
        )
    )


def told_of(event: Event) -> str:
    """What stays on the terminal of an event; empty for those that the live line shows."""
    match event:
        case ModelEvaluated():
            return (
                f"  held-out text: {event.bits_per_byte:.3f} bits per byte after "
                f"{counted(event.next_round, 'round')} (by {event.name}, {event.took_s:.0f} s)"
            )
        case RoundAbandoned():
            return f"round {event.round:,} abandoned: {event.reason}"
        case GenerationOpened():
            return f"+ {event.name} takes part from round {event.next_round}"
        case GenerationClosed():
            back = f"; {counted(event.returned, 'sample')} returned" if event.returned else ""
            return f"- {event.name}: {event.reason}{back}"
        case Paused():
            return f"  {event.reason}"
        case JournalBlocked():
            since = f" for {span(event.for_s)}" if event.for_s >= 60 else ""
            return f"! journal: {event.reason}; paused{since}: nothing is committed"
        case JournalWritable():
            return f"  journal: written again after {event.after_s:.0f} s; the run goes on"
        case SnapshotUploaded():
            return (
                f"  archive: round {event.next_round}, {event.bytes / 1e6:,.1f} MB in "
                f"{event.took_s:.0f} s ({event.reused / 1e6:,.1f} MB were there)"
            )
        case RunAmended():
            return f"  {event.sentence}"
        case WindowOpened():
            return shown_window(event)
        case RunFinished():
            return f"complete: {counted(event.rounds, 'round')}, {counted(event.tokens, 'token')}"
        case _:
            return ""


def shown_window(event: WindowOpened) -> str:
    """Where the dashboard is."""
    notes = ["everybody may see it"] if event.public else []
    notes += [f"port {event.taken} is taken"] if event.taken else []
    return f"dashboard: {event.address}" + (f"  ({'; '.join(notes)})" if notes else "")
