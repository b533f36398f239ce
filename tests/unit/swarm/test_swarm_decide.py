"""`decide` under random histories of fake peers, then one test for each rule."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from swarm_driver import Chaos, Driver, Peer, driver_spec, outcome, sums, vote_for
from swarm_samples import mark

from farflung.coordinator.awake_clock import AwakeClock
from farflung.errors import ProtocolError
from farflung.events import Event, PeerRecovered, StateReported
from farflung.hashing import merkle_root
from farflung.network.messages import Accuse, Attempt, Beat, Leave, Moved, Plan, Synced, Verdict
from farflung.swarm import ranges
from farflung.swarm.decide import decide
from farflung.swarm.records import Abandon, Admin, Close, Commit, Lease, Return
from farflung.swarm.state import Phase, Received, Round, Tell, Tick


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("window", "fragments"), [(1, 1), (1, 2), (2, 2), (3, 4)])
def test_random_histories_keep_every_promise_and_end(
    window: int, fragments: int, seed: int
) -> None:
    driver = Driver(
        driver_spec(window=window, fragments=fragments), trainers=3, keeper=seed % 3 != 0
    )
    chaos = Chaos(driver, seed)
    for _ in range(250):
        chaos.step()
    for peer in driver.peers.values():
        peer.frozen = False
    driver.run_to_the_end()
    driver.check_end()


# ---- small helpers -------------------------------------------------------------------------


def started(trainers: int = 2, *, keeper: bool = True, **outer: object) -> Driver:
    """Everybody takes part; the first round is planned."""
    spec = driver_spec(start_peers=trainers, **outer)  # type: ignore[arg-type]
    driver = Driver(spec, trainers, keeper=keeper)
    driver.gather()
    return driver


def trainers_of(driver: Driver) -> list[Peer]:
    return [p for p in driver.peers.values() if p.role == "trainer"]


def in_attempt(trainers: int = 2, **outer: object) -> tuple[Driver, Attempt]:
    driver = started(trainers, **outer)
    for peer in trainers_of(driver):
        driver.train(peer)
    return driver, attempt_of(driver)


def attempt_of(driver: Driver, number: int = 0) -> Attempt:
    trial = driver.state.rounds[number].trial
    assert trial is not None
    return trial.message


def in_reduce(trainers: int = 2, **outer: object) -> tuple[Driver, Attempt, Verdict]:
    driver, attempt = in_attempt(trainers, **outer)
    report(driver, attempt, {})
    trial = driver.state.rounds[attempt.round].trial
    assert trial is not None and trial.verdict is not None
    return driver, attempt, trial.verdict


def report(driver: Driver, attempt: Attempt, squares: dict[str, float]) -> str:
    """All owners' statistics; `squares` by node, 1 where not given."""
    said = []
    for peer in driver.peers.values():
        for message in sums(peer.node, attempt):
            partials = tuple(
                type(p)(node=p.node, square=squares.get(p.node, 1.0), dot=0.0)
                for p in message.partials  # type: ignore[union-attr]
            )
            fields = {f: getattr(message, f) for f in message.__struct_fields__}
            said.append(driver.say(peer, type(message)(**{**fields, "partials": partials})))
    return "; ".join(s for s in said if s)


def accuse(attempt: Attempt, *nodes: str, kind: str = "silent") -> Accuse:
    return Accuse(
        term=attempt.term, round=attempt.round, attempt=attempt.attempt, nodes=nodes, kind=kind
    )


def round_of(driver: Driver, number: int = 0) -> Round:
    return driver.state.rounds[number]


def commits(driver: Driver) -> list[Commit]:
    return [r for r in driver.records if isinstance(r, Commit)]


def finish_round(driver: Driver) -> None:
    while driver.work():
        pass


# ---- opening -------------------------------------------------------------------------------


