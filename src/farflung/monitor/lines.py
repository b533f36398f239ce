"""The event log as readable sentences, and the newest 20,000 of them.

A line takes some 400 bytes: 8 MB at most.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from farflung.events import (
    AgentStarted,
    Applied,
    AttemptFailed,
    AttemptStarted,
    BadBlob,
    ContributionRejected,
    EdgeFailed,
    Event,
    ForkDetected,
    GenerationClosed,
    GenerationOpened,
    JournalBlocked,
    JournalWritable,
    LastRoundAwaited,
    LinkMeasured,
    ModelEvaluated,
    NoCoordinator,
    Paused,
    PeerDescribed,
    PeerJoined,
    PeerMeasured,
    PeerReady,
    PeerSuspect,
    Reconnected,
    Resumed,
    Resynced,
    RoundAbandoned,
    RoundCommitted,
    RoundOpened,
    RunAmended,
    RunFinished,
    RunStarted,
    SnapshotFetched,
    SnapshotUploaded,
    StateReported,
    Trained,
    TrainerRestarted,
    Trouble,
    UploadProgress,
    Voted,
)
from farflung.monitor import inert
from farflung.words import counted

KEPT_LINES = 20_000
SAME_S = 1.0
"""The same sentence again within this time is no news."""
SILENT = (RoundOpened, PeerDescribed, PeerMeasured, LinkMeasured, Applied, UploadProgress)
"""The most frequent kinds that are not told."""
KINDS = ("round", "peer", "trouble", "state", "evaluation", "note")


class Sentence(NamedTuple):
    """A line without its place."""

    kind: str
    text: str
    name: str = ""
    round: int | None = None


class Line(NamedTuple):
    serial: int
    step: int
    at: float
    told: Sentence


class Lines:
    """The newest lines, each with a serial that counts up from 0."""

    def __init__(self) -> None:
        self._lines: deque[Line] = deque(maxlen=KEPT_LINES)
        self._next = 0

    def add(self, step: int, at: float, told: Sentence) -> bool:
        """False when it was just said."""
        last = self._lines[-1] if self._lines else None
        if last is not None and last.told == told and at - last.at < SAME_S:
            return False
        self._lines.append(Line(self._next, step, at, told))
        self._next += 1
        return True

    def newest_first(self) -> Iterator[Line]:
        return reversed(self._lines)

    def select(
        self, before: int | None, limit: int, chosen: Callable[[Sentence], bool]
    ) -> list[dict[str, Any]]:
        """Newest first."""
        found: list[dict[str, Any]] = []
        for line in reversed(self._lines):
            if len(found) >= limit:
                break
            if (before is None or line.serial < before) and chosen(line.told):
                found.append(as_json(line))
        return found


def as_json(line: Line) -> dict[str, Any]:
    """Line of web/src/types.ts."""
    told = line.told
    return {
        "serial": line.serial,
        "at": inert.seconds(line.at),
        "kind": told.kind,
        "round": told.round,
        "name": told.name,
        "text": told.text,
    }


def line_of(event: Event) -> Sentence | None:
    """What an event says to people; None for what only curves and tables show."""
    if isinstance(event, SILENT):
        return None
    told = _of_round(event) or _of_peer(event) or _of_state(event) or _of_agent(event)
    if told is None:
        told = _of_trouble(event)
    if told is None or not told.text:
        return None
    return told._replace(text=inert.sentence(told.text), name=inert.name(told.name))


def noted(event: Event, told: Sentence) -> bool:
    """Whether an operator should read it even at a glance."""
    if isinstance(event, GenerationClosed | RunAmended | JournalWritable | LastRoundAwaited):
        return True
    return told.kind in ("trouble", "note") and not isinstance(event, PeerSuspect | AttemptFailed)


def _of_round(event: Event) -> Sentence | None:
    match event:
        case RoundCommitted():
            loss = f", loss {event.loss:.3f}" if math.isfinite(event.loss) else ""
            text = (
                f"round {event.round} committed: {counted(event.contributors, 'peer')}, "
                f"{counted(event.tokens, 'token')}{loss}, {event.took_s:.1f} s"
            )
            return Sentence("round", text, round=event.round)
        case RoundAbandoned():
            text = f"round {event.round} abandoned: {event.reason}"
            return Sentence("trouble", text, round=event.round)
        case AttemptStarted() if event.attempt > 1:
            text = (
                f"round {event.round}: attempt {event.attempt} with "
                f"{counted(event.candidates, 'peer')} ({event.reason})"
            )
            return Sentence("round", text, round=event.round)
        case AttemptFailed():
            text = f"round {event.round}: attempt {event.attempt} failed: {event.reason}"
            return Sentence("trouble", text, round=event.round)
        case EdgeFailed():
            text = (
                f"round {event.round}: nothing came from {event.source} to {event.target} "
                f"({event.fault}); the next attempt goes round it"
            )
            return Sentence("trouble", text, event.source, event.round)
        case ContributionRejected():
            text = f"round {event.round}: {event.name} rejected: {event.reason}"
            return Sentence("trouble", text, event.name, event.round)
        case _:
            return None


def _of_peer(event: Event) -> Sentence | None:
    match event:
        case PeerJoined():
            return Sentence("peer", f"{event.name} is admitted as {event.role}", event.name)
        case GenerationOpened():
            text = f"{event.name} takes part from round {event.next_round} on"
            return Sentence("peer", text, event.name, event.next_round)
        case GenerationClosed():
            back = f"; {counted(event.returned, 'sample')} returned" if event.returned else ""
            kind = "peer" if event.reason.startswith("left") else "trouble"
            return Sentence(kind, f"{event.name} is out: {event.reason}{back}", event.name)
        case PeerSuspect():
            return Sentence("trouble", f"{event.name} is suspect: {event.reason}", event.name)
        case PeerReady() if event.note:
            return Sentence("note", f"{event.name}: {event.note}", event.name, event.round)
        case StateReported() if not event.agrees:
            text = f"{event.name} reports another state after round {event.round}"
            return Sentence("trouble", text, event.name, event.round)
        case _:
            return None


def _of_state(event: Event) -> Sentence | None:
    match event:
        case RunStarted():
            return Sentence("state", f"the coordinator of {event.name} starts, term {event.term}")
        case Paused():
            return Sentence("state", event.reason)
        case Resumed():
            return Sentence("state", f"it goes on: {event.reason}")
        case RunFinished():
            rounds = counted(event.rounds, "round")
            return Sentence("state", f"complete: {rounds}, {counted(event.tokens, 'token')}")
        case RunAmended():
            return Sentence("state", event.sentence, round=event.from_round)
        case LastRoundAwaited():
            return Sentence("state", event.sentence)
        case JournalBlocked():
            return Sentence("trouble", f"the journal cannot be written: {event.reason}")
        case JournalWritable():
            return Sentence("state", f"the journal is written again after {event.after_s:.0f} s")
        case ForkDetected():
            return Sentence("trouble", event.sentence)
        case ModelEvaluated():
            text = (
                f"held-out text: {event.bits_per_byte:.3f} bits per byte after "
                f"{counted(event.next_round, 'round')}, measured by {event.name}"
            )
            return Sentence("evaluation", text, event.name, event.next_round)
        case SnapshotUploaded():
            text = f"the archive holds the state after {counted(event.next_round, 'round')}"
            return Sentence("note", text, round=event.next_round)
        case _:
            return None


def _of_agent(event: Event) -> Sentence | None:
    """What a peer's own log holds."""
    match event:
        case AgentStarted():
            return Sentence("state", f"{event.name} starts as {event.role}", event.name)
        case Trained():
            loss = f", loss {event.loss:.3f}" if math.isfinite(event.loss) else ""
            steps = counted(event.steps, "step")
            text = f"round {event.round} trained: {steps}{loss}, {event.compute_s:.1f} s"
            return Sentence("round", text, round=event.round)
        case Voted() if event.attempt > 1:
            text = f"round {event.round}: voted in attempt {event.attempt}"
            return Sentence("round", text, round=event.round)
        case Reconnected():
            return Sentence(
                "state", f"connected again after {event.after_s:.0f} s, term {event.term}"
            )
        case NoCoordinator():
            return Sentence("trouble", f"no coordinator for {event.for_s:.0f} s: {event.reason}")
        case Resynced():
            text = f"the own state was replaced at round {event.round}: {event.reason}"
            return Sentence("trouble", text, round=event.round)
        case TrainerRestarted():
            return Sentence("trouble", f"the trainer was started again: {event.reason}")
        case SnapshotFetched():
            rounds = counted(event.next_round, "round")
            return Sentence("note", f"the state after {rounds} is here, {event.took_s:.1f} s")
        case _:
            return None


def _of_trouble(event: Event) -> Sentence | None:
    sentence = getattr(event, "sentence", "")  # as `sentence_of`, for very many events
    if not sentence:
        return None
    kind = "trouble" if isinstance(event, Trouble | BadBlob) else "note"
    return Sentence(kind, sentence, str(getattr(event, "name", "")), getattr(event, "round", None))
