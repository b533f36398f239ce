"""The coordinator's state as the journal tells it: what a restart starts from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from farflung.config.run import RunSpec, spec_from_bytes
from farflung.errors import CorruptState
from farflung.ids import Hash
from farflung.swarm import ranges
from farflung.swarm.amendments import amended_by, apply_amend
from farflung.swarm.ledger import Ledger
from farflung.swarm.records import (
    Abandon,
    Admin,
    Amend,
    AnyRecord,
    Close,
    Commit,
    Evaluation,
    Gen,
    Genesis,
    Join,
    Lease,
    Mix,
    Return,
    Term,
)
from farflung.swarm.resolve import apply_commit
from farflung.swarm.state import Node, Round, State


def genesis_spec(genesis: Genesis) -> RunSpec:
    """Raises ConfigError: an older journal may hold what this version no longer accepts."""
    return spec_from_bytes(genesis.spec, f"the spec in GENESIS of run {genesis.run}")


def current_spec(records: Iterable[AnyRecord]) -> RunSpec:
    """The spec as the journal's amendments have left it. Raises ConfigError, CorruptState."""
    spec: RunSpec | None = None
    for record in records:
        if isinstance(record, Genesis):
            spec = genesis_spec(record)
        elif isinstance(record, Amend) and spec is not None:
            spec = amended_by(spec, record)
    if spec is None:
        raise CorruptState("the journal does not begin with GENESIS")
    return spec


def replay(records: Iterable[AnyRecord], fragment_elements: tuple[int, ...], now_s: float) -> State:
    """State after the journal. Open stays are unknown for `restart_grace_s` from `now_s` on.

    Raises CorruptState when the journal does not begin with GENESIS.
    """
    stream = iter(records)
    genesis = next(stream, None)
    if not isinstance(genesis, Genesis):
        raise CorruptState("the journal does not begin with GENESIS")
    return replay_more(_initial(genesis, fragment_elements), stream, now_s)


def replay_more(state: State, records: Iterable[AnyRecord], now_s: float) -> State:
    """The state after further records."""
    for record in records:
        state = _apply(state, record, now_s)
    return state


def orphans(state: State) -> list[AnyRecord]:
    """Leases of closed stays that an attempt held when the former incarnation ended: its
    attempts are void, so they become free now."""
    found: list[AnyRecord] = []
    for (node, generation), held in sorted(state.ledger.held.items()):
        known = state.nodes[node]
        if held and not (known.open and known.generation == generation):
            found.append(Return(node=node, generation=generation, ranges=ranges.normalise(held)))
    return found


def _initial(genesis: Genesis, fragment_elements: tuple[int, ...]) -> State:
    spec = genesis_spec(genesis)
    return State(
        run=genesis.run,
        spec=spec,
        fragment_elements=fragment_elements,
        term=0,
        nodes={},
        ledger=Ledger(spec.inner.batch_rows),
        fragment_hashes=tuple(Hash(h) for h in genesis.fragment_hashes),
        fragment_rounds=(-1,) * len(genesis.fragment_hashes),
    )


def _apply(state: State, record: AnyRecord, now_s: float) -> State:
    match record:
        case Lease() | Commit() | Close() | Return():
            state = replace(state, ledger=state.ledger.apply(record))
        case _:
            pass
    match record:
        case Term():
            return replace(state, term=record.term)
        case Join():
            node = Node(
                node=record.node,
                name=record.name,
                region=record.region,
                role=record.role,
                public_key=record.public_key,
            )
            return replace(state, nodes={**state.nodes, record.node: node})
        case Gen():
            return _open(state, record, now_s)
        case Close():
            return _close(state, record)
        case Lease():
            return _planned(state, record, now_s)
        case Commit():
            rows = sum(ranges.count(c.credited) for c in record.contributors)
            tokens = state.tokens + rows * state.spec.data.seq_len
            return _drop(replace(apply_commit(state, record), tokens=tokens), record.round)
        case Abandon():
            return _drop(state, record.round)
        case Mix():
            return replace(state, mixes=(*state.mixes, record))
        case Admin():
            return replace(
                state,
                finished=state.finished or record.action == "finish",
                ended=state.ended or record.action == "end",
            )
        case Evaluation():
            return replace(state, evaluations=record.serial + 1, evaluated=record.committed)
        case Amend():
            return apply_amend(state, record)
        case _:
            return state


def _open(state: State, record: Gen, now_s: float) -> State:
    node = replace(
        state.nodes[record.node],
        generation=record.generation,
        open=True,
        gone_s=now_s,
        unknown_until_s=now_s + state.spec.swarm.restart_grace_s,
    )
    zeros = (0,) * len(state.fragment_hashes)
    return replace(
        state,
        nodes={**state.nodes, record.node: node},
        since={**state.since, (record.node, record.generation): zeros},
    )


def _close(state: State, record: Close) -> State:
    node = replace(state.nodes[record.node], open=False, unknown_until_s=0.0)
    since = {k: v for k, v in state.since.items() if k[0] != record.node}
    return replace(state, nodes={**state.nodes, record.node: node}, since=since)


def _planned(state: State, record: Lease, now_s: float) -> State:
    round_ = Round(
        number=record.round,
        fragment=record.fragment,
        opened_s=now_s,
        deadline_s=now_s + state.spec.swarm.round_s,
        planned={g.node: g.generation for g in record.grants},
        budgets={g.node: ranges.count(g.ranges) for g in record.grants},
    )
    return replace(
        state,
        rounds={**state.rounds, record.round: round_},
        next_round=record.round + 1,
    )


def _drop(state: State, number: int) -> State:
    return replace(state, rounds={r: v for r, v in state.rounds.items() if r != number})