def test_no_round_opens_without_enough_peers_and_the_sentence_says_how_many() -> None:
    driver = Driver(driver_spec(), trainers=1)
    said = [r for r in driver.reasons if "waiting: 0 of at least 1 peer" in r]
    assert len(said) == 1
    assert driver.feed(Tick()) == ""
    driver.gather()
    assert list(driver.state.rounds) == [0]


def test_a_run_below_min_peers_pauses_and_goes_on_when_they_are_back() -> None:
    driver = started(1)
    peer = trainers_of(driver)[0]
    driver.disconnect(peer)
    for _ in range(8):
        driver.advance(1.0)
    assert driver.state.waiting == "paused: 0 of min 1 peer"
    driver.run_to_the_end()


def test_the_lease_is_journalled_before_the_plan_is_sent() -> None:
    driver = started()
    plans = [m for _, m in driver.messages if isinstance(m, Plan)]
    lease = next(r for r in driver.records if isinstance(r, Lease))
    granted = {g.node: g.ranges for g in lease.grants}
    assert len(plans) == 2
    assert {p.ranges for p in plans} == set(granted.values())


def test_a_node_that_claims_another_state_does_not_take_part() -> None:
    driver = Driver(driver_spec(), trainers=1)
    peer = trainers_of(driver)[0]
    driver.connect(peer)
    driver.say(peer, Synced(next_round=0, state_root=mark("other")))
    driver.say(peer, Synced(next_round=7, state_root=merkle_root(driver.state.fragment_hashes)))
    assert not driver.state.rounds
    assert not driver.state.nodes[peer.node].open


def test_every_plan_is_a_prefix_of_what_the_peer_has_not_trained() -> None:
    """Window 2: a plan that skipped rows of an earlier plan made honest claims impossible."""
    driver = started(1, window=2)
    peer = trainers_of(driver)[0]
    driver.train(peer, rows=5)
    finish_round(driver)
    driver.advance(1.0)
    for _, message in driver.messages:
        if isinstance(message, Plan):
            assert not message.ranges or message.ranges == tuple(sorted(message.ranges))
    driver.run_to_the_end()
    driver.check_end()


# ---- when an attempt starts ----------------------------------------------------------------


def test_the_attempt_starts_at_once_when_all_are_ready() -> None:
    driver, attempt = in_attempt(3)
    assert driver.reasons[-1].endswith("attempt 1: 3 contributors, all 3 ready")
    assert len(attempt.candidates) == 3


def test_a_quorum_starts_the_attempt_after_the_grace_window() -> None:
    driver = started(2)
    driver.train(trainers_of(driver)[0])
    driver.advance(1.0)
    assert round_of(driver).phase is Phase.TRAIN
    for _ in range(3):
        driver.advance(1.0)
    assert "1 of 2 ready after the grace window" in "; ".join(driver.reasons)


def test_less_than_a_quorum_waits_for_the_deadline_of_the_round() -> None:
    driver = started(4)
    driver.train(trainers_of(driver)[0])
    while round_of(driver).phase is Phase.TRAIN:
        assert driver.now_s < 300
        driver.advance(1.0)
    assert "1 of 4 ready at the deadline" in "; ".join(driver.reasons)
    assert driver.now_s >= 160


def test_a_round_whose_peers_are_all_gone_is_abandoned() -> None:
    driver = started(1)
    driver.say(trainers_of(driver)[0], Leave(reason="done"))
    assert "round 0 abandoned: all its peers are gone" in driver.reasons[-1]
    assert isinstance(driver.records[-1], Abandon)


# ---- verdict -------------------------------------------------------------------------------


def test_weights_are_the_ledgers_tokens_whatever_a_peer_claims() -> None:
    _, _, verdict = in_reduce(2)
    assert [i.weight for i in verdict.included] == [8 * 16, 8 * 16]  # claimed: 10**9
    assert verdict.divisor == 256


