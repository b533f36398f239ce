"""The judge's teeth: sound evidence passes every row, and each forgery fails its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from chaos_samples import (
    HEALED_S,
    KILL_S,
    START_S,
    applied,
    closed,
    committed,
    evidence,
    node,
    reported,
    root,
)

from farflung.chaos.evidence import Evidence, Said
from farflung.chaos.faults import Executed
from farflung.chaos.journal_marks import kept, marked, whole_frames
from farflung.chaos.judge import judge
from farflung.chaos.row import Row
from farflung.chaos.schedule import HOST, Fault, Kind
from farflung.events import (
    AgentStarted,
    Event,
    GenerationClosed,
    PeerSuspect,
    RoundCommitted,
    RunStarted,
    TaskFailed,
    Voted,
)
from farflung.swarm.journal import HEADER
from farflung.swarm.records import Close, Commit, Gen, Join, Lease, Term


def rows(found: Evidence) -> dict[str, Row]:
    return {row.key: row for row in judge(found).rows}


def failed(found: Evidence) -> set[str]:
    return {key for key, row in rows(found).items() if not row.passed}


def test_sound_evidence_passes_every_row() -> None:
    verdict = judge(evidence())
    assert not {row.key: row.first for row in verdict.rows if not row.passed}
    assert verdict.passed
    assert verdict.figures["rounds_committed"] == 100
    assert verdict.figures["s_from_peer_kill_to_next_commit"]["max"] == 0.5
    assert verdict.figures["s_from_host_start_to_next_commit"]["n"] == 1
    assert verdict.figures["s_from_peer_start_to_contribution"]["n"] == 1


def test_no_evidence_passes_no_row_of_state_and_journal() -> None:
    empty = Evidence(spec=evidence().spec, started_s=0.0, healed_s=0.0)
    assert failed(empty) >= {"S1", "S2", "S3", "S4", "S5", "S6", "S7", "L1", "L2", "L3", "P1"}
    assert not judge(empty).passed


# ---- forgeries -----------------------------------------------------------------------------


def say(found: Evidence, log: str, at_s: float, event: Event) -> Evidence:
    lines = sorted([*found.said.get(log, []), Said(START_S + at_s, event)], key=lambda s: s.at_s)
    return replace(found, said={**found.said, log: lines})


def unsay(found: Evidence, log: str, wanted: Callable[[Said], bool]) -> Evidence:
    lines = [s for s in found.said[log] if not wanted(s)]
    return replace(found, said={**found.said, log: lines})


def without(found: Evidence, wanted: Callable[[Any], bool]) -> Evidence:
    return replace(found, records=[r for r in found.records if not wanted(r)])


def changed(found: Evidence, wanted: Callable[[Any], bool], **fields: Any) -> Evidence:
    return replace(
        found,
        records=[msgspec.structs.replace(r, **fields) if wanted(r) else r for r in found.records],
    )


def is_commit(round_: int) -> Callable[[Any], bool]:
    return lambda r: isinstance(r, Commit) and r.round == round_


def struck(found: Evidence, kind: Kind, at_s: float, lasts_s: float, name: str) -> Evidence:
    fault = Fault(number=9, kind=kind, at_s=at_s, lasts_s=lasts_s, nodes=(name,))
    done = Executed(fault=fault, started_s=START_S + at_s, ended_s=START_S + at_s + lasts_s)
    return replace(found, executed=[*found.executed, done])


def commit_of(found: Evidence, round_: int) -> Commit:
    return next(r for r in found.records if is_commit(round_)(r))


def another_root(found: Evidence) -> Evidence:
    return say(found, "p0", 60, replace(applied(60, True), state_root=root(1).hex()))


def a_disagreement(found: Evidence) -> Evidence:
    return say(found, HOST, 60, reported("p2", 60, agrees=False))


def a_gap(found: Evidence) -> Evidence:
    return without(found, is_commit(60))


def a_term_again(found: Evidence) -> Evidence:
    return changed(found, lambda r: isinstance(r, Term) and r.term == 2, term=1)


def a_lost_tail(found: Evidence) -> Evidence:
    return replace(found, marks=[(found.marks[0][0], False)])


def applied_nowhere(found: Evidence) -> Evidence:
    return say(found, "p0", 99, applied(100, True))


def announced_nowhere(found: Evidence) -> Evidence:
    return say(found, HOST, 99.9, committed(100))


def not_all_recomputed(found: Evidence) -> Evidence:
    assert found.findings is not None
    return replace(found, findings=replace(found.findings, steps_recomputed=99))


def violation(found: Evidence) -> Evidence:
    return replace(found, findings=None, violation="round 3: slice 0 is not the mean")


def no_reductions(found: Evidence) -> Evidence:
    assert found.findings is not None
    return replace(found, findings=replace(found.findings, reductions_recomputed=0))


def credited_twice(found: Evidence) -> Evidence:
    twice = tuple(
        msgspec.structs.replace(c, credited=commit_of(found, 59).contributors[0].credited)
        for c in commit_of(found, 60).contributors
    )
    return changed(found, is_commit(60), contributors=twice)


def without_lease(found: Evidence) -> Evidence:
    return without(found, lambda r: isinstance(r, Lease) and r.round == 60)


def lost_samples(found: Evidence) -> Evidence:
    """Round 18 leaves p1's range uncredited, and its stay ends without giving it back."""
    kept_ = tuple(c for c in commit_of(found, 18).contributors if c.node != node("p1"))
    return changed(found, is_commit(18), contributors=kept_)


