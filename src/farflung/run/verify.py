"""The offline checker: recompute a run from its journal, logs and recorded bytes.

Reads a folder and everything below it; asks no process. It says which of three depths it reached
(docs/protocol.md): the journal alone, the outer step from recorded results, the
reduction from recorded contributions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from farflung.averaging.reduce import reduce_slice
from farflung.checkpoint.blob_store import BlobStore
from farflung.checkpoint.input_log import attempt_name, input_path
from farflung.checkpoint.round_log import RoundLog
from farflung.checkpoint.snapshot import decode_manifest
from farflung.config.run import ARITHMETIC_VERSION
from farflung.disk import Disk, RealDisk
from farflung.errors import CorruptState, FarflungError, ProtocolError, UserError
from farflung.events import Applied, RoundCommitted, Voted, read_events
from farflung.hashing import digest, merkle_root
from farflung.network.messages import Included
from farflung.outer.layout import Layout
from farflung.peer.bootstrap import install
from farflung.peer.follower import slice_lengths
from farflung.peer.outer_state import OuterState
from farflung.run.assemble import read_journal
from farflung.run.source_figures import SourceFigures, per_source, wrong_change
from farflung.swarm.course import check_course
from farflung.swarm.identity import node_id_of, verify_vote
from farflung.swarm.journal import Journal
from farflung.swarm.ledger import audit
from farflung.swarm.lineage import descent
from farflung.swarm.records import (
    Abandon,
    AnyRecord,
    Close,
    Commit,
    Evaluation,
    Genesis,
    Join,
    Lease,
    Term,
)
from farflung.swarm.replay import genesis_spec
from farflung.swarm.votes import vote_body

JOURNAL = "journal.bin"
Progress = Callable[[int, int], None]
"""(rounds done, rounds in all)."""


class Violation(FarflungError):
    """The run breaks a promise; the message is one sentence."""


@dataclass
class Findings:
    """What was checked, in numbers."""

    journals: int = 0
    records: int = 0
    terms: int = 0
    commits: int = 0
    abandoned: int = 0
    evaluations: int = 0
    amended: int = 0
    descent: str = ""
    """What the run began with; empty: fresh weights."""
    signatures: int = 0
    steps_recomputed: int = 0
    reductions_recomputed: int = 0
    slices_without_inputs: int = 0
    events_compared: int = 0
    duplicated: int = 0
    lost: int = 0
    partial: int = 0
    credited: int = 0
    sources: list[SourceFigures] = field(default_factory=list)
    """Of the samples, one for each source of the mixture."""
    missing_results: list[int] = field(default_factory=list)


def verify_folder(folder: Path, progress: Progress | None = None) -> Findings:
    """Check everything below `folder`. Raises Violation, or UserError when nothing is there."""
    paths = sorted(folder.rglob(JOURNAL))
    if not paths:
        raise UserError(
            f"{folder} holds no {JOURNAL}; give the --out folder of a demo or a run's home"
        )
    statements = _statements(folder)
    findings = Findings(journals=len(paths))
    journal = _longest(paths)
    records = list(journal.records())
    findings.records = len(records)
    if not records:
        raise Violation(f"no journal below {folder} holds a whole record")
    genesis = records[0]
    assert isinstance(genesis, Genesis)
    if genesis.arithmetic != ARITHMETIC_VERSION:
        raise UserError(
            f"the run has arithmetic version {genesis.arithmetic}, this farflung "
            f"{ARITHMETIC_VERSION}; verify it with the version that made it"
        )
    findings.descent = descent(genesis.ancestors)
    check_chain(genesis.run, records, findings)
    _check_ledger(records, genesis, findings)
    recompute(records, genesis, [RealDisk(p.parent) for p in paths], findings, progress)
    _compare_events(statements, records, findings)
    return findings


def _open(path: Path) -> Journal:
    """From a copy in memory: opening cuts a torn tail, and a checker must change no file."""
    try:
        return read_journal(path)
    except CorruptState as error:
        raise Violation(f"{path}: {error}") from None


def _longest(paths: list[Path]) -> Journal:
    """The longest journal; every other one must be a prefix of it."""
    journals = [(path, _open(path)) for path in paths]
    _, longest = max(journals, key=lambda pair: pair[1].length)
    for path, journal in journals:
        if longest.hash_at(journal.length) != journal.head:
            raise Violation(f"{path} forks from the other journals of this run")
    return longest


# ---- the journal alone ---------------------------------------------------------------------


def check_chain(run: str, records: list[AnyRecord], findings: Findings) -> None:
    """Terms, members' keys, rounds in order, divisors, votes, amendments. Raises Violation."""
    term, next_round, evaluations = 0, 0, 0
    keys: dict[str, bytes] = {}
    for record in records:
        match record:
            case Term():
                if record.term <= term:
                    raise Violation(f"term {record.term} follows term {term}; terms must rise")
                term = record.term
                findings.terms += 1
            case Join():
                if node_id_of(record.public_key) != record.node:
                    raise Violation(f"member {record.node[:8]} has another node's key")
                keys[record.node] = record.public_key
            case Commit() | Abandon():
                if record.round != next_round:
                    raise Violation(f"round {record.round} is resolved where {next_round} is due")
                next_round += 1
                if isinstance(record, Commit):
                    _check_commit(run, record, keys, findings)
                findings.abandoned += isinstance(record, Abandon)
            case Evaluation():
                if record.serial != evaluations or record.node not in keys:
                    raise Violation(f"evaluation {record.serial} is out of turn, or a stranger's")
                evaluations += 1
                findings.evaluations += 1
            case _:
                pass
    try:
        findings.amended = check_course(records)
    except ProtocolError as error:
        raise Violation(str(error)) from None