def test_what_a_program_counts_is_shown_and_decides_nothing() -> None:
    driver, attempt = in_attempt(2)
    liar, honest = trainers_of(driver)
    claim = replace_reported(driver, liar, 10**18)
    report(driver, attempt, {})
    finish_round(driver)
    commit = commits(driver)[0]
    counted = {c.node: c.reported for c in commit.contributors}
    assert claim and counted == {liar.node: 8 << 24, honest.node: 8 * 5}
    assert {c.tokens for c in commit.contributors} == {8 * 16}
    assert driver.state.tokens == 16 * ranges.count(driver.state.ledger.credited)


def replace_reported(driver: Driver, peer: Peer, tokens: int) -> bool:
    """READY again, with another count."""
    ready = msgspec.structs.replace(peer.sent[0], term=driver.state.term, reported=tokens)
    driver.say(peer, ready)
    return round_of(driver).ready[peer.node].reported == tokens


def test_a_non_finite_contribution_is_rejected_and_the_others_are_committed() -> None:
    driver, attempt = in_attempt(3)
    bad = attempt.candidates[0].node
    report(driver, attempt, {bad: float("inf")})
    finish_round(driver)
    commit = commits(driver)[0]
    assert [(r.node, r.reason) for r in commit.rejected] == [(bad, "non-finite values")]
    assert bad not in {c.node for c in commit.contributors}
    assert commit.divisor == 256


@pytest.mark.parametrize("square", [float("nan"), -1.0])
def test_impossible_norms_count_as_non_finite(square: float) -> None:
    driver, attempt = in_attempt(2)
    report(driver, attempt, {attempt.candidates[0].node: square})
    assert [r.reason for r in round_of(driver).rejected] == ["non-finite values"]


def test_a_norm_above_the_band_of_the_last_round_is_rejected() -> None:
    driver, attempt = in_attempt(2, fragments=1)
    report(driver, attempt, {})
    finish_round_once(driver)
    for peer in trainers_of(driver):
        driver.train(peer)
    second = attempt_of(driver, 1)
    report(driver, second, {second.candidates[1].node: 1e6})
    (rejected,) = round_of(driver, 1).rejected
    assert rejected.node == second.candidates[1].node
    assert "is above the band" in rejected.reason


def finish_round_once(driver: Driver) -> None:
    """Results and votes of the open attempt, no training."""
    for peer in driver.peers.values():
        while peer.todo:
            driver.say(peer, peer.todo.pop(0))


def test_a_round_whose_every_contribution_is_rejected_is_abandoned_and_returns_nothing() -> None:
    driver, attempt = in_attempt(2)
    held = driver.state.ledger.held
    reason = report(driver, attempt, {c.node: float("inf") for c in attempt.candidates})
    assert "every contribution was rejected: non-finite values" in reason
    assert driver.state.ledger.held == held


def test_a_contributor_that_leaves_after_delivering_is_still_credited() -> None:
    driver, attempt = in_attempt(2)
    gone = next(c.node for c in attempt.candidates if c.node != attempt.slices[0].owner)
    owners = {s.owner for s in attempt.slices}
    peer = next(p for p in driver.peers.values() if p.node == gone)
    for message in [m for m in peer.todo if gone in owners]:
        driver.say(peer, message)
    driver.say(peer, Leave(reason="done"))
    others = [p for p in driver.peers.values() if p.node != gone]
    for other in others:
        for message in sums(other.node, attempt):
            driver.say(other, message)
    trial = round_of(driver).trial
    assert trial is not None and trial.verdict is not None
    assert gone in {i.node for i in trial.verdict.included}
    assert all(i.weight == 128 for i in trial.verdict.included)


# ---- commit --------------------------------------------------------------------------------


