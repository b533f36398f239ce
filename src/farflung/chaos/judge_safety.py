"""S1 to S7: what must hold of state, journal, samples and keys, whatever happened. Pure."""

from __future__ import annotations

from farflung.chaos.evidence import Evidence
from farflung.chaos.row import Row
from farflung.chaos.timeline import Timeline
from farflung.events import Applied, RoundCommitted, StateReported, Voted
from farflung.swarm.ledger import audit
from farflung.swarm.records import Abandon, Close, Commit, Gen, Genesis, Join, Lease, Term


def _commits(evidence: Evidence) -> dict[int, Commit]:
    return {r.round: r for r in evidence.records if isinstance(r, Commit)}


def agreement(evidence: Evidence) -> Row:
    """S1: whoever speaks of the state after a round names the commit's root."""
    row = Row("S1", "one state per round, bit for bit, on every node")
    commits = _commits(evidence)
    for log, lines in evidence.said.items():
        for said in lines:
            match said.event:
                case Applied() | RoundCommitted() as event if event.round in commits:
                    same = event.state_root == commits[event.round].state_root.hex()
                    row.check(same, f"{log}: another state after round {event.round}")
                case StateReported() as event if event.round in commits:
                    same = event.state_root == commits[event.round].state_root.hex()
                    row.check(
                        same and event.agrees,
                        f"{event.name} reported another state after round {event.round}",
                    )
                case _:
                    pass
    return row


def one_log(evidence: Evidence) -> Row:
    """S2: rounds without gap, rising terms, and no record lost by a death of the host."""
    row = Row("S2", "one journal: no gap, terms rise, no record lost by a host's death")
    due, term = 0, 0
    for record in evidence.records:
        if isinstance(record, Commit | Abandon):
            row.check(record.round == due, f"round {record.round} follows where {due} is due")
            due = record.round + 1
            row.check(
                record.term == term, f"round {record.round} is of term {record.term}, not {term}"
            )
        elif isinstance(record, Term):
            row.check(record.term > term, f"term {record.term} follows term {term}")
            term = record.term
    for mark, same in evidence.marks:
        row.check(same, f"{mark.length} bytes of journal at {mark.at_s:.1f} s are not kept")
    return row


def durability(evidence: Evidence, line: Timeline) -> Row:
    """S3: what was applied or announced is in the journal; the end state can be recomputed."""
    row = Row("S3", "what a node applied is in the journal; the end is reconstructible")
    commits = _commits(evidence)
    for log, lines in evidence.said.items():
        for said in lines:
            if isinstance(said.event, Applied):
                number = said.event.round
                row.check(number in commits, f"{log} applied round {number}, which has no commit")
    for _, number in line.commits:
        row.check(number in commits, f"the host announced round {number}, which has no commit")
    found = evidence.findings
    row.check(
        found is not None and found.steps_recomputed == found.commits == len(commits),
        "verify did not reach the last committed round",
    )
    return row


def samples(evidence: Evidence) -> Row:
    """S4: every sample is credited once, to whoever leased it."""
    row = Row("S4", "samples: none credited twice, none lost, none without a lease")
    if not evidence.records or not isinstance(evidence.records[0], Genesis):
        return row
    found = audit(evidence.records)
    row.check(found.duplicated == 0, f"{found.duplicated} samples were credited twice")
    row.check(found.lost == 0, f"{found.lost} samples are nobody's")
    row.check(found.unleased == 0, f"{found.unleased} samples were credited without a lease")
    row.checks += found.credited
    partial = evidence.findings.partial if evidence.findings else "?"
    row.note = f"credited {found.credited:,}, partial {partial}{_by_source(evidence)}"
    return row


def _by_source(evidence: Evidence) -> str:
    sources = evidence.findings.sources if evidence.findings else []
    return "".join(f"; {s.name} {s.consumed:,} ({s.epochs:.2f} epochs)" for s in sources)


def arithmetic(evidence: Evidence) -> Row:
    """S5: `verify` recomputed every outer step, and the reductions whose inputs were kept."""
    row = Row("S5", "outer steps and reductions recomputed bit by bit (verify)")
    found = evidence.findings
    row.check(
        found is not None and not evidence.violation,
        f"verify: {evidence.violation or 'it did not run'}",
    )
    if found is None:
        return row
    row.check(
        found.steps_recomputed == found.commits and not found.missing_results,
        f"{found.steps_recomputed} of {found.commits} outer steps could be recomputed",
    )
    row.check(found.reductions_recomputed > 0, "no reduction could be recomputed")
    row.checks += found.steps_recomputed + found.reductions_recomputed
    row.note = (
        f"{found.steps_recomputed} steps, {found.reductions_recomputed} slices, "
        f"{found.slices_without_inputs} without kept inputs"
    )
    return row


def fencing(evidence: Evidence) -> Row:
    """S6: one live stay per key, and nothing counts of a stay that had ended before."""
    row = Row("S6", "one live session per key; nothing of a closed stay counts")
    open_: dict[str, int] = {}
    last: dict[str, int] = {}
    leased: dict[int, dict[str, int]] = {}
    for record in evidence.records:
        match record:
            case Gen():
                row.check(record.node not in open_, f"{record.node[:8]} has two open stays")
                rises = record.generation > last.get(record.node, 0)
                row.check(rises, f"generation {record.generation} of {record.node[:8]} comes again")
                open_[record.node] = last[record.node] = record.generation
            case Close():
                open_.pop(record.node, None)
            case Lease():
                leased[record.round] = dict(open_)  # who was here when the round began
            case Commit():
                at_lease = leased.get(record.round, {})
                for c in record.contributors:
                    held = at_lease.get(c.node) == c.generation or open_.get(c.node) == c.generation
                    row.check(held, f"round {record.round} counts a closed stay of {c.node[:8]}")
            case _:
                pass
    _one_voice(evidence, row)
    return row


def _one_voice(evidence: Evidence, row: Row) -> None:
    """No key votes for two outcomes of one attempt, from whatever folder."""
    votes: dict[tuple[object, ...], str] = {}
    for log, lines in evidence.said.items():
        node = evidence.node_of(log) or log
        for said in lines:
            event = said.event
            if isinstance(event, Voted):
                place = (node, getattr(event, "term", 0), event.round, event.attempt)
                other = votes.setdefault(place, event.fragment_hash)
                row.check(
                    other == event.fragment_hash,
                    f"{log} voted for two outcomes of round {event.round}",
                )


def known_keys(evidence: Evidence) -> Row:
    """S7: nobody takes part who was not admitted before."""
    row = Row("S7", "only admitted keys in leases, commits, votes and stays")
    known: set[str] = set()
    for record in evidence.records:
        match record:
            case Join():
                known.add(record.node)
            case Gen() | Close():
                row.check(record.node in known, f"{record.node[:8]} has a stay but no admission")
            case Lease():
                for grant in record.grants:
                    row.check(grant.node in known, f"{grant.node[:8]} leases without admission")
            case Commit():
                names = {c.node for c in record.contributors} | {v.node for v in record.votes}
                for node in sorted(names | set(record.holders)):
                    row.check(
                        node in known, f"{node[:8]} is in commit {record.round}, not admitted"
                    )
            case _:
                pass
    return row
