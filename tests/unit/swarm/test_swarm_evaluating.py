"""Who is asked how good the model is, and what becomes of the answers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from swarm_driver import Driver, Peer, driver_spec

from farflung.config.run import EvaluationSpec
from farflung.errors import ProtocolError
from farflung.events import EvaluationFailed, ModelEvaluated
from farflung.network.messages import DrawnText, Evaluate, Measured
from farflung.swarm import evaluating
from farflung.swarm.evaluating import PATIENCE_S
from farflung.swarm.records import Drawn, Evaluation
from farflung.swarm.replay import replay, replay_more
from farflung.swarm.state import Append, Send, State, Step, Tell

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