def test_a_round_needs_two_equal_votes_when_two_can_vote() -> None:
    driver, attempt, _ = in_reduce(2)
    for peer in driver.peers.values():
        for message in outcome(peer.node, attempt)[:-1]:
            driver.say(peer, message)
    first, second = trainers_of(driver)
    driver.say(first, vote_for(attempt))
    assert not commits(driver)
    fields = {f: getattr(vote_for(attempt), f) for f in vote_for(attempt).__struct_fields__}
    driver.say(second, type(vote_for(attempt))(**{**fields, "fragment_hash": mark("other")}))
    assert not commits(driver)
    driver.say(driver.peers["keeper"], vote_for(attempt))
    (commit,) = commits(driver)
    assert len(commit.votes) == 2
    assert commit.fragment_hash == vote_for(attempt).fragment_hash


def test_a_vote_of_the_dead_is_not_enough_while_other_members_may_come_back() -> None:
    """The voter's disk may be lost with it; the others are silent for an instant only."""
    driver, attempt, _ = in_reduce(2)
    for peer in driver.peers.values():
        for message in outcome(peer.node, attempt)[:-1]:
            driver.say(peer, message)
    voter, other = trainers_of(driver)
    driver.say(voter, vote_for(attempt))
    for peer in (voter, driver.peers["keeper"], other):
        driver.disconnect(peer)
        driver.advance(0.01)
    assert not commits(driver)


def test_one_vote_is_not_enough_while_another_member_lost_its_link_a_moment_ago() -> None:
    driver, attempt, _ = in_reduce(2)
    for peer in driver.peers.values():
        for message in outcome(peer.node, attempt)[:-1]:
            driver.say(peer, message)
    voter, other = trainers_of(driver)
    driver.disconnect(driver.peers["keeper"])
    driver.disconnect(other)
    driver.say(voter, vote_for(attempt))
    assert not commits(driver)


def test_the_vote_of_a_member_that_is_gone_does_not_commit_a_round() -> None:
    """Its machine may be gone with the only whole copy of the result."""
    driver = started(2, keeper=False)
    for peer in trainers_of(driver):
        driver.train(peer)
    attempt = attempt_of(driver)
    report(driver, attempt, {})
    first, second = trainers_of(driver)
    for message in outcome(first.node, attempt):
        driver.say(first, message)
    *results, vote = outcome(second.node, attempt)
    for message in results:
        driver.say(second, message)
    driver.say(first, Leave(reason="machine lost"))
    assert not commits(driver)
    driver.say(second, vote)
    assert len(commits(driver)[0].votes) == 2


def test_votes_alone_do_not_commit_without_every_slices_result() -> None:
    driver, attempt, _ = in_reduce(2)
    for peer in driver.peers.values():
        driver.say(peer, vote_for(attempt))
    assert not commits(driver)


def test_a_lone_peer_commits_with_one_holder_and_says_so() -> None:
    driver = started(1, keeper=False)
    finish_round(driver)
    assert "committed by 1, not replicated" in "; ".join(driver.reasons)
    assert {len(c.holders) for c in commits(driver)} == {1}


def test_outer_scalars_are_recorded_as_fp32_bits() -> None:
    driver = started(2, lr=0.7, momentum=0.9)
    finish_round(driver)
    commit = commits(driver)[0]
    assert np.uint32(commit.outer_lr).view(np.float32) == np.float32(0.7)
    assert np.uint32(commit.outer_momentum).view(np.float32) == np.float32(0.9)


def test_the_run_finishes_after_its_rounds_and_opens_no_more() -> None:
    driver = started(2, window=2, rounds=3)
    driver.run_to_the_end()
    assert len(commits(driver)) == 3
    assert isinstance(driver.records[-1], Admin)
    assert not driver.state.rounds
    assert driver.feed(Tick()) == ""


def test_a_run_that_counts_tokens_goes_on_beyond_outer_rounds() -> None:
    driver = started(1, rounds=2, tokens=128 * 5)
    driver.run_to_the_end()
    assert len(commits(driver)) == 5
    assert driver.state.tokens == 128 * 5


