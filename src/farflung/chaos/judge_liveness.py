"""L1 to L4: rounds go on, joiners take part, faults are seen, nobody is put out wrongly. Pure."""

from __future__ import annotations

import itertools

from farflung.chaos.evidence import Evidence
from farflung.chaos.row import Row
from farflung.chaos.schedule import HOST, Kind
from farflung.chaos.signs import Seen, seen
from farflung.chaos.timeline import RETURN_S, Timeline
from farflung.events import GenerationClosed, RunStarted, SnapshotFetched

CALM_ROUNDS = 3
JOIN_ROUNDS = 3
"""Rounds that may be committed between the end of a joiner's snapshot and its own first one:
those that it replays, the one that is open when it is done, and its own."""
JOIN_S = 30.0
"""From a joiner's start to its first contribution when nothing strikes it or the host."""
MEMORY_S = 12.0
"""What struck a peer explains its eviction for this long after the fault's end, besides DEAD."""


def progress(evidence: Evidence, line: Timeline) -> Row:
    """L1: after healing a commit within W; in the storm no W without one while enough are sound."""
    row = Row("L1", "no wedge: a commit within W whenever host and enough peers are sound")
    took_s = line.next_commit(evidence.healed_s)
    bound_s = line.bound_s
    row.check(
        took_s is not None and took_s <= bound_s,
        f"no commit in {bound_s:.1f} s after healing (took {took_s})",
    )
    after = sum(t > evidence.healed_s for t in line.commit_times)
    row.check(after >= CALM_ROUNDS, f"{after} commits after healing, {CALM_ROUNDS} were due")
    for name in line.trainers:
        if name not in _gone(line):
            back = line.first_contribution(name, evidence.healed_s, float("inf"))
            row.check(back is not None, f"{name} has not contributed after healing")
    times = [t for t in line.commit_times if t <= evidence.healed_s]
    for a, b in itertools.pairwise(times):
        row.check(
            b - a <= bound_s or not _sound_window(evidence, line, a, b),
            f"no commit for {b - a:.1f} s from {a - evidence.started_s:.0f} s on, though enough "
            f"peers were sound for {bound_s:.1f} s",
        )
    row.note = f"W = {bound_s:.1f} s" + (f", after healing {took_s:.1f} s" if took_s else "")
    return row


def _gone(line: Timeline) -> set[str]:
    """Who is not brought back; also whoever did not run any more when it was struck."""
    return {
        e.fault.nodes[0]
        for e in line.evidence.executed
        if e.kind is Kind.LEAVE or (e.kind is Kind.KILL and not e.fault.returns)
    }


def _sound_window(evidence: Evidence, line: Timeline, from_s: float, to_s: float) -> bool:
    """Whether in a gap without commits host and `min_peers` peers were left alone for W."""
    need, bound_s = evidence.spec.swarm.min_peers, line.bound_s
    starts = [from_s, *(line.end_s(e) for e in line.real if from_s < line.end_s(e) < to_s)]
    for start_s in starts:
        end_s = start_s + bound_s
        if end_s > to_s or line.struck(HOST, start_s, end_s, mild=False):
            continue
        alive = _alive(evidence, start_s)
        if sum(not line.struck(n, start_s, end_s) for n in alive) >= need:
            return True
    return False


def _alive(evidence: Evidence, at_s: float) -> set[str]:
    return {
        life.name
        for life in evidence.lives
        if life.name != HOST
        and life.started_s <= at_s
        and (life.ended_s is None or life.ended_s > at_s)
    }


