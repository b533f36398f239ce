"""By which event an operator learns of a fault. Pure."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from farflung.chaos.faults import Executed
from farflung.chaos.schedule import HOST, Kind
from farflung.chaos.timeline import RETURN_S, Timeline
from farflung.events import (
    AgentStarted,
    AttemptFailed,
    AttemptStarted,
    ContributionRejected,
    Event,
    GenerationClosed,
    GenerationOpened,
    LinkClosed,
    NodeRefused,
    Paused,
    PeerJoined,
    PeerSuspect,
    Reconnected,
    Resynced,
    RoundAbandoned,
    RunStarted,
    Trouble,
)


class Seen(StrEnum):
    """What became of a fault, for whoever reads the logs."""

    TOLD = "told"
    ABSORBED = "absorbed"
    """No event of it, and nothing happened: rounds went on and whom it struck contributed."""
    MOOT = "moot"
    """Nobody could see it: the peer was out already, the host was down, or it was too short."""
    UNSEEN = "unseen"


BUSY_S = 1.0
"""A stop is due to be told when it lasts this much longer than the suspicion takes: on a busy
machine the last beat is read late, and a coordinator that was held up itself forgives silence."""

TROUBLE = (
    AttemptFailed,
    ContributionRejected,
    RoundAbandoned,
    Paused,
    Trouble,
    Reconnected,
    Resynced,
)


def seen(done: Executed, line: Timeline) -> Seen:
    """Looks between the fault's start and its end plus the bound of its kind."""
    return _HOW[done.kind](done, line)


def _until_s(done: Executed, line: Timeline) -> float:
    rules = line.evidence.spec.swarm
    return line.end_s(done) + rules.dead_s + RETURN_S


def _host_says(
    done: Executed, line: Timeline, wanted: Callable[[Event], bool], until_s: float
) -> bool:
    said = line.said_between(HOST, done.started_s, until_s)
    return any(wanted(s.event) for s in said)


def _out(name: str) -> Callable[[Event], bool]:
    return lambda e: isinstance(e, PeerSuspect | GenerationClosed) and e.name == name


def _watched(done: Executed, line: Timeline, name: str) -> bool:
    """Whether the host was there, counted on the peer and could reach it when the fault began."""
    rules = line.evidence.spec.swarm
    others = [e for e in line.struck(name, done.started_s, done.started_s, 2.0) if e is not done]
    until_s = done.started_s + rules.dead_s
    blind = line.struck(HOST, done.started_s - 1.0, until_s, RETURN_S, mild=False)
    return (
        line.member(name, done.started_s)
        and not [e for e in others if e.kind is not Kind.DOUBLE]
        and not [e for e in blind if e is not done]
    )


def _kill(done: Executed, line: Timeline) -> Seen:
    """The host tells of the loss; a peer on which it did not count tells of its own return."""
    name = done.fault.nodes[0]
    until_s = _until_s(done, line)
    if _host_says(done, line, _out(name), until_s):
        return Seen.TOLD
    if _watched(done, line, name):
        return Seen.UNSEEN
    back = line.said_between(name, done.started_s, until_s + RETURN_S)
    return Seen.TOLD if any(isinstance(s.event, AgentStarted) for s in back) else Seen.MOOT


def _stop(done: Executed, line: Timeline) -> Seen:
    name = done.fault.nodes[0]
    if _host_says(done, line, _out(name), _until_s(done, line)):
        return Seen.TOLD
    rules = line.evidence.spec.swarm
    lasted_s = line.end_s(done) - done.started_s
    due_s = rules.suspect_s + 2 * rules.beat_s + BUSY_S
    if not _watched(done, line, name) or lasted_s < due_s:
        return Seen.MOOT
    until_s = line.end_s(done)
    return Seen.MOOT if line.struck(HOST, done.started_s, until_s, mild=False) else Seen.UNSEEN


def _kill_host(done: Executed, line: Timeline) -> Seen:
    told = _host_says(
        done, line, lambda e: isinstance(e, RunStarted), line.end_s(done) + 2 * RETURN_S
    )
    if told:
        return Seen.TOLD
    again = line.struck(HOST, line.end_s(done), line.end_s(done) + 2 * RETURN_S)
    return Seen.MOOT if [e for e in again if e is not done] else Seen.UNSEEN