def two_open_stays(found: Evidence) -> Evidence:
    return without(found, lambda r: isinstance(r, Close))


def closed_contributor(found: Evidence) -> Evidence:
    old = tuple(msgspec.structs.replace(c, generation=1) for c in commit_of(found, 60).contributors)
    return changed(found, is_commit(60), contributors=old)


def two_votes(found: Evidence) -> Evidence:
    for at_s, outcome in ((60, "aa"), (60.1, "bb")):
        fields = {f.name for f in dataclasses.fields(Voted)}
        values = {"round": 60, "attempt": 1, "bytes_root": "", "fragment_hash": outcome, "term": 2}
        vote = Voted(**{k: v for k, v in values.items() if k in fields})  # type: ignore[arg-type]
        found = say(found, "p0", at_s, vote)
    return found


def stranger(found: Evidence) -> Evidence:
    return without(found, lambda r: isinstance(r, Join) and r.name == "p2")


def more_files(found: Evidence) -> Evidence:
    late = [replace(s, fds=s.fds + (30 if i > 14 else 0)) for i, s in enumerate(samples_of(found))]
    return replace(found, samples={("p0", 10): late})


def more_memory(found: Evidence) -> Evidence:
    late = [
        replace(s, rss=s.rss + ((90 << 20) if i > 14 else 0))
        for i, s in enumerate(samples_of(found))
    ]
    return replace(found, samples={("p0", 10): late})


def more_threads(found: Evidence) -> Evidence:
    late = [replace(s, threads=5 + 4 * (i > 14)) for i, s in enumerate(samples_of(found))]
    return replace(found, samples={("p0", 10): late})


def samples_of(found: Evidence) -> list[Any]:
    return found.samples[("p0", 10)]


def left_over(found: Evidence) -> Evidence:
    return replace(found, temporary=["p0/chaos/peer/.snapshot.tmp"])


def wedge(found: Evidence) -> Evidence:
    """Half a minute without a commit though nothing is struck."""
    return unsay(
        found, HOST, lambda s: isinstance(s.event, RoundCommitted) and 55 < s.event.round < 84
    )


def dead_after_healing(found: Evidence) -> Evidence:
    return unsay(
        found, HOST, lambda s: isinstance(s.event, RoundCommitted) and s.at_s > START_S + HEALED_S
    )


def never_back(found: Evidence) -> Evidence:
    return unsay(found, "p2", lambda s: s.at_s > START_S + HEALED_S)


def joiner_that_never_contributes(found: Evidence) -> Evidence:
    started = AgentStarted(run="r", node="x", name="late0", role="trainer")
    life = replace(found.lives[2], name="late0", started_s=START_S + 60)
    told = say(found, "late0", 61, started)
    return struck(replace(told, lives=[*found.lives, life]), Kind.KILL, 99, 0.0, "late0")


def untold_kill(found: Evidence) -> Evidence:
    """Nobody says that p2 was killed at 70 s."""
    return struck(found, Kind.KILL, 70, 1.0, "p2")


