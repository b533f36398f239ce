"""The ledger: every position in one place, credited once, whatever joins, leaves or dies."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from swarm_samples import commit

from farflung.errors import ProtocolError
from farflung.swarm import ranges
from farflung.swarm.ledger import Ledger, audit
from farflung.swarm.records import (
    Abandon,
    AnyRecord,
    Close,
    Commit,
    Contributor,
    Grant,
    Lease,
    Ranges,
    Return,
    Term,
)

NODES = ("a", "b", "c")


def durable(ledger: Ledger) -> tuple[object, ...]:
    """What a replay must rebuild: held in grant order, without holders that hold nothing."""
    held = {k: tuple(v) for k, v in ledger.held.items() if ranges.count(v)}
    return ledger.frontier, ledger.free, ledger.credited, held


def lease(round_: int, node: str, generation: int, what: Ranges) -> Lease:
    grant = Grant(node=node, generation=generation, ranges=what)
    return Lease(round=round_, term=1, fragment=0, grants=(grant,))


def opened(round_: int) -> Lease:
    """A round's plan that needs no new positions."""
    return Lease(round=round_, term=1, fragment=0, grants=())


def abandoned(round_: int) -> Abandon:
    return Abandon(term=1, round=round_, fragment=0, reason="nobody")


def closed(node: str, generation: int, freed: Ranges = ()) -> Close:
    return Close(node=node, generation=generation, reason="left", freed=freed)


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


def test_a_grant_of_nothing_changes_no_position_and_the_frontier_never_moves_back() -> None:
    ledger, _ = Ledger(4).grant("a", 1, 8)
    after, nothing = ledger.grant("a", 1, 0)
    assert (nothing, after.frontier, after.leased("a", 1)) == ((), 8, ((0, 8),))
    with pytest.raises(AssertionError, match="rows=-1"):
        ledger.grant("a", 1, -1)


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
    result = audit(honest)
    assert (result.duplicated, result.lost, result.credited, result.leased) == (0, 0, 4, 4)
    twice = audit([*honest, committed(1, [("a", 1, ((3, 8),))])])
    assert twice.duplicated == 1
    hole = audit([*honest, lease(1, "a", 1, ((10, 14),))])
    assert hole.lost == 2


def test_the_audit_finds_a_loss_that_a_credit_beyond_the_frontier_would_balance() -> None:
    result = audit([lease(0, "a", 1, ((4, 8),)), committed(0, [("a", 1, ((4, 8), (90, 94)))])])
    assert (result.lost, result.unleased) == (4, 4)


def test_the_audit_counts_what_was_credited_to_somebody_without_the_lease() -> None:
    records: list[AnyRecord] = [lease(0, "a", 1, ((0, 8),)), committed(0, [("b", 1, ((0, 4),))])]
    assert audit(records).unleased == 4


def test_the_audit_finds_what_a_closed_stay_never_returned() -> None:
    """Leases in an open attempt may wait for its round's end, and for the crash after it."""
    records: list[AnyRecord] = [lease(0, "a", 1, ((0, 8),)), closed("a", 1, ((4, 8),))]
    assert audit(records).lost == 0
    records += [abandoned(0), Term(term=2)]
    assert audit(records).lost == 0
    returned = Return(node="a", generation=1, ranges=((0, 4),))
    assert audit([*records, returned, opened(1)]).lost == 0
    assert audit([*records, opened(1)]).lost == 4


def test_the_audit_finds_a_lease_to_a_stay_that_had_ended() -> None:
    records: list[AnyRecord] = [opened(0), closed("a", 1), abandoned(0), opened(1)]
    assert audit([*records, lease(2, "a", 1, ((0, 4),))]).lost == 4
    assert audit([*records, lease(2, "a", 2, ((0, 4),))]).lost == 0


# ---- all rules in any order ----------------------------------------------------------------


