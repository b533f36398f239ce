"""What journal records add to the fold: rounds, credit, tokens, stays, evaluations. They hold no
times, and survive every restart of the host."""

from __future__ import annotations

from farflung.monitor import inert
from farflung.monitor.columns import ABANDONED, COMMITTED
from farflung.monitor.evaluations import Score
from farflung.monitor.flops import model_flops
from farflung.monitor.fold import NAN, Fold
from farflung.monitor.timelines import JOURNAL
from farflung.outer.layout import Layout
from farflung.swarm import ranges
from farflung.swarm.amendments import amended_by
from farflung.swarm.lineage import descent
from farflung.swarm.records import (
    Abandon,
    Admin,
    Amend,
    AnyRecord,
    Close,
    Commit,
    Contributor,
    Evaluation,
    Gen,
    Genesis,
    Join,
    Lease,
    Term,
)
from farflung.swarm.replay import genesis_spec
from farflung.swarm.resolve import fp32_value, shown_tokens


def take_record(fold: Fold, record: AnyRecord) -> None:
    """Raises ConfigError for a spec of another version."""
    fold.sources.read(record)
    match record:
        case Genesis():
            _genesis(fold, record)
        case Amend():
            fold.spec = amended_by(fold.spec, record)
            fold.rounds_wanted = fold.spec.outer.rounds
            fold.standing.reopen(NAN)
        case Term():
            fold.term = record.term
        case Join() | Gen() | Close():
            _membership(fold, record)
        case Lease():
            _lease(fold, record)
        case Commit():
            _commit(fold, record)
        case Abandon():
            fold.resolve(record.round, ABANDONED, JOURNAL)
        case Evaluation():
            _evaluation(fold, record)
        case Admin():
            _admin(fold, record)
        case _:
            pass


def _genesis(fold: Fold, record: Genesis) -> None:
    fold.journalled = True
    fold.spec = genesis_spec(record)
    fold.run, fold.name = record.run, inert.name(fold.spec.name)
    fold.parameters = Layout.from_json(record.layout).size
    fold.flops = model_flops(fold.spec, fold.parameters)
    fold.rounds_wanted = fold.spec.outer.rounds
    fold.descent = inert.sentence(descent(record.ancestors))


def _membership(fold: Fold, record: Join | Gen | Close) -> None:
    match record:
        case Join():
            row = fold.peer(record.node, record.name)
            row.role = record.role
            row.expected = True
            row.region = fold.region(record.region) or row.region
        case Gen():
            row = fold.peer(record.node)
            row.stay(record.generation).open = True
            row.suspect = row.banned = ""
        case Close():
            stay = fold.peer(record.node).stay(record.generation)
            stay.open, stay.why = False, inert.sentence(record.reason)


def _lease(fold: Fold, record: Lease) -> None:
    found = fold.round(record.round, JOURNAL)
    if found is not None:
        found.fragment = record.fragment
        for grant in record.grants:
            found.part(grant.node)


def _commit(fold: Fold, record: Commit) -> None:
    found = fold.resolve(record.round, COMMITTED, JOURNAL)
    tokens = sum(_credit(fold, one) for one in record.contributors)
    fold.tokens += tokens
    fold.columns.set(record.round, tokens=tokens, peers=len(record.contributors))
    fold.state_root = record.state_root.hex()
    fold.replicated = len(record.holders) >= 2
    fold.rejected += len(record.rejected)
    why = {one.node: inert.sentence(one.reason) for one in record.rejected}
    for node in why:
        fold.peer(node).strikes += 1
    if found is not None:
        found.fragment = record.fragment
        found.attempts = max(found.attempts, record.attempt)
        found.settle((one.node for one in record.contributors), why)
    fold.links.own(record.round, [(s.owner, s.stop - s.first) for s in record.slices])
    fold.links.step = fold.step


def _credit(fold: Fold, given: Contributor) -> int:
    """Rows that are newly credited go to whom they are credited to. Returns tokens."""
    rows = ranges.count(given.credited)
    tokens = shown_tokens(given, fold.spec.data.seq_len)
    row = fold.peer(given.node)
    row.rounds += 1
    row.steps += rows // fold.spec.inner.batch_rows
    row.samples += rows
    row.tokens += tokens
    return tokens


def _evaluation(fold: Fold, record: Evaluation) -> None:
    measured = Score(
        serial=record.serial,
        round=record.next_round,
        bits_per_byte=fp32_value(record.bits_per_byte),
        nats_per_token=fp32_value(record.nats_per_token),
        by=fold.name_of(record.node),
        samples=tuple((inert.sample(d.prompt), inert.sample(d.text)) for d in record.samples),
        step=fold.step,
    )
    fold.evaluations.add(measured)


def _admin(fold: Fold, record: Admin) -> None:
    match record.action:
        case "finish":
            fold.standing.finish(NAN)
        case "kick" | "ban" if record.node:
            why = f"{record.action} by the host: {record.reason}"
            fold.peer(record.node).banned = inert.sentence(why)
        case _:
            pass