def test_a_newer_round_waits_for_the_older_one() -> None:
    driver = started(2, window=2)
    slow, fast = trainers_of(driver)
    driver.train(fast)
    driver.train(fast)
    assert sorted(driver.state.rounds) == [0, 1]
    driver.train(slow)
    driver.train(slow)
    for number in (1, 0):  # the newer one is complete first
        for peer in [*driver.peers.values(), *driver.peers.values()]:
            mine = [m for m in peer.todo if getattr(m, "round", -1) == number]
            peer.todo = [m for m in peer.todo if m not in mine]
            for message in mine:
                driver.say(peer, message)
        assert len(commits(driver)) == (0 if number else 2)
    assert [c.round for c in commits(driver)] == [0, 1]


# ---- failed attempts -----------------------------------------------------------------------


def fail_attempt(driver: Driver) -> None:
    attempt = attempt_of(driver)
    driver.now_s += attempt.deadline_s * 1.5
    for peer in driver.peers.values():
        driver.beat(peer)
    driver.feed(Tick())


def test_a_round_is_abandoned_after_three_attempts() -> None:
    driver, _ = in_attempt(3)
    seen = []
    while 0 in driver.state.rounds:
        seen.append(attempt_of(driver).attempt)
        fail_attempt(driver)
    assert seen == [1, 2, 3]
    assert "round 0 abandoned: 3 attempts failed" in "; ".join(driver.reasons)


def test_after_an_abandon_no_round_opens_at_once() -> None:
    driver, attempt = in_attempt(2)
    report(driver, attempt, {c.node: float("inf") for c in attempt.candidates})
    assert not driver.state.rounds
    driver.advance(0.3)
    assert not driver.state.rounds
    driver.advance(0.3)
    assert list(driver.state.rounds) == [1]


def test_bad_bytes_exclude_the_accused_from_the_next_attempt() -> None:
    driver, attempt = in_attempt(3)
    bad, witness = attempt.candidates[0].node, trainers_of(driver)
    honest = next(p for p in witness if p.node != bad)
    driver.say(honest, accuse(attempt, bad, kind="bad-bytes"))
    assert attempt_of(driver).attempt == 1  # accusations are gathered first
    driver.advance(0.3)
    second = attempt_of(driver)
    assert second.attempt == 2
    assert bad not in {c.node for c in second.candidates}


def test_one_dead_link_is_planned_around_without_losing_a_contributor() -> None:
    driver, attempt = in_attempt(3)
    a, b = (c.node for c in attempt.candidates[:2])
    accuser = next(p for p in driver.peers.values() if p.node == a)
    driver.say(accuser, accuse(attempt, b, kind="unreachable"))
    driver.advance(0.3)
    second = attempt_of(driver)
    assert {c.node for c in second.candidates} == {c.node for c in attempt.candidates}
    assert {s.owner for s in second.slices} == {attempt.candidates[2].node}
    assert "dead links" in "; ".join(driver.reasons)


def test_an_accusation_of_a_node_outside_the_attempt_is_refused() -> None:
    driver, attempt = in_attempt(2)
    with pytest.raises(ProtocolError, match="not in the attempt"):
        driver.say(trainers_of(driver)[0], accuse(attempt, "nobody"))


def test_a_lost_owner_costs_one_attempt_and_the_survivors_commit() -> None:
    driver, attempt = in_attempt(3)
    owner = next(p for p in driver.peers.values() if p.node == attempt.slices[0].owner)
    driver.disconnect(owner)
    driver.advance(0.3)
    driver.advance(0.3)
    assert attempt_of(driver).attempt == 2
    finish_round_once(driver)
    finish_round_once(driver)
    commit = commits(driver)[0]
    assert owner.node not in {c.node for c in commit.contributors}
    assert commit.divisor == sum(c.tokens for c in commit.contributors)


@pytest.mark.parametrize("index", [-1, 5])
def test_statistics_from_a_node_that_owns_no_such_slice_are_refused(index: int) -> None:
    driver, attempt = in_attempt(2)
    peer = next(p for p in driver.peers.values() if p.node == attempt.slices[0].owner)
    (message, *_) = sums(peer.node, attempt)
    fields = {f: getattr(message, f) for f in message.__struct_fields__}
    with pytest.raises(ProtocolError, match="not owned"):
        driver.say(peer, type(message)(**{**fields, "slice": index}))
    with pytest.raises(ProtocolError, match="every candidate"):
        driver.say(peer, type(message)(**{**fields, "partials": ()}))


