"""The invariants of a simulated history, judged from journal and event logs, each with a count."""

from __future__ import annotations

from collections import Counter

from farflung.data.samples import mixture_of
from farflung.errors import FarflungError
from farflung.events import Applied, GenerationClosed, RunFinished, StateReported, TaskFailed
from farflung.run.source_figures import per_source
from farflung.run.verify import Findings, Violation, check_chain, recompute
from farflung.sim.faults import CUT, Harm
from farflung.sim.world import SimSwarm, whole_frames
from farflung.swarm.ledger import audit
from farflung.swarm.mixing import changes
from farflung.swarm.records import Amend, AnyRecord, Commit, Gen, Genesis, Join
from farflung.swarm.replay import current_spec, genesis_spec

AFTERMATH_S = 20.0
"""A stay that is closed so long after a fault of its node (or the coordinator's) was its doing."""
NEVER_BEGAN = "restarted without its progress"

NAMES = {
    "S1": "states compared with the commit's",
    "S2": "journals that are a prefix of the final one",
    "S3": "applied rounds found in the journal",
    "S4": "samples credited exactly once",
    "S5": "outer steps recomputed",
    "S5r": "slice reductions recomputed",
    "S6": "contributions of a stay that was open",
    "S7": "contributors and voters that were admitted",
    "L1": "storms after which rounds went on, or the run came to its end",
    "L1e": "trainers that ended with the last round of a finished run",
    "L4": "closed stays that a fault explains",
    "A1": "specs that are what the journal's amendments made of GENESIS",
    "T1": "event logs without a failed task",
    "E1": "evaluations that are in turn, of a member",
}


class BrokenInvariant(FarflungError):
    """A seed found a bug; the message names the seed, the faults and the violation."""


def check(swarm: SimSwarm, harms: list[Harm] | None = None) -> Counter[str]:
    """Counts of what was checked. Raises BrokenInvariant with the first violation."""
    records = swarm.records()
    counts: Counter[str] = Counter()
    _tasks(swarm, counts)
    _agreement(swarm, records, counts)
    _prefixes(swarm, counts)
    _ledger(records, counts)
    _members(records, counts)
    _amended(swarm, records, counts)
    _arithmetic(swarm, records, counts)
    if harms is not None:
        _evictions(swarm, harms, counts)
    return counts


def _demand(holds: bool, sentence: str) -> None:
    if not holds:
        raise BrokenInvariant(sentence)


def _tasks(swarm: SimSwarm, counts: Counter[str]) -> None:
    """A fault of the program is one whatever was done to the swarm; kills end no task loudly."""
    logs = {"coordinator": swarm.events} | {n.label: n.events for n in swarm.nodes.values()}
    for label, events in logs.items():
        for event in events:
            if isinstance(event, TaskFailed):
                raise BrokenInvariant(f"T1: {label}: {event.sentence}")
        counts["T1"] += 1


def _agreement(swarm: SimSwarm, records: list[AnyRecord], counts: Counter[str]) -> None:
    commits = {r.round: r for r in records if isinstance(r, Commit)}
    for node in swarm.nodes.values():
        for event in node.events:
            if isinstance(event, Applied):
                commit = commits.get(event.round)
                if commit is None:
                    raise BrokenInvariant(
                        f"S3: {node.label} applied round {event.round}, which is not logged"
                    )
                _demand(
                    event.state_root == commit.state_root.hex(),
                    f"S1: {node.label} has another state after round {event.round}",
                )
                counts["S1"] += 1
                counts["S3"] += 1
    for told in swarm.events:
        if isinstance(told, StateReported):
            _demand(told.agrees, f"S1: a node reported another state: {told}")
            counts["S1"] += 1


def _prefixes(swarm: SimSwarm, counts: Counter[str]) -> None:
    final = swarm.journal_bytes()
    for index, left in enumerate(swarm.former_journals):
        former = whole_frames(left)
        _demand(final.startswith(former), f"S2: journal {index} was changed after a restart")
        counts["S2"] += 1


