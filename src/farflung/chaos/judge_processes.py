"""S8 and the ends of processes: nothing leaks, nothing dies by itself. Pure."""

from __future__ import annotations

from farflung.chaos.evidence import Evidence
from farflung.chaos.processes import ProcessLife
from farflung.chaos.resources import Sample
from farflung.chaos.row import Row
from farflung.chaos.schedule import HOST, WITNESS, Kind
from farflung.chaos.timeline import MILD, RETURN_S, Timeline
from farflung.events import TaskFailed

YOUNG_S = 60.0
"""A process is itself after this; from then on it must not grow."""
FDS_SHARE, FDS_MORE = 1.10, 8
"""A data link or a file more or less at the time of one look is no leak."""
RSS_SHARE, RSS_MORE = 1.5, 30 << 20
"""Journals grow, and their offsets and hashes are kept in memory."""
THREADS_MORE = 2


def resources(evidence: Evidence) -> Row:
    """S8: open files, memory and threads of the processes that lived long; no file left over."""
    row = Row("S8", "files, memory, threads do not grow; no temporary file is left")
    longest, grown = 0.0, ""
    for (name, pid), found in sorted(evidence.samples.items()):
        young = [s for s in found if s.at_s - found[0].at_s >= YOUNG_S]
        if len(young) < 2:
            continue
        first, last = _middle(young[:5]), _middle(young[-5:])
        who = f"{name} (process {pid})"
        for sentence, holds in _compared(first, last):
            row.check(holds, f"{who}: {sentence}")
        if found[-1].at_s - found[0].at_s > longest:
            longest = found[-1].at_s - found[0].at_s
            grown = (
                f"{name} over {longest:.0f} s: files {first.fds} to {last.fds}, memory "
                f"{first.rss >> 20} to {last.rss >> 20} MiB, threads {first.threads} to "
                f"{last.threads}"
            )
    row.check(not evidence.temporary, f"left over: {', '.join(evidence.temporary[:5])}")
    row.note = grown or f"no process lived {YOUNG_S:g} s; {WITNESS} is never killed"
    return row


def _middle(found: list[Sample]) -> Sample:
    """Median of a few samples: one look may fall into a burst."""
    half = len(found) // 2
    return Sample(
        at_s=found[half].at_s,
        fds=sorted(s.fds for s in found)[half],
        rss=sorted(s.rss for s in found)[half],
        threads=sorted(s.threads for s in found)[half],
    )


def _compared(first: Sample, last: Sample) -> list[tuple[str, bool]]:
    return [
        (
            f"{last.fds} open files, {first.fds} before",
            last.fds <= first.fds * FDS_SHARE + FDS_MORE,
        ),
        (
            f"{last.rss >> 20} MiB, {first.rss >> 20} before",
            last.rss <= max(first.rss * RSS_SHARE, first.rss + RSS_MORE),
        ),
        (
            f"{last.threads} threads, {first.threads} before",
            last.threads <= first.threads + THREADS_MORE,
        ),
    ]


def ends(evidence: Evidence, line: Timeline) -> Row:
    """No process ends unless it is asked to, no traceback reaches a person, no task fails.

    Three may, with a sentence and code 2, and are started again: a newcomer that is refused while
    the host is struck, a member whose key a second process holds at that time, and whoever starts
    on a full disk.
    """
    turned_away = 0
    row = Row("P1", "no process ends by itself, no task fails, no traceback; all stop politely")
    for life in evidence.lives:
        last = life.warnings[-1][1] if life.warnings else "it said nothing"
        if not life.why and life.code == 2 and life.warnings and _refused(life, line):
            turned_away += 1
            continue
        row.check(
            life.why or life.code is None,
            f"{life.name} (start {life.number}) ended by itself with code {life.code}: {last}; "
            f"see {life.log}",
        )
        row.check(not life.traceback, f"a traceback in {life.traceback}")
    for log, lines in evidence.said.items():
        for said in lines:
            if isinstance(said.event, TaskFailed):
                row.check(False, f"{log}: {said.event.sentence}")
    for sentence in evidence.stuck:
        row.check(False, sentence)
    row.note = f"{turned_away} starts were refused in words, and made again"
    return row


def _refused(life: ProcessLife, line: Timeline) -> bool:
    """Whether a fault explains that this start was turned away."""
    assert life.ended_s is not None
    own = line.struck(life.name, life.started_s, life.ended_s, 2.0)
    if any(e.kind in (Kind.DISK, Kind.HOST_DISK) for e in own):
        return True
    if life.admitted:
        held = "already connected" in life.warnings[-1][1]
        return held and any(e.kind is Kind.DOUBLE for e in own)
    return bool(
        line.struck(HOST, life.started_s, life.ended_s, RETURN_S)
        or [e for e in own if e.kind not in MILD]
    )
