"""Who is asked how good the model is, and what becomes of the answers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from swarm_driver import Driver, Peer, driver_spec
from swarm_samples import mark

from farflung.config.run import EvaluationSpec
from farflung.coordinator.lingering import LINGER_S, Lingering
from farflung.errors import ProtocolError
from farflung.events import EvaluationFailed, ModelEvaluated
from farflung.ids import Role
from farflung.network.messages import (
    Attempt,
    DrawnText,
    Evaluate,
    Measured,
    Moved,
    Plan,
    Verdict,
)
from farflung.swarm import evaluating
from farflung.swarm.ending import lacking
from farflung.swarm.evaluating import PATIENCE_S
from farflung.swarm.records import Commit, Drawn, Evaluation
from farflung.swarm.replay import replay, replay_more
from farflung.swarm.state import Admitted, Append, Link, Node, Send, State, Step, Tell

EVERY = 5


def swarm(trainers: int = 3) -> tuple[State, list[Peer]]:
    """A running swarm whose trainers can measure, before its first commit."""
    driver = Driver(driver_spec(start_peers=trainers), trainers)
    driver.gather()
    spec = replace_spec(driver.state, every=EVERY)
    able = {n: replace(node, evaluates=node.trains) for n, node in spec.nodes.items()}
    return replace(spec, nodes=able), [p for p in driver.peers.values() if p.role == "trainer"]


def replace_spec(state: State, **rules: int) -> State:
    import msgspec

    spec = msgspec.structs.replace(state.spec, evaluation=EvaluationSpec(**rules))
    return replace(state, spec=spec)


def advanced(state: State, now_s: float = 100.0, **changes: object) -> Step:
    step = Step(replace(state, **changes), now_s)  # type: ignore[arg-type]
    evaluating.advance(step)
    return step


def asked(step: Step) -> list[str]:
    return [a.node for a in step.actions if isinstance(a, Send) and isinstance(a.message, Evaluate)]


def told(step: Step) -> list[str]:
    events = [a.event for a in step.actions if isinstance(a, Tell)]
    return [e.reason for e in events if isinstance(e, EvaluationFailed)]


def answer(state: State, **changes: object) -> Measured:
    fields: dict[str, object] = {
        "term": state.term,
        "serial": state.evaluations,
        "next_round": 6,
        "nats_per_token": 2.5,
        "bits_per_byte": 1.25,
        "tokens": 512,
        "samples": (DrawnText(prompt="To be", text=" or not"),),
        "took_s": 3.0,
    }
    return Measured(**{**fields, **changes})  # type: ignore[arg-type]


def taken(state: State, sender: str, message: Measured, now_s: float = 101.0) -> Step:
    step = Step(state, now_s)
    evaluating.take(step, sender, message)
    return step


def test_nobody_is_asked_before_the_first_period_is_over_and_one_afterwards() -> None:
    state, peers = swarm()
    for committed in range(EVERY):
        assert asked(advanced(state, committed=committed)) == []
    step = advanced(state, committed=EVERY)
    (node,) = asked(step)
    assert node in {p.node for p in peers}
    assert asked(advanced(step.state)) == []  # one at a time
    assert asked(advanced(step.state, committed=2 * EVERY)) == []


def test_the_snapshot_must_hold_every_commit_although_some_rounds_were_abandoned() -> None:
    state, _ = swarm()
    for rounds, wanted in (({}, 9), (dict.fromkeys((7, 8)), 7)):
        step = advanced(state, committed=EVERY, next_round=9, rounds=rounds)
        (message,) = [a.message for a in step.actions if isinstance(a, Send)]
        assert isinstance(message, Evaluate) and message.next_round == wanted


def test_zero_switches_evaluations_off() -> None:
    state, _ = swarm()
    assert asked(advanced(replace_spec(state, every=0), committed=100)) == []


def test_a_node_that_cannot_measure_is_never_asked_and_one_that_comes_later_is() -> None:
    state, peers = swarm()
    none = {n: replace(node, evaluates=False) for n, node in state.nodes.items()}
    step = advanced(state, committed=EVERY, nodes=none)
    assert asked(step) == []
    able = replace(step.state.nodes[peers[1].node], evaluates=True)
    assert asked(advanced(step.state, nodes={**none, able.node: able})) == [able.node]


def test_an_answer_is_journalled_and_told_and_the_next_one_is_another_nodes() -> None:
    state, _ = swarm()
    asks = set()
    for period in range(1, 4):
        step = advanced(state, committed=period * EVERY)
        (node,) = asked(step)
        asks.add(node)
        step = taken(step.state, node, answer(step.state))
        (record,) = [a.record for a in step.actions if isinstance(a, Append)]
        assert record == Evaluation(
            serial=period - 1,
            node=node,
            committed=period * EVERY,
            next_round=6,
            nats_per_token=int(np.float32(2.5).view(np.uint32)),
            bits_per_byte=int(np.float32(1.25).view(np.uint32)),
            tokens=512,
            samples=(Drawn(prompt="To be", text=" or not"),),
        )
        (event,) = [a.event for a in step.actions if isinstance(a, Tell)]
        assert isinstance(event, ModelEvaluated) and event.texts == (" or not",)
        state = step.state
        assert state.evaluating is None and state.evaluations == period
        assert asked(advanced(state)) == []
    assert len(asks) == 3


def test_the_next_node_is_asked_when_one_is_gone_fails_or_is_late() -> None:
    state, _ = swarm()
    step = advanced(state, committed=EVERY)
    (first,) = asked(step)
    closed = replace(step.state.nodes[first], open=False)
    step = advanced(step.state, nodes={**step.state.nodes, first: closed})
    (second,) = asked(step)
    step = taken(step.state, second, answer(step.state, note="no room"))
    (third,) = asked(step)
    assert told(step) == ["no room"]
    assert len({first, second, third}) == 3 or first not in {second, third}
    step = advanced(step.state, now_s=101.0 + PATIENCE_S)
    assert told(step) == [f"no answer for {PATIENCE_S:.0f} s"]
    assert asked(step) == [] and step.state.evaluating is None  # all were tried
    assert asked(advanced(step.state, committed=2 * EVERY - 1)) == []
    assert asked(advanced(step.state, committed=2 * EVERY)) != []


def test_answers_of_others_and_of_former_jobs_change_nothing() -> None:
    state, peers = swarm()
    step = advanced(state, committed=EVERY)
    (node,) = asked(step)
    other = next(p.node for p in peers if p.node != node)
    for sender, message in (
        (other, answer(step.state)),
        (node, answer(step.state, serial=7)),
        (node, answer(step.state, term=0)),
    ):
        later = taken(step.state, sender, message)
        assert later.actions == [] and later.state == step.state
    assert taken(state, node, answer(state)).actions == []  # nobody was asked


@pytest.mark.parametrize(
    "wrong",
    [
        {"bits_per_byte": math.nan},
        {"bits_per_byte": math.inf},
        {"nats_per_token": -1.0},
        {"nats_per_token": 1e300},
        {"took_s": math.nan},
        {"tokens": 0},
        {"next_round": -1},
        {"samples": (DrawnText(prompt="", text="x" * 5000),)},
        {"samples": (DrawnText(prompt="", text="x"),) * 9},
    ],
)
def test_figures_and_texts_that_no_evaluation_has_break_the_protocol(
    wrong: dict[str, object],
) -> None:
    state, _ = swarm()
    step = advanced(state, committed=EVERY)
    (node,) = asked(step)
    with pytest.raises(ProtocolError):
        taken(step.state, node, answer(step.state, **wrong))


def test_a_restarted_coordinator_asks_again_only_for_what_is_not_journalled() -> None:
    driver = Driver(driver_spec(start_peers=2), 2)
    driver.gather()
    before = replay(driver.records, driver.elements, 0.0)
    record = Evaluation(
        serial=0,
        node="ab",
        committed=EVERY,
        next_round=EVERY,
        nats_per_token=0,
        bits_per_byte=0,
        tokens=1,
        samples=(),
    )
    after = replay_more(before, [record], 0.0)
    assert (after.evaluations, after.evaluated, after.evaluating) == (1, EVERY, None)


# ---- evaluators ----------------------------------------------------------------------------


def with_evaluators(state: State, number: int = 1) -> tuple[State, list[str]]:
    """The state with so many evaluators that take part and can measure."""
    names = [f"{i:02d}" * 20 for i in range(number)]
    nodes = dict(state.nodes)
    for name in names:
        nodes[name] = Node(
            node=name,
            name=f"evaluator {name[:2]}",
            region="",
            role=Role.EVALUATOR,
            public_key=bytes(32),
            generation=1,
            open=True,
            link=Link.ACTIVE,
            last_beat_s=100.0,
            evaluates=True,
        )
    return replace(state, nodes=nodes), names


def answered(state: State, committed: int) -> tuple[State, str]:
    """One evaluation that is asked for and answered, and by whom."""
    step = advanced(state, committed=committed)
    (node,) = asked(step)
    return taken(step.state, node, answer(step.state)).state, node


def test_evaluators_are_asked_in_turn_and_trainers_never() -> None:
    state, names = with_evaluators(swarm()[0], 2)
    found = []
    for period in range(1, 5):
        state, node = answered(state, period * EVERY)
        found.append(node)
    assert found == [*names, *names]


@pytest.mark.parametrize(
    "away",
    [{"open": False}, {"link": Link.SYNCING}, {"link": Link.GONE}, {"evaluates": False}],
)
def test_where_no_evaluator_can_a_trainer_is_asked(away: dict[str, object]) -> None:
    state, (name,) = with_evaluators(swarm()[0])
    gone = replace(state.nodes[name], **away)  # type: ignore[arg-type]
    later, node = answered(replace(state, nodes={**state.nodes, name: gone}), EVERY)
    assert later.nodes[node].trains
    back = {**later.nodes, name: state.nodes[name]}
    assert answered(replace(later, nodes=back), 2 * EVERY)[1] == name


def test_an_evaluator_that_dies_over_it_is_replaced_by_a_trainer_for_this_time() -> None:
    state, (name,) = with_evaluators(swarm()[0])
    step = advanced(state, committed=EVERY)
    assert asked(step) == [name]
    closed = replace(step.state.nodes[name], open=False)
    step = advanced(step.state, nodes={**step.state.nodes, name: closed})
    (node,) = asked(step)
    assert step.state.nodes[node].trains


def test_a_finished_run_is_measured_once_more_by_an_evaluator_only() -> None:
    trainers_only, _ = swarm()
    done = {"committed": EVERY + 2, "evaluated": EVERY, "finished": True}
    assert asked(advanced(trainers_only, **done)) == []
    state, (name,) = with_evaluators(trainers_only)
    step = advanced(state, **done)
    assert asked(step) == [name]
    failed = taken(step.state, name, answer(step.state, note="no room"))
    assert asked(failed) == [] and failed.state.evaluating is None, "no trainer is kept by it"
    assert asked(advanced(failed.state)) == []
    after = taken(step.state, name, answer(step.state)).state
    assert after.evaluations == 1 and asked(advanced(after)) == []
    assert asked(advanced(replace_spec(state, every=0), **done)) == []


def test_an_evaluator_counts_for_nothing_but_evaluations() -> None:
    """Rounds, votes, attempts and the end are as if it were not there."""
    driver = Driver(driver_spec(start_peers=2, rounds=3), trainers=2, keeper=False)
    name = "evaluator"
    node = mark(name).hex()[:40]
    driver.peers[name] = Peer(node, Role.EVALUATOR)
    driver.feed(
        Admitted(
            node=node,
            name=name,
            region="",
            role=Role.EVALUATOR,
            public_key=mark(name),
            invite=b"",
        )
    )
    driver.connect(driver.peers["p0"])
    driver.connect(driver.peers[name])
    driver.sync(driver.peers["p0"])
    driver.sync(driver.peers[name])
    assert driver.state.nodes[node].open and not driver.state.rounds, "one trainer of two"
    driver.gather()
    driver.run_to_the_end()
    assert driver.state.committed == 3
    sent = {type(m) for to, m in driver.messages if to == node}
    assert not sent & {Plan, Attempt, Verdict}
    commits = [r for r in driver.records if isinstance(r, Commit)]
    assert commits and all(node not in {*c.holders, *(v.node for v in c.votes)} for c in commits)
    last = max(driver.state.roots)
    for peer in driver.peers.values():
        if peer.role == "trainer":
            root = driver.state.roots[last]
            driver.say(peer, Moved(round=last, bytes_up=0, bytes_down=0, state_root=root))
            peer.kept = True
            driver.beat(peer)
    assert [n.node for n in lacking(driver.state)] == [node]
    assert driver.state.ended, "the trainers keep it; nobody waits for the evaluator's copy"
    driver.check_end()


def test_a_coordinator_waits_for_a_connected_evaluator_as_for_a_trainer_but_for_no_absent_one() -> (
    None
):
    state, (name,) = with_evaluators(swarm()[0])
    ended = replace(state, finished=True, ended=True, rounds={}, nodes={name: state.nodes[name]})
    assert not Lingering(ended).over(ended, {name}, 1000.0)
    assert not Lingering(ended).awaited(ended, {name}, 1000.0)
    lingering = Lingering(replace(ended, finished=False))
    assert not lingering.over(ended, {name}, 0.0)
    assert lingering.over(ended, set(), 1.0)
    assert not lingering.over(ended, {name}, LINGER_S - 1)
    assert lingering.over(ended, {name}, LINGER_S + 1), "not for ever"