def _ledger(records: list[AnyRecord], counts: Counter[str]) -> None:
    result = audit(records)
    _demand(result.duplicated == 0, f"S4: {result.duplicated} samples were credited twice")
    _demand(result.unleased == 0, f"S4: {result.unleased} samples were credited without a lease")
    _demand(result.lost == 0, f"S4: {result.lost} samples were lost")
    counts["S4"] += result.credited
    genesis = records[0]
    assert isinstance(genesis, Genesis)
    sources = per_source(genesis, records, result)
    frontier = result.credited + result.leased + result.free
    due = mixture_of(genesis_spec(genesis), changes(records)).reached(frontier)
    for source, rows in zip(sources, due, strict=True):
        had = source.consumed + source.leased + source.returned
        _demand(had == rows, f"S4: {source.name} gave {had} samples of {rows} that were due")


def _amended(swarm: SimSwarm, records: list[AnyRecord], counts: Counter[str]) -> None:
    """Whoever has read the whole journal follows the same settings."""
    spec = current_spec(records)
    followers = [(n.label, n.agent.node.follower) for n in swarm.nodes.values() if n.agent]
    specs = [(name, f.spec) for name, f in followers if f.journal.length == len(records)]
    if swarm.coordinator is not None and swarm.coordinator.journal.length == len(records):
        specs.append(("the coordinator", swarm.coordinator.state.spec))
    for name, held in specs:
        _demand(held == spec, f"A1: {name} has another spec than the journal")
        counts["A1"] += 1
    counts["amended"] += sum(isinstance(r, Amend) for r in records)


def _members(records: list[AnyRecord], counts: Counter[str]) -> None:
    joined: set[str] = set()
    stays: set[tuple[str, int]] = set()
    for record in records:
        if isinstance(record, Join):
            joined.add(record.node)
        elif isinstance(record, Gen):
            stays.add((record.node, record.generation))
        elif isinstance(record, Commit):
            for c in record.contributors:
                stay = (c.node, c.generation) in stays
                _demand(stay, f"S6: round {record.round} credits a stay that was never opened")
                counts["S6"] += 1
            for node in [*(c.node for c in record.contributors), *(v.node for v in record.votes)]:
                _demand(node in joined, f"S7: round {record.round} names a stranger")
                counts["S7"] += 1


def _arithmetic(swarm: SimSwarm, records: list[AnyRecord], counts: Counter[str]) -> None:
    genesis = records[0]
    assert isinstance(genesis, Genesis)
    findings = Findings()
    disks = [node.disk for node in swarm.nodes.values()]
    try:
        check_chain(genesis.run, records, findings)
        recompute(records, genesis, disks, findings)
    except Violation as violation:
        raise BrokenInvariant(f"S5: {violation}") from None
    counts["E1"] += findings.evaluations
    counts["S5"] += findings.steps_recomputed
    counts["S5r"] += findings.reductions_recomputed
    counts["rounds"] += findings.commits
    counts["abandoned"] += findings.abandoned


def _evictions(swarm: SimSwarm, harms: list[Harm], counts: Counter[str]) -> None:
    labels: dict[str, str] = {node.node: node.label for node in swarm.nodes.values()}
    for at_s, event in swarm.told:
        if isinstance(event, RunFinished):
            return  # from here on everybody goes
        if not isinstance(event, GenerationClosed) or event.reason.startswith("left: "):
            continue  # its own decision: nobody put it out
        label = labels.get(event.node, "?")
        # A coordinator that dies, or a link that is cut, between logging a stay and telling its
        # peer of it: when they meet again, that peer has never begun the stay.
        begun = event.reason != NEVER_BEGAN
        suspects = {label} if begun else {label, ""}
        causes = [h for h in harms if h.node in suspects and not (begun and h.kind == CUT)]
        explained = any(h.start_s <= at_s <= h.stop_s + AFTERMATH_S for h in causes)
        _demand(explained, f"L4: {label} was put out at {at_s:.1f} s ({event.reason})")
        counts["L4"] += 1