def _check_commit(run: str, commit: Commit, keys: dict[str, bytes], findings: Findings) -> None:
    findings.commits += 1
    if commit.divisor != sum(c.tokens for c in commit.contributors) or commit.divisor <= 0:
        raise Violation(f"round {commit.round}: the divisor is not the sum of the weights")
    if merkle_root([s.hash for s in commit.slices]) != commit.bytes_root:
        raise Violation(f"round {commit.round}: the slices do not make up the bytes root")
    for vote in commit.votes:
        body = vote_body(
            run, commit.term, commit.round, commit.attempt, vote.bytes_root, vote.fragment_hash
        )
        key = keys.get(vote.node)
        if key is None or not verify_vote(key, body, vote.signature):
            raise Violation(f"round {commit.round}: the vote of {vote.node[:8]} is not signed")
        if (vote.bytes_root, vote.fragment_hash) != (commit.bytes_root, commit.fragment_hash):
            raise Violation(f"round {commit.round}: a recorded vote differs from the commit")
        findings.signatures += 1
    if not commit.votes:
        raise Violation(f"round {commit.round} was committed without a vote")


def _check_ledger(records: list[AnyRecord], genesis: Genesis, findings: Findings) -> None:
    if wrong := wrong_change(genesis, records):
        raise Violation(wrong)
    result = audit(records)
    findings.sources = per_source(genesis, records, result)
    findings.credited = result.credited
    findings.duplicated, findings.lost = result.duplicated, result.lost
    findings.partial = _partial(records, len(genesis.fragment_hashes))
    if result.duplicated:
        raise Violation(f"{result.duplicated} samples were credited more than once")
    if result.unleased:
        raise Violation(
            f"{result.unleased} samples were credited to a peer that did not lease them"
        )
    if result.lost:
        raise Violation(f"{result.lost} samples are neither credited nor leased nor free")


def _partial(records: list[AnyRecord], fragments: int) -> int:
    """Credited samples that a closed stay left in some fragments only."""
    since: dict[tuple[str, int], list[int]] = {}
    partial = 0
    for record in records:
        if isinstance(record, Commit):
            for c in record.contributors:
                rows = sum(stop - start for start, stop in c.credited)
                counts = since.setdefault((c.node, c.generation), [0] * fragments)
                for f in range(fragments):
                    counts[f] = 0 if f == record.fragment else counts[f] + rows
        elif isinstance(record, Close):
            partial += max(since.pop((record.node, record.generation), [0]))
    return partial


# ---- recorded bytes ------------------------------------------------------------------------


def recompute(
    records: list[AnyRecord],
    genesis: Genesis,
    disks: Sequence[Disk],
    findings: Findings,
    progress: Progress | None = None,
) -> None:
    """Every outer step from genesis on, and the reductions whose inputs were recorded.

    Stops at the first round whose result no disk holds. Raises Violation.
    """
    state = _genesis_state(genesis, disks)
    commits = [r for r in records if isinstance(r, Commit)]
    fragments = {r.round: r.fragment for r in records if isinstance(r, Lease)}
    for done, commit in enumerate(commits, 1):
        if fragments.get(commit.round) != commit.fragment:
            raise Violation(f"round {commit.round} committed another fragment than was planned")
        results = _results(state, commit, disks)
        if results is None:
            findings.missing_results.append(commit.round)
            return  # without these bytes nothing after them can be recomputed
        _check_reduction(state, commit, results, disks, findings)
        _check_step(state, commit, results)
        findings.steps_recomputed += 1
        if progress is not None:
            progress(done, len(commits))


def _genesis_state(genesis: Genesis, disks: Sequence[Disk]) -> OuterState:
    spec = genesis_spec(genesis)
    state = OuterState(Layout.from_json(genesis.layout), spec.outer)
    for disk in disks:
        store = BlobStore(disk)
        data = store.get(genesis.snapshot)
        if data is None or digest(data) != genesis.snapshot:
            continue
        try:
            install(state, decode_manifest(data, genesis.run), store)
        except CorruptState as error:
            raise Violation(f"the genesis snapshot is damaged: {error}") from None
        if tuple(state.hashes) != genesis.fragment_hashes:
            raise Violation("the genesis weights are not those of GENESIS")
        return state
    raise UserError("no genesis snapshot in this folder; verify the host's home, which keeps it")