def untold_stop(found: Evidence) -> Evidence:
    return struck(found, Kind.STOP, 70, 8.0, "p2")


def untold_host_kill(found: Evidence) -> Evidence:
    return unsay(found, HOST, lambda s: isinstance(s.event, RunStarted) and s.event.term == 2)


def untold_join(found: Evidence) -> Evidence:
    return struck(found, Kind.JOIN, 60, 0.0, "late7")


def untold_double(found: Evidence) -> Evidence:
    return struck(found, Kind.DOUBLE, 70, 3.0, "p2")


def false_eviction(found: Evidence) -> Evidence:
    return say(found, HOST, 80, closed("p2", "no beat for 4.0 s"))


def ended_by_itself(found: Evidence) -> Evidence:
    return replace(found, lives=[*found.lives[:5], replace(found.lives[5], why="", code=1)])


def traceback(found: Evidence) -> Evidence:
    return replace(found, lives=[*found.lives[:5], replace(found.lives[5], traceback="p2-0.log")])


def stuck(found: Evidence) -> Evidence:
    return replace(found, stuck=["p2 ended with code -9: killed"])


def failed_task(found: Evidence) -> Evidence:
    event = TaskFailed(task="serve blobs", error="KeyError: 'x'", where="blobs.py:7")
    return say(found, "p1", 75, event)


FORGERIES: list[tuple[Callable[[Evidence], Evidence], str]] = [
    (another_root, "S1"),
    (a_disagreement, "S1"),
    (a_gap, "S2"),
    (a_term_again, "S2"),
    (a_lost_tail, "S2"),
    (applied_nowhere, "S3"),
    (announced_nowhere, "S3"),
    (not_all_recomputed, "S3"),
    (lost_samples, "S4"),
    (credited_twice, "S4"),
    (without_lease, "S4"),
    (not_all_recomputed, "S5"),
    (violation, "S5"),
    (no_reductions, "S5"),
    (two_open_stays, "S6"),
    (closed_contributor, "S6"),
    (two_votes, "S6"),
    (stranger, "S7"),
    (more_files, "S8"),
    (more_memory, "S8"),
    (more_threads, "S8"),
    (left_over, "S8"),
    (wedge, "L1"),
    (dead_after_healing, "L1"),
    (never_back, "L1"),
    (joiner_that_never_contributes, "L2"),
    (untold_kill, "L3"),
    (untold_stop, "L3"),
    (untold_host_kill, "L3"),
    (untold_join, "L3"),
    (untold_double, "L3"),
    (false_eviction, "L4"),
    (ended_by_itself, "P1"),
    (traceback, "P1"),
    (stuck, "P1"),
    (failed_task, "P1"),
]


@pytest.mark.parametrize(("forge", "key"), FORGERIES, ids=lambda x: getattr(x, "__name__", x))
def test_a_forgery_fails_its_row(forge: Callable[[Evidence], Evidence], key: str) -> None:
    verdict = judge(forge(evidence()))
    row = next(row for row in verdict.rows if row.key == key)
    assert row.violations > 0
    assert row.first
    assert not verdict.passed


def test_an_eviction_after_a_fault_is_no_false_one() -> None:
    found = struck(evidence(), Kind.STOP, 70, 8.0, "p2")
    found = say(found, HOST, 75, PeerSuspect(node=node("p2"), name="p2", reason="no beat"))
    found = say(found, HOST, 76, closed("p2", "no beat for 4.0 s"))
    assert failed(found) == set()


def test_who_is_gone_for_good_need_not_come_back() -> None:
    """Also when its second process had its key just then, so that it did not run."""
    found = struck(never_back(evidence()), Kind.KILL, 80, 0.0, "p2")
    assert "L1" in failed(found)
    last = found.executed[-1]
    last = replace(last, fault=replace(last.fault, returns=False), skipped="it did not run")
    assert "L1" not in failed(replace(found, executed=[*found.executed[:-1], last]))


def test_a_pause_while_too_few_are_sound_is_no_wedge() -> None:
    found = wedge(evidence())
    for name in ("p0", "p2"):
        found = struck(found, Kind.SLOW, 56, 28.0, name)
    assert "L1" not in failed(found)