# ---- silence -------------------------------------------------------------------------------


def test_six_seconds_without_a_beat_close_a_stay_and_return_its_lease() -> None:
    driver = started(2)
    silent = trainers_of(driver)[0]
    silent.frozen = True
    for _ in range(5):
        driver.advance(1.0)
    assert driver.state.nodes[silent.node].suspect
    assert driver.state.nodes[silent.node].open
    driver.advance(1.0)
    assert not driver.state.nodes[silent.node].open
    (closed,) = [r for r in driver.records if isinstance(r, Close)]
    assert closed.reason == "no beat for 6.0 s"
    assert closed.freed


def test_a_suspect_that_is_heard_again_is_told_once() -> None:
    driver = started(2)
    silent = trainers_of(driver)[0]
    silent.frozen = True
    for _ in range(4):
        driver.advance(1.0)
    beat = Received(node=silent.node, message=Beat(steps=9, steps_per_s=1.0, phase="training"))
    for state, expected in ((driver.state, 1), (decide(driver.state, beat, driver.now_s)[0], 0)):
        _, actions, _ = decide(state, beat, driver.now_s)
        told = [a.event for a in actions if isinstance(a, Tell)]
        assert [e.node for e in told if isinstance(e, PeerRecovered)] == [silent.node] * expected


def test_a_peer_that_beats_without_a_step_counts_as_hung() -> None:
    driver = started(2)
    hung = trainers_of(driver)[0]
    for _ in range(12):
        hung.steps = 0  # each beat says the same step
        driver.advance(1.0)
    assert "alive but no progress for 10 s" in "; ".join(driver.reasons)


class Hand:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.s = 1000.0

    def now(self) -> float:
        return self.s


def test_a_suspended_coordinator_kills_nobody() -> None:
    driver, hand = started(2), Hand()
    clock = AwakeClock(hand)
    offset = clock.now() - driver.now_s
    for pause_s in (0.1, 3600.0, 0.1, 90.0, 0.1):
        hand.s += pause_s
        driver.now_s = clock.now() - offset
        driver.feed(Tick())
    assert all(n.open for n in driver.state.nodes.values() if n.trains)
    assert not [r for r in driver.records if isinstance(r, Close)]


def test_a_process_that_lost_its_progress_opens_a_new_stay() -> None:
    driver = started(2)
    peer = trainers_of(driver)[0]
    driver.disconnect(peer)
    peer.forget()
    driver.connect(peer)
    assert "restarted without its progress" in driver.reasons[-1]
    driver.sync(peer)
    assert driver.state.nodes[peer.node].generation == 2


def test_claims_of_a_stay_closed_in_an_attempt_are_returned_after_it() -> None:
    driver, attempt = in_attempt(2)
    gone = trainers_of(driver)[0]
    driver.say(gone, Leave(reason="done"))
    closed = next(r for r in driver.records if isinstance(r, Close))
    assert closed.freed == ()  # all of it is in the attempt
    driver.advance(0.3)
    driver.advance(0.3)
    returned = [r for r in driver.records if isinstance(r, Return)]
    assert [r.node for r in returned] == [gone.node]
    assert attempt.attempt == 1


# ---- reports -------------------------------------------------------------------------------


def test_a_peer_with_another_state_raises_an_alarm() -> None:
    driver = started(2)
    finish_round(driver)
    peer = trainers_of(driver)[0]
    moved = Moved(round=0, bytes_up=1, bytes_down=2, state_root=mark("other"))
    event = Received(node=peer.node, message=moved)
    _, actions, reason = decide(driver.state, event, driver.now_s)
    told: list[Event] = [a.event for a in actions if isinstance(a, Tell)]
    assert [e.agrees for e in told if isinstance(e, StateReported)] == [False]
    assert "p0 diverged after round 0; it must resync itself" in reason


