"""The ledger: every position in one place, credited once, whatever joins, leaves or dies."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from swarm_samples import commit

from farflung.errors import ProtocolError
from farflung.swarm import ranges
from farflung.swarm.ledger import Ledger, audit
from farflung.swarm.records import (
    AnyRecord,
    Close,
    Commit,
    Contributor,
    Grant,
    Lease,
    Ranges,
    Return,
)

NODES = ("a", "b", "c")


def durable(ledger: Ledger) -> tuple[object, ...]:
    """What a replay must rebuild: held in grant order, without holders that hold nothing."""
    held = {k: tuple(v) for k, v in ledger.held.items() if ranges.count(v)}
    return ledger.frontier, ledger.free, ledger.credited, held


def lease(round_: int, node: str, generation: int, what: Ranges) -> Lease:
    grant = Grant(node=node, generation=generation, ranges=what)
    return Lease(round=round_, term=1, fragment=0, grants=(grant,))


def committed(round_: int, credits: list[tuple[str, int, Ranges]]) -> Commit:
    example = commit()
    contributor = example.contributors[0]
    contributors = tuple(
        Contributor(
            node=node,
            generation=generation,
            credited=what,
            tokens=1,
            commitment=contributor.commitment,
            clip=contributor.clip,
            base_round=-1,
        )
        for node, generation, what in credits
    )
    fields = {f: getattr(example, f) for f in example.__struct_fields__}
    return Commit(**{**fields, "round": round_, "contributors": contributors})


# ---- one rule each -------------------------------------------------------------------------


def test_a_grant_is_whole_batches_and_takes_returned_positions_first() -> None:
    ledger, first = Ledger(4).grant("a", 1, 5)
    assert first == ((0, 8),)
    ledger, freed = ledger.close("a", 1)
    assert freed == ((0, 8),)
    ledger, second = ledger.grant("b", 1, 12)
    assert second == ((0, 8), (8, 12))
    assert ledger.frontier == 12


def test_only_a_prefix_of_the_lease_may_be_claimed() -> None:
    ledger, _ = Ledger(4).grant("a", 1, 8)
    assert ledger.train("a", 1, 0, ((0, 3),)).pending("a", 1, 0) == ((0, 3),)
    for wrong in (((1, 3),), ((0, 2), (3, 4)), ((0, 9),), ((100, 104),)):
        with pytest.raises(ProtocolError, match="not a prefix"):
            ledger.train("a", 1, 0, wrong)


def test_a_stranger_without_lease_can_claim_nothing() -> None:
    with pytest.raises(ProtocolError, match="not a prefix"):
        Ledger(4).train("a", 1, 0, ((0, 1),))


def test_a_claim_for_a_later_round_must_hold_the_earlier_ones() -> None:
    ledger, _ = Ledger(4).grant("a", 1, 8)
    ledger = ledger.train("a", 1, 0, ((0, 4),))
    with pytest.raises(ProtocolError, match="must hold the earlier"):
        ledger.train("a", 1, 1, ((0, 2),))
    assert ledger.train("a", 1, 1, ((0, 6),)).pending("a", 1, 1) == ((0, 6),)


def test_what_another_holder_got_credited_cannot_be_claimed_again() -> None:
    ledger, _ = Ledger(4).grant("a", 1, 4)
    ledger, _ = ledger.train("a", 1, 0, ((0, 4),)).credit(0, "a", 1)
    ledger, _ = ledger.grant("b", 1, 4)
    ledger = ledger.train("b", 1, 1, ((4, 8),))
    assert ledger.credit(1, "b", 1)[1] == ((4, 8),)


def test_credit_takes_the_claims_up_to_its_round_only() -> None:
    ledger, _ = Ledger(4).grant("a", 1, 8)
    ledger = ledger.train("a", 1, 0, ((0, 4),)).train("a", 1, 1, ((0, 7),))
    ledger, done = ledger.credit(0, "a", 1)
    assert done == ((0, 4),)
    assert ledger.pending("a", 1, 1) == ((4, 7),)
    assert ledger.untrained("a", 1) == ((7, 8),)


def test_claims_in_an_open_attempt_outlive_their_holder_until_the_attempt_is_over() -> None:
    ledger, _ = Ledger(4).grant("a", 1, 8)
    ledger = ledger.train("a", 1, 0, ((0, 4),)).freeze(0, [("a", 1)])
    ledger, freed = ledger.close("a", 1)
    assert freed == ((4, 8),)
    assert ledger.leased("a", 1) == ((0, 4),)
    ledger, returned = ledger.thaw(0)
    assert returned == (("a", 1, ((0, 4),)),)
    assert ledger.free == ((0, 8),)


def test_a_holder_that_died_after_delivering_is_credited() -> None:
    ledger, _ = Ledger(4).grant("a", 1, 8)
    ledger = ledger.train("a", 1, 0, ((0, 4),)).freeze(0, [("a", 1)])
    ledger, _ = ledger.close("a", 1)
    ledger, done = ledger.credit(0, "a", 1)
    assert done == ((0, 4),)
    ledger, returned = ledger.thaw(0)
    assert returned == ()
    assert ledger.free == ((4, 8),)


def test_claims_stay_frozen_while_any_attempt_has_them() -> None:
    ledger, _ = Ledger(4).grant("a", 1, 4)
    ledger = ledger.train("a", 1, 0, ((0, 4),)).freeze(0, [("a", 1)]).freeze(1, [("a", 1)])
    ledger, _ = ledger.close("a", 1)
    ledger, returned = ledger.thaw(0)
    assert returned == ()
    assert ledger.thaw(1)[1] == (("a", 1, ((0, 4),)),)


def test_crediting_a_position_twice_is_impossible() -> None:
    ledger, _ = Ledger(4).grant("a", 1, 4)
    record = committed(0, [("a", 1, ((0, 4),))])
    ledger = ledger.apply(record)
    with pytest.raises(AssertionError, match="credited twice"):
        ledger.apply(committed(1, [("a", 1, ((2, 3),))]))


def test_the_audit_counts_duplicates_and_losses_from_the_records_alone() -> None:
    honest: list[AnyRecord] = [lease(0, "a", 1, ((0, 8),)), committed(0, [("a", 1, ((0, 4),))])]
    result = audit(honest, 100)
    assert (result.duplicated, result.lost, result.credited, result.leased) == (0, 0, 4, 4)
    twice = audit([*honest, committed(1, [("a", 1, ((3, 8),))])], 100)
    assert twice.duplicated == 1
    hole = audit([*honest, lease(1, "a", 1, ((10, 14),))], 100)
    assert hole.lost == 2


# ---- all rules in any order ----------------------------------------------------------------


class LedgerMachine(RuleBasedStateMachine):
    """Rounds resolve in order; claims are cumulative, as READY sends them."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(4)
        self.records: list[AnyRecord] = []
        self.generation = dict.fromkeys(NODES, 1)
        self.round = 0
        self.attempt: dict[int, list[tuple[str, int]]] = {}

    @rule(node=st.sampled_from(NODES), rows=st.integers(1, 10))
    def grant(self, node: str, rows: int) -> None:
        generation = self.generation[node]
        self.ledger, what = self.ledger.grant(node, generation, rows)
        assert ranges.count(what) >= rows
        assert ranges.count(what) % 4 == 0
        self.records.append(lease(self.round, node, generation, what))

    @rule(node=st.sampled_from(NODES), more=st.integers(0, 6), ahead=st.integers(0, 1))
    def train(self, node: str, more: int, ahead: int) -> None:
        generation, round_ = self.generation[node], self.round + ahead
        if any((node, generation) in holders for holders in self.attempt.values()):
            return
        held = self.ledger.leased(node, generation)
        known = ranges.count(self.ledger.pending(node, generation, self.round + 1))
        claim, _ = ranges.take(held, known + more)
        self.ledger = self.ledger.train(node, generation, self.round + 1, claim)
        if not ahead:
            self.ledger = self.ledger.train(node, generation, round_, claim)

    @rule(which=st.sets(st.sampled_from(NODES), min_size=1), ahead=st.integers(0, 1))
    def freeze(self, which: set[str], ahead: int) -> None:
        holders = [(n, self.generation[n]) for n in sorted(which)]
        self.attempt[self.round + ahead] = holders
        self.ledger = self.ledger.freeze(self.round + ahead, holders)

    @rule()
    def fail_attempt(self) -> None:
        self._thaw()

    @precondition(lambda self: self.round in self.attempt)
    @rule()
    def credit(self) -> None:
        credits: list[tuple[str, int, Ranges]] = []
        for node, generation in self.attempt[self.round]:
            self.ledger, done = self.ledger.credit(self.round, node, generation)
            credits.append((node, generation, done))
        self.records.append(committed(self.round, credits))
        self._thaw()
        self.round += 1

    def _thaw(self) -> None:
        self.attempt.pop(self.round, None)
        self.ledger, freed = self.ledger.thaw(self.round)
        self.records += [Return(node=n, generation=g, ranges=what) for n, g, what in freed]

    @rule(node=st.sampled_from(NODES))
    def close(self, node: str) -> None:
        generation = self.generation[node]
        self.ledger, freed = self.ledger.close(node, generation)
        self.records.append(Close(node=node, generation=generation, reason="left", freed=freed))
        self.generation[node] += 1

    @invariant()
    def every_position_is_in_exactly_one_place(self) -> None:
        places = [self.ledger.free, self.ledger.credited, *self.ledger.held.values()]
        assert sum(ranges.count(p) for p in places) == self.ledger.frontier
        everything = ranges.normalise(r for place in places for r in place)
        assert everything == (((0, self.ledger.frontier),) if self.ledger.frontier else ())

    @invariant()
    def a_replay_of_the_records_agrees(self) -> None:
        again = Ledger(4)
        for record in self.records:
            again = again.apply(record)
        assert durable(again) == durable(self.ledger)

    @invariant()
    def the_audit_agrees(self) -> None:
        result = audit(self.records, 10**9)
        assert (result.duplicated, result.lost) == (0, 0)
        assert result.credited == ranges.count(self.ledger.credited)
        assert result.free == ranges.count(self.ledger.free)

    @invariant()
    def what_is_pending_is_held(self) -> None:
        for key in self.ledger.claims:
            pending = self.ledger.pending(*key, self.round + 1)
            assert ranges.contains(self.ledger.held.get(key, ()), pending)


LedgerMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
test_the_ledger_under_any_order_of_events = LedgerMachine.TestCase


def test_the_ledger_is_a_value() -> None:
    ledger = Ledger(4)
    ledger.grant("a", 1, 4)
    assert ledger == replace(ledger)
    assert ledger.frontier == 0
