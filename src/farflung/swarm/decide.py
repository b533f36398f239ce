"""`decide(state, event, now) -> (state, actions, reason)`: every decision of the coordinator.

No clock, no socket, no randomness: the same function runs in production, in simulation and under
property tests. Appends among the actions must be journalled and synced, all of them, before the
sends; when the disk refuses, the old state stands and nothing was decided.

The caller checks signatures; messages of older terms and attempts change nothing here (fencing).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from farflung.network.messages import (
    Accuse,
    Beat,
    Leave,
    Measured,
    Moved,
    Ready,
    Result,
    Statistics,
    Synced,
    Vote,
)
from farflung.swarm import (
    amendments,
    blame,
    ending,
    evaluating,
    membership,
    planning,
    resolve,
    trial,
)
from farflung.swarm.state import (
    Action,
    Admitted,
    Amending,
    Connected,
    Disconnected,
    Input,
    Phase,
    Received,
    Round,
    State,
    Step,
    Tick,
)


def decide(state: State, event: Input, now_s: float) -> tuple[State, tuple[Action, ...], str]:
    """The next state, what must be done, and one sentence for the operator ('' when nothing).

    Raises ProtocolError when a message breaks the rules; the state then stands as it was.
    """
    step = Step(state, now_s)
    match event:
        case Admitted():
            membership.admit(step, event)
        case Connected():
            membership.connect(step, event)
        case Disconnected():
            membership.disconnect(step, event)
        case Received(node=node, message=message):
            handler = _HANDLERS.get(type(message))
            if handler is not None:
                handler(step, node, message)
        case Tick():
            membership.watch(step)
        case Amending():
            amendments.take(step, event)
    _advance(step)
    return step.state, tuple(step.actions), "; ".join(step.reasons)


def _advance(step: Step) -> None:
    """Carry every round as far as it can go, oldest first, then open new ones."""
    if not step.state.finished:  # the state that a finished run announced stays its last one
        for number in sorted(step.state.rounds):
            _carry(step, number)
        while step.state.oldest is not None and _resolve_oldest(step):
            pass
    if resolve.is_complete(step.state, step.spec):
        if not step.state.finished:
            resolve.finish(step)
        evaluating.advance(step)
        ending.try_end(step)
        return
    planning.open_rounds(step)
    evaluating.advance(step)


def _carry(step: Step, number: int) -> None:
    """One round: start its attempt, judge it, start the next one."""
    round_ = step.state.rounds[number]
    if round_.phase is Phase.TRAIN:
        if planning.hopeless(step, round_) and step.state.oldest == number:
            resolve.abandon(step, round_, "all its peers are gone")
            return
        reason = planning.may_start(step, round_)
        if reason:
            planning.set_pace(step, round_)
            _attempt(step, number, reason)
        return
    if round_.trial is not None:
        failure = blame.judge(step, round_)
        if failure:
            _attempt(step, number, failure)


def _attempt(step: Step, number: int, reason: str) -> None:
    """Begin an attempt; when none is possible, abandon (in round order) or wait for its turn."""
    round_ = step.state.rounds[number]
    failure = trial.begin(step, round_, reason)
    if failure and step.state.oldest == number:
        resolve.abandon(step, step.state.rounds[number], failure)


def _resolve_oldest(step: Step) -> bool:
    """Commit the oldest round if it has its votes. True when another may follow."""
    number = step.state.oldest
    assert number is not None
    round_ = step.state.rounds[number]
    if round_.phase is Phase.REDUCE and resolve.commit(step, round_):
        return not resolve.is_complete(step.state, step.spec)
    if round_.phase is not Phase.TRAIN and round_.trial is None:
        _attempt(step, number, "its earlier attempt failed")
        return number not in step.state.rounds
    return False


def _on_synced(step: Step, node: str, message: Synced) -> None:
    if membership.synced(step, node, message):
        generation = step.state.nodes[node].generation
        for number in sorted(step.state.rounds):
            round_ = step.state.rounds[number]
            if round_.planned.get(node) == generation:
                planning.send_plan(step, round_, node)


def _on_statistics(step: Step, node: str, message: Statistics) -> None:
    round_ = trial.take_statistics(step, node, message)
    if round_ is None:
        return
    failure = trial.give_verdict(step, round_)
    if failure:
        _give_up(step, round_, failure)


def _give_up(step: Step, round_: Round, reason: str) -> None:
    """A verdict without contributors. Only the oldest round may be resolved; others wait."""
    if step.state.oldest == round_.number:
        resolve.abandon(step, step.state.rounds[round_.number], reason)


def _on_accuse(step: Step, node: str, message: Accuse) -> None:
    blame.take_accusation(step, node, message)


def _on_result(step: Step, node: str, message: Result) -> None:
    trial.take_result(step, node, message)


def _on_vote(step: Step, node: str, message: Vote) -> None:
    trial.take_vote(step, node, message)


_HANDLERS: dict[type, Callable[[Step, str, Any], None]] = {
    Synced: _on_synced,
    Beat: membership.beat,
    Leave: membership.leave,
    Ready: planning.ready,
    Statistics: _on_statistics,
    Result: _on_result,
    Vote: _on_vote,
    Accuse: _on_accuse,
    Moved: resolve.state_report,
    Measured: evaluating.take,
}