def test_decide_changes_no_state_that_it_was_given() -> None:
    driver = started(2)
    before = replace(driver.state)
    decide(before, Tick(), driver.now_s + 100)
    assert before == driver.state


# ---- speed and links -----------------------------------------------------------------------


def beat_all(driver: Driver, **fields: float) -> None:
    """Everybody beats with these measurements."""
    for peer in driver.peers.values():
        driver.say(peer, Beat(steps=peer.steps, phase="training", **{"steps_per_s": 0.0, **fields}))


def test_a_peer_at_half_the_speed_gets_half_the_work_and_is_not_waited_for() -> None:
    driver = started(3, inner_steps=16)
    slow, *fast = trainers_of(driver)
    for peer in trainers_of(driver):
        speed = 5.0 if peer is slow else 10.0
        driver.say(peer, Beat(steps=0, phase="waiting", steps_per_s=speed))
    for peer in trainers_of(driver):
        driver.train(peer)
    finish_round_once(driver)
    finish_round_once(driver)
    finish_round_once(driver)
    second = round_of(driver, 1)
    assert second.paced == {slow.node}
    assert second.budgets[slow.node] * 2 == second.budgets[fast[0].node]
    driver.train(fast[0])
    assert round_of(driver, 1).phase is Phase.TRAIN
    driver.train(fast[1])
    assert round_of(driver, 1).phase is Phase.EXCHANGE
    assert slow.node not in {c.node for c in attempt_of(driver, 1).candidates}
    known = driver.state.nodes[slow.node]
    assert (known.missed, known.pace < 1) == (1, True)


def _rounds_of_speeds(driver: Driver, peer: Peer, speeds: list[float]) -> list[bool]:
    """Plays rounds; whether the peer, at these speeds in turn, is planned as a slower one."""
    paced = []
    for speed in speeds:
        for one in trainers_of(driver):
            mine = speed if one is peer else 10.0
            driver.say(one, Beat(steps=0, phase="waiting", steps_per_s=mine))
        for one in trainers_of(driver):
            driver.train(one)
        for _ in range(3):
            finish_round_once(driver)
        paced.append(peer.node in list(driver.state.rounds.values())[-1].paced)
    return paced


def test_one_busy_round_does_not_make_an_equal_peer_a_slower_one() -> None:
    driver = started(2, rounds=40)
    peer = trainers_of(driver)[0]
    played = _rounds_of_speeds(driver, peer, [7.0, 7.0, 10.0, 7.0, 7.0, 7.0, 9.5])
    assert played == [False, False, False, False, False, True, False]
    assert _rounds_of_speeds(driver, peer, [5.0]) == [True]


def test_a_newcomer_is_not_waited_for_in_its_first_round_and_loses_nothing() -> None:
    driver = Driver(driver_spec(start_peers=2, rounds=9), trainers=3)
    late, *old = trainers_of(driver)
    for peer in [*old, driver.peers["keeper"]]:
        driver.connect(peer)
        driver.sync(peer)
    for peer in old:  # all are new in round 0: that one waits as usual
        assert round_of(driver).phase is Phase.TRAIN
        driver.train(peer)
    driver.connect(late)
    driver.sync(late)
    finish_round_once(driver)
    finish_round_once(driver)
    finish_round_once(driver)
    assert round_of(driver, 1).newcomers == {late.node}
    driver.train(old[0])
    assert round_of(driver, 1).phase is Phase.TRAIN
    driver.train(old[1])
    assert late.node not in {c.node for c in attempt_of(driver, 1).candidates}
    driver.train(late)
    for _ in range(3):
        finish_round_once(driver)
    assert round_of(driver, 2).newcomers == frozenset()
    for peer in old:
        driver.train(peer)
    assert round_of(driver, 2).phase is Phase.TRAIN
    driver.train(late)
    finish_round(driver)
    mine = [c for c in commits(driver)[2].contributors if c.node == late.node]
    assert ranges.count(mine[0].credited) == 2 * 8  # the steps of both rounds