def test_a_newcomer_that_a_struck_host_turns_away_may_end() -> None:
    found = struck(evidence(), Kind.HOST_DISK, 60, 3.0, HOST)
    refused = replace(
        found.lives[5],
        name="late0",
        started_s=START_S + 61,
        ended_s=START_S + 62,
        code=2,
        why="",
        warnings=[(START_S + 62, "farflung: the host's disk takes no new members now")],
    )
    again = replace(refused, admitted=False)
    assert "P1" not in failed(replace(found, lives=[*found.lives, again]))
    assert "P1" in failed(replace(found, lives=[*found.lives, refused]))  # a member may not
    alone = evidence()
    assert "P1" in failed(replace(alone, lives=[*alone.lives, again]))  # and only a struck host


def test_a_member_may_be_refused_while_a_second_process_holds_its_key_and_only_then() -> None:
    sound = evidence()
    text = "farflung: the key of p2 is already connected (last beat 0.1 s ago)"
    refused = replace(
        sound.lives[5],
        started_s=START_S + 71,
        ended_s=START_S + 72,
        code=2,
        why="",
        warnings=[(START_S + 72, text)],
    )
    alone = replace(sound, lives=[*sound.lives, refused])
    assert "P1" in failed(alone)
    assert "P1" not in failed(struck(alone, Kind.DOUBLE, 70, 3.0, "p2"))
    other = replace(refused, warnings=[(START_S + 72, "farflung: the disk is on fire")])
    assert "P1" in failed(
        struck(replace(sound, lives=[*sound.lives, other]), Kind.DOUBLE, 70, 3.0, "p2")
    )


def test_a_start_on_a_full_disk_may_be_refused() -> None:
    sound = evidence()
    refused = replace(
        sound.lives[5],
        started_s=START_S + 71,
        ended_s=START_S + 71.5,
        code=2,
        why="",
        warnings=[(START_S + 71.4, "farflung: cannot write to p2; free space there")],
    )
    found = replace(sound, lives=[*sound.lives, refused])
    assert "P1" in failed(found)
    assert "P1" not in failed(struck(found, Kind.DISK, 70, 3.0, "p2"))
    crashed = replace(refused, code=1)
    assert "P1" in failed(
        struck(replace(sound, lives=[*sound.lives, crashed]), Kind.DISK, 70, 3.0, "p2")
    )


def test_an_eviction_is_told_with_its_reason_and_time() -> None:
    row = rows(false_eviction(evidence()))["L4"]
    assert row.first == ["p2 was put out at 80.0 s without a fault: no beat for 4.0 s"]
    assert isinstance(closed("p2", "x"), GenerationClosed)


def test_a_stay_is_counted_by_the_lease_of_its_round() -> None:
    """A contributor that died after it had delivered is credited, though its stay is closed."""
    found = evidence()
    at = next(i for i, r in enumerate(found.records) if is_commit(int(KILL_S) - 1)(r))
    close = next(r for r in found.records if isinstance(r, Close))
    kept_ = [r for r in found.records if r is not close]
    assert isinstance(kept_[at - 1], Lease)
    kept_.insert(at, close)  # between the lease and the commit of that round
    assert "S6" not in failed(replace(found, records=kept_))
    gens = [r for r in kept_ if isinstance(r, Gen) and r.node == node("p1")]
    assert [g.generation for g in gens] == [1, 2]


# ---- marks of the journal ------------------------------------------------------------------


def frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "little") + b"crc." + body


def test_a_mark_covers_whole_frames_and_leaves_a_torn_one_out(tmp_path: Path) -> None:
    path = tmp_path / "journal.bin"
    whole = HEADER + frame(b"one") + frame(b"two")
    path.write_bytes(whole + frame(b"three")[:-1])
    mark = marked(path, 1.0)
    assert (mark.length, mark.torn) == (len(whole), len(frame(b"three")) - 1)
    assert kept(whole + frame(b"other"), mark)
    assert kept(whole, mark)
    assert not kept(whole[:-1], mark)
    assert not kept(HEADER + frame(b"one") + frame(b"tow") + frame(b"x"), mark)
    assert whole_frames(HEADER[:5]) == 0
    assert marked(tmp_path / "none", 1.0).length == 0
