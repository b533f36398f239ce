"""The real coordinator's state in the words of the model."""

from __future__ import annotations

from typing import Any

import book_model
import coordinator_model as model

from farflung.config.run import RunSpec
from farflung.network.messages import Ready
from farflung.swarm import ranges, state
from farflung.swarm.ledger import Ledger
from farflung.swarm.records import Ranges


def rows(found: Ranges) -> frozenset[int]:
    return frozenset(p for start, stop in found for p in range(start, stop))


def in_order(found: Ranges) -> tuple[int, ...]:
    return tuple(p for start, stop in found for p in range(start, stop))


def book(ledger: Ledger) -> book_model.Book:
    return book_model.Book(
        frontier=ledger.frontier,
        free=rows(ledger.free),
        credited=rows(ledger.credited),
        held=_pairs({k: in_order(v) for k, v in ledger.held.items() if ranges.count(v)}),
        claims=_pairs({(k, r): rows(v) for k, c in ledger.claims.items() for r, v in c}),
        frozen=_pairs(ledger.frozen),
        closing=ledger.closing,
    )


def behind(message: Ready, spec: RunSpec) -> int:
    """Rows behind a contribution; 0 when there is none."""
    return message.tokens // spec.data.seq_len if message.commitment else 0


def coordinator(real: state.State) -> model.Coordinator:
    return model.Coordinator(
        term=real.term,
        nodes=_pairs({name: _node(n) for name, n in real.nodes.items()}),
        book=book(real.ledger),
        since=_pairs(real.since),
        rounds=_pairs({number: _round(real, r) for number, r in real.rounds.items()}),
        next_round=real.next_round,
        committed=real.committed,
        hashes=tuple(real.fragment_hashes),
    )


def plain(c: model.Coordinator) -> model.Coordinator:
    """Without empty entries, which mean nothing."""
    return c._replace(book=c.book._replace(held=tuple((k, v) for k, v in c.book.held if v)))


def _pairs(found: Any) -> book_model.Pairs:
    return tuple(sorted(found.items(), key=lambda pair: pair[0]))


def _node(node: state.Node) -> model.Node:
    return model.Node(
        trains=node.trains, generation=node.generation, open=node.open, link=node.link.value
    )


def _round(real: state.State, round_: state.Round) -> model.Round:
    return model.Round(
        planned=frozenset(round_.planned.items()),
        ready=_pairs({n: (m.generation, behind(m, real.spec)) for n, m in round_.ready.items()}),
        attempts=round_.attempts,
        excluded=round_.excluded,
        trial=_trial(real, round_.trial) if round_.trial else None,
    )


def _trial(real: state.State, trial: state.Trial) -> model.Trial:
    message, verdict = trial.message, trial.verdict
    return model.Trial(
        attempt=message.attempt,
        candidates=tuple((c.node, c.generation) for c in message.candidates),
        weights=tuple(trial.weights[n] // real.spec.data.seq_len for n in trial.candidates),
        members=frozenset(m.node for m in message.members),
        owners=tuple(s.owner for s in message.slices),
        statistics=frozenset(trial.statistics),
        included=tuple(i.node for i in verdict.included) if verdict else (),
        results=_pairs(trial.results),
        votes=_pairs({n: (v.bytes_root, v.fragment_hash) for n, v in trial.votes.items()}),
    )