class LedgerMachine(RuleBasedStateMachine):
    """Rounds resolve in order, two are open; claims are cumulative, as READY sends them."""

    rows_credited = 0
    """Over all examples: without credits the machine would prove little."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(4)
        self.records: list[AnyRecord] = [opened(0), opened(1)]
        self.generation = dict.fromkeys(NODES, 1)
        self.round = 0
        self.attempt: dict[int, list[tuple[str, int]]] = {}
        self.credited: set[int] = set()

    @rule(node=st.sampled_from(NODES), rows=st.integers(1, 10))
    def grant(self, node: str, rows: int) -> None:
        generation = self.generation[node]
        self.ledger, what = self.ledger.grant(node, generation, rows)
        assert ranges.count(what) >= rows
        assert ranges.count(what) % 4 == 0
        self.records.append(lease(self.round + 1, node, generation, what))

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

    @rule(node=st.sampled_from(NODES), rows=st.integers(1, 10), more=st.integers(1, 6))
    def work(self, node: str, rows: int, more: int) -> None:
        self.grant(node, rows)
        self.train(node, more, 0)

    @rule(which=st.sets(st.sampled_from(NODES), min_size=1), ahead=st.integers(0, 1))
    def freeze(self, which: set[str], ahead: int) -> None:
        """A new attempt of a round: the older one is over."""
        self._thaw(self.round + ahead)
        holders = [(n, self.generation[n]) for n in sorted(which)]
        self.attempt[self.round + ahead] = holders
        self.ledger = self.ledger.freeze(self.round + ahead, holders)

    @precondition(lambda self: self.round in self.attempt)
    @rule()
    def fail_attempt(self) -> None:
        self._thaw(self.round)

    @precondition(lambda self: self.round in self.attempt)
    @rule()
    def credit(self) -> None:
        credits: list[tuple[str, int, Ranges]] = []
        for node, generation in self.attempt[self.round]:
            self.ledger, done = self.ledger.credit(self.round, node, generation)
            credits.append((node, generation, done))
            new = {p for start, stop in done for p in range(start, stop)}
            assert not new & self.credited
            self.credited |= new
            LedgerMachine.rows_credited += len(new)
        self._resolve(committed(self.round, credits))

    @rule(which=st.sets(st.sampled_from(NODES), min_size=1), rows=st.integers(1, 10))
    def average(self, which: set[str], rows: int) -> None:
        """A round as it should be; what an open attempt holds is left as it is."""
        for node in sorted(which):
            self.work(node, rows, rows)
        self.freeze(which, 0)
        self.credit()

    @rule()
    def abandon(self) -> None:
        self._resolve(abandoned(self.round))

    def _resolve(self, record: Commit | Abandon) -> None:
        self.records.append(record)
        self._thaw(self.round)
        self.round += 1
        self.records.append(opened(self.round + 1))

    def _thaw(self, round_: int) -> None:
        self.attempt.pop(round_, None)
        self.ledger, freed = self.ledger.thaw(round_)
        self.records += [Return(node=n, generation=g, ranges=what) for n, g, what in freed]

    @rule(node=st.sampled_from(NODES))
    def close(self, node: str) -> None:
        generation = self.generation[node]
        self.ledger, freed = self.ledger.close(node, generation)
        self.records.append(closed(node, generation, freed))
        self.generation[node] += 1

    @rule()
    def restart_the_coordinator(self) -> None:
        """Claims and attempts are forgotten; what ended stays still hold is returned."""
        ledger = self._replayed()
        for (node, generation), held in sorted(ledger.held.items()):
            if held and generation < self.generation[node]:
                what = ranges.normalise(held)
                record = Return(node=node, generation=generation, ranges=what)
                ledger = ledger.apply(record)
                self.records.append(record)
        self.ledger = ledger
        self.attempt.clear()

    def _replayed(self) -> Ledger:
        ledger = Ledger(4)
        for record in self.records:
            ledger = ledger.apply(record)
        return ledger

    @invariant()
    def every_position_is_in_exactly_one_place(self) -> None:
        places = [self.ledger.free, self.ledger.credited, *self.ledger.held.values()]
        assert sum(ranges.count(p) for p in places) == self.ledger.frontier
        everything = ranges.normalise(r for place in places for r in place)
        assert everything == (((0, self.ledger.frontier),) if self.ledger.frontier else ())

    @invariant()
    def a_replay_of_the_records_agrees(self) -> None:
        assert durable(self._replayed()) == durable(self.ledger)

    @invariant()
    def the_audit_agrees(self) -> None:
        result = audit(self.records)
        assert (result.duplicated, result.lost, result.unleased) == (0, 0, 0)
        assert result.credited == ranges.count(self.ledger.credited) == len(self.credited)
        assert result.free == ranges.count(self.ledger.free)

    @invariant()
    def what_is_pending_is_held(self) -> None:
        for key in self.ledger.claims:
            pending = self.ledger.pending(*key, self.round + 1)
            assert ranges.contains(self.ledger.held.get(key, ()), pending)

    @invariant()
    def only_an_open_attempt_holds_leases_of_an_ended_stay(self) -> None:
        frozen = {key for holders in self.attempt.values() for key in holders}
        for (node, generation), held in self.ledger.held.items():
            if held and generation < self.generation[node]:
                assert (node, generation) in frozen


def test_the_ledger_under_any_order_of_events() -> None:
    LedgerMachine.rows_credited = 0
    few = settings(max_examples=50, stateful_step_count=30, deadline=None)
    run_state_machine_as_test(LedgerMachine, settings=few)
    assert LedgerMachine.rows_credited > 50


def test_the_ledger_is_a_value() -> None:
    ledger = Ledger(4)
    ledger.grant("a", 1, 4)
    assert ledger == replace(ledger)
    assert ledger.frontier == 0