def _results(state: OuterState, commit: Commit, disks: Sequence[Disk]) -> list[bytes] | None:
    """From the first holder; every other holder's copy must be intact too."""
    lengths, hashes = slice_lengths(state, commit), [s.hash for s in commit.slices]
    found: list[bytes] | None = None
    for disk in disks:
        log = RoundLog(disk)
        if not log.has(hashes):
            continue
        copy = log.load(hashes, lengths)
        if copy is None:
            raise Violation(f"round {commit.round}: the result kept in {disk} is damaged")
        found = found or copy
    return found


def _check_step(state: OuterState, commit: Commit, results: list[bytes]) -> None:
    if state.hashes[commit.fragment] != commit.base_hash:
        raise Violation(f"round {commit.round} does not start from the state before it")
    if state.rounds[commit.fragment] != commit.base_round:
        raise Violation(f"round {commit.round} names base round {commit.base_round}")
    new = state.stepped(commit, results)
    state.write(commit.fragment, new)
    state.hashes[commit.fragment], state.rounds[commit.fragment] = new.hash, commit.round
    if new.hash != commit.fragment_hash:
        raise Violation(f"round {commit.round}: the recomputed fragment differs from the commit")
    if state.root != commit.state_root:
        raise Violation(f"round {commit.round}: the recomputed state root differs")


def _check_reduction(
    state: OuterState,
    commit: Commit,
    results: list[bytes],
    disks: Sequence[Disk],
    findings: Findings,
) -> None:
    """With `--record all`: the weighted mean itself, from the contributions."""
    grid = state.grid(commit.fragment)
    included = [Included(node=c.node, weight=c.tokens, clip=c.clip) for c in commit.contributors]
    hashes: dict[str, list[bytes]] = {c.node: [] for c in commit.contributors}
    for index, place in enumerate(commit.slices):
        inputs: dict[str, list[memoryview]] = {}
        for c in commit.contributors:
            path = input_path(
                attempt_name(commit.round, commit.term, commit.attempt), index, c.node
            )
            data = _input(disks, path)
            if data is None:
                findings.slices_without_inputs += 1
                return
            inputs[c.node] = grid.split(memoryview(data), place.first, place.stop)
            hashes[c.node] += [digest(chunk) for chunk in inputs[c.node]]
        reduced = reduce_slice(grid, place.first, inputs, included, commit.divisor)
        if b"".join(reduced) != results[index]:
            raise Violation(
                f"round {commit.round}: slice {index} of {place.owner[:8]} is not the mean of "
                f"its contributions"
            )
        findings.reductions_recomputed += 1
    for c in commit.contributors:
        if merkle_root(hashes[c.node]) != c.commitment:
            raise Violation(
                f"round {commit.round}: {c.node[:8]} sent other bytes than it committed to"
            )


def _input(disks: Sequence[Disk], path: str) -> bytes | None:
    return next((d for disk in disks if (d := disk.read(path)) is not None), None)


# ---- event logs ----------------------------------------------------------------------------


def _statements(folder: Path) -> list[tuple[Path, Applied | Voted | RoundCommitted]]:
    """What every process said, read before the journals: a run may go on meanwhile, and a node
    journals a round before it speaks of it."""
    found: list[tuple[Path, Applied | Voted | RoundCommitted]] = []
    for path in sorted(folder.rglob("events*.jsonl")):
        with path.open("rb") as file:
            for _, event in read_events(file):
                if isinstance(event, Applied | Voted | RoundCommitted):
                    found.append((path, event))
    return found


def _compare_events(
    statements: list[tuple[Path, Applied | Voted | RoundCommitted]],
    records: list[AnyRecord],
    findings: Findings,
) -> None:
    """What every process said it applied must be what the journal says."""
    commits = {r.round: r for r in records if isinstance(r, Commit)}
    for path, event in statements:
        if not isinstance(event, Voted):
            _compare_root(path, event.round, event.state_root, commits)
        elif event.round in commits:
            commit = commits[event.round]
            same = event.fragment_hash == commit.fragment_hash.hex()
            tried = (event.term, event.attempt) == (commit.term, commit.attempt)
            if tried and not same:  # attempts count from 1 again under a new term
                raise Violation(f"{path}: voted for another fragment in {event.round}")
        findings.events_compared += 1


def _compare_root(path: Path, round_: int, root: str, commits: dict[int, Commit]) -> None:
    commit = commits.get(round_)
    if commit is None:
        raise Violation(f"{path}: round {round_} was applied but is not in the journal")
    if root != commit.state_root.hex():
        raise Violation(f"{path}: the state after round {round_} differs from the journal")