def test_an_owner_whose_uplink_stays_slow_gets_a_smaller_slice_and_the_attempt_more_time() -> None:
    driver = started(3, keeper=False)
    slow = min(trainers_of(driver), key=lambda p: p.node)
    for number in range(3):
        for peer in trainers_of(driver):
            driver.say(peer, beat_with_rate(70_000.0 if peer is slow else 1e9))
            driver.train(peer)
        attempt = attempt_of(driver, number)
        assert (slow.node in {s.owner for s in attempt.slices}) == (number < 2)
        assert slow.node in {c.node for c in attempt.candidates}
        assert attempt.deadline_s > driver.state.spec.swarm.attempt_s
        while driver.state.rounds.keys() == {number}:
            finish_round_once(driver)


def beat_with_rate(rate: float) -> Beat:
    return Beat(
        steps=1, phase="training", steps_per_s=0.0, up_bytes_per_s=rate, down_bytes_per_s=rate
    )


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), -5.0])
def test_a_rate_that_is_none_counts_as_unknown(rate: float) -> None:
    driver = started(2)
    beat_all(driver, up_bytes_per_s=rate, down_bytes_per_s=rate)
    assert {n.up_bytes_per_s for n in driver.state.nodes.values()} == {0.0}


def test_a_peer_that_lost_several_links_is_left_out_and_the_others_go_on() -> None:
    """Two candidates and the keeper: both others accuse b, which lives and beats."""
    driver, attempt = in_attempt(2)
    a, b = (c.node for c in attempt.candidates)
    for accuser in (next(p for p in trainers_of(driver) if p.node == a), driver.peers["keeper"]):
        driver.say(accuser, accuse(attempt, b))
    assert attempt_of(driver).attempt == 1
    driver.advance(1.0)
    driver.advance(1.0)
    second = attempt_of(driver)
    assert second.attempt == 2
    assert [c.node for c in second.candidates] == [a]


@pytest.mark.parametrize(("phase", "seconds"), [("loading", 960), ("compiling", 1800)])
def test_a_declared_phase_needs_no_steps_but_comes_to_an_end(phase: str, seconds: int) -> None:
    driver = started(2)
    peer = trainers_of(driver)[0]
    start_s = driver.now_s
    while driver.state.nodes[peer.node].open:
        assert driver.now_s < start_s + seconds + 10
        driver.now_s += 2.0
        for other in driver.peers.values():
            busy = phase if other is peer else "waiting"
            driver.say(other, Beat(steps=0, steps_per_s=0.0, phase=busy))
        driver.feed(Tick())
    assert driver.now_s - start_s >= seconds
    assert f"alive but {phase} for {seconds} s" in "; ".join(driver.reasons)


def test_a_node_may_ask_to_take_part_a_few_rounds_behind() -> None:
    """Where a round takes less than a round trip its request is always late."""
    driver = started(1)
    root = merkle_root(driver.state.fragment_hashes)
    newcomer = driver.peers["keeper"]
    driver.say(newcomer, Leave(reason="away"))
    for _ in range(2):
        driver.train(trainers_of(driver)[0])
        finish_round_once(driver)
        finish_round_once(driver)
    assert len(commits(driver)) >= 1
    driver.say(newcomer, Synced(next_round=0, state_root=root))
    assert not driver.state.nodes[newcomer.node].open  # its root was never that of a commit
    first = commits(driver)[0]
    driver.say(newcomer, Synced(next_round=1, state_root=mark("other")))
    assert not driver.state.nodes[newcomer.node].open
    driver.say(newcomer, Synced(next_round=1, state_root=first.state_root))
    assert driver.state.nodes[newcomer.node].open