def joins(evidence: Evidence, line: Timeline) -> Row:
    """L2: whoever joins and is left alone contributes soon, and holds up nobody."""
    row = Row("L2", "a joiner contributes soon after its snapshot and stalls nobody")
    waits, struck = [], 0
    for life in evidence.lives:
        if life.number != 0 or life.name == HOST:
            continue
        until_s = life.started_s + JOIN_S
        first_s = line.first_contribution(life.name, life.started_s, float("inf"))
        last_s = until_s if first_s is None else min(first_s, until_s)
        if line.struck(life.name, life.started_s, last_s) or line.struck(
            HOST, life.started_s - RETURN_S, last_s
        ):
            struck += 1
            continue
        row.check(
            first_s is not None and first_s <= until_s,
            f"{life.name} has not contributed {JOIN_S:g} s after its start",
        )
        if first_s is not None:
            waits.append(first_s - life.started_s)
            _check_rounds(line, row, life.name, first_s)
    row.note = f"{struck} more were struck themselves"
    if waits:
        row.note += f"; seconds to contribute: {min(waits):.1f} to {max(waits):.1f}"
    return row


def _check_rounds(line: Timeline, row: Row, name: str, first_s: float) -> None:
    fetched = [
        s.at_s
        for s in line.evidence.said.get(name, [])
        if isinstance(s.event, SnapshotFetched) and s.at_s <= first_s
    ]
    if fetched:
        between = sum(fetched[-1] < t <= first_s for t in line.commit_times)
        row.check(
            between <= JOIN_ROUNDS,
            f"{name}: {between} rounds between its snapshot and its first contribution",
        )


def noticed(evidence: Evidence, line: Timeline) -> Row:
    """L3: each fault left a typed event in somebody's log, or demonstrably changed nothing."""
    row = Row("L3", "every fault is told by a typed event in its time, or changed nothing")
    counts = dict.fromkeys(Seen, 0)
    for done in line.real:
        how = seen(done, line)
        counts[how] += 1
        if how is Seen.MOOT:
            continue
        at_s = done.started_s - evidence.started_s
        row.check(
            how is not Seen.UNSEEN,
            f"{done.kind} of {', '.join(done.fault.nodes)} at {at_s:.1f} s left no event",
        )
    row.note = ", ".join(f"{n} {how.value}" for how, n in counts.items())
    return row


def evictions(evidence: Evidence, line: Timeline) -> Row:
    """L4: nobody is put out whom no fault has struck."""
    row = Row("L4", "no peer is put out without a fault of its own or the host's")
    tail_s = evidence.spec.swarm.dead_s + MEMORY_S
    excused = 0
    for said in evidence.said.get(HOST, []):
        event = said.event
        if not isinstance(event, GenerationClosed) or event.reason.startswith("left"):
            continue
        if said.at_s > evidence.healed_s and _ending(evidence, event.name, said.at_s):
            continue
        reasons = [
            *line.struck(event.name, said.at_s, said.at_s, tail_s + _blind_s(line, said.at_s)),
            *line.struck(HOST, said.at_s, said.at_s, tail_s),
        ]
        excused += bool(reasons)
        row.check(
            reasons,
            f"{event.name} was put out at {said.at_s - evidence.started_s:.1f} s without a fault: "
            f"{event.reason}",
        )
    row.checks += len(line.commits)  # in each of these rounds nobody was put out wrongly
    row.note = f"{excused} peers were put out after a fault"
    return row


def _blind_s(line: Timeline, at_s: float) -> float:
    """Who goes while the host is down is missed only when the host is back and loses patience."""
    starts = [
        s.at_s
        for s in line.evidence.said.get(HOST, [])
        if isinstance(s.event, RunStarted) and s.at_s <= at_s
    ]
    rules = line.evidence.spec.swarm
    if not starts or at_s - starts[-1] > rules.restart_grace_s + rules.dead_s + RETURN_S:
        return 0.0
    downs = [e.started_s for e in line.real if HOST in e.fault.nodes and e.started_s <= starts[-1]]
    return rules.restart_grace_s + (starts[-1] - downs[-1] if downs else 0.0)


def _ending(evidence: Evidence, name: str, at_s: float) -> bool:
    """Whether the peer's process had ended by then because we asked it to, after the storm."""
    return any(
        life.name == name and life.ended_s is not None and life.ended_s <= at_s and life.why
        for life in evidence.lives
    )