def _cut(done: Executed, line: Timeline) -> Seen:
    """Somebody suspects, fails, warns or reconnects; or everybody struck contributed anyway."""
    until_s = _until_s(done, line)
    for name in done.fault.nodes:
        if name != HOST and _host_says(done, line, _out(name), until_s):
            return Seen.TOLD
    logs = [HOST, *(n for n in done.fault.nodes if n != HOST)]
    for log in logs:
        for said in line.said_between(log, done.started_s, until_s):
            again = isinstance(said.event, AttemptStarted) and said.event.attempt > 1
            if isinstance(said.event, TROUBLE) or again:
                return Seen.TOLD
    if _absorbed(done, line):
        return Seen.ABSORBED
    here = [n for n in done.fault.nodes if n == HOST or _watched(done, line, n)]
    return Seen.UNSEEN if len(here) == len(done.fault.nodes) else Seen.MOOT


def _absorbed(done: Executed, line: Timeline) -> bool:
    """Rounds went on, and whoever was struck contributed again within the bound."""
    until_s = _until_s(done, line)
    struck = [n for n in done.fault.nodes if n != HOST]
    back = all(
        line.first_contribution(n, line.end_s(done), until_s + line.bound_s) is not None
        for n in struck
    )
    next_s = line.next_commit(line.end_s(done))
    return back and next_s is not None and next_s <= line.bound_s


def _join(done: Executed, line: Timeline) -> Seen:
    name = done.fault.nodes[0]
    until_s = done.started_s + 60.0
    joined = _host_says(done, line, lambda e: isinstance(e, PeerJoined) and e.name == name, until_s)
    opened = _host_says(
        done, line, lambda e: isinstance(e, GenerationOpened) and e.name == name, until_s
    )
    if joined and opened:
        return Seen.TOLD
    others = [e for e in line.struck(name, done.started_s, until_s) if e is not done]
    return Seen.MOOT if others or line.struck(HOST, done.started_s, until_s) else Seen.UNSEEN


def _leave(done: Executed, line: Timeline) -> Seen:
    name = done.fault.nodes[0]
    if _host_says(done, line, _out(name), _until_s(done, line)):
        return Seen.TOLD
    return Seen.UNSEEN if _watched(done, line, name) else Seen.MOOT


def _double(done: Executed, line: Timeline) -> Seen:
    """The second process is refused in words, or the host tells of the change."""
    name = done.fault.nodes[0]
    until_s = _until_s(done, line)
    told = _host_says(
        done,
        line,
        lambda e: (isinstance(e, NodeRefused | LinkClosed) and e.name == name) or _out(name)(e),
        until_s,
    )
    if told or done.told:
        return Seen.TOLD
    return Seen.UNSEEN if _watched(done, line, name) else Seen.MOOT


def _disk(done: Executed, line: Timeline) -> Seen:
    """Told on the terminal (the full disk takes no event), or by those who miss its work."""
    name = done.fault.nodes[0]
    until_s = _until_s(done, line)
    for life in line.evidence.lives:
        if life.name == name and any(done.started_s <= t <= until_s for t, _ in life.warnings):
            return Seen.TOLD
    found = _cut(done, line)
    if found is Seen.UNSEEN and name == HOST:  # one that just starts or is killed writes nothing
        others = line.struck(HOST, done.started_s, until_s, RETURN_S)
        return Seen.MOOT if [e for e in others if e is not done] else found
    return found


_HOW: dict[Kind, Callable[[Executed, Timeline], Seen]] = {
    Kind.KILL: _kill,
    Kind.STOP: _stop,
    Kind.KILL_HOST: _kill_host,
    Kind.PARTITION: _cut,
    Kind.ONE_WAY: _cut,
    Kind.RESET: _cut,
    Kind.SLOW: _cut,
    Kind.DELAY: _cut,
    Kind.JOIN: _join,
    Kind.LEAVE: _leave,
    Kind.DOUBLE: _double,
    Kind.DISK: _disk,
    Kind.HOST_DISK: _disk,
}
