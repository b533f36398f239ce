"""How good the model is: now and then one node is asked to measure it. Pure.

An evaluator is asked when one takes part, else a trainer; each kind in turn.
Its answer is journalled, but nothing follows from it: no state, no ledger, no vote. A node that
dies, leaves, fails or takes too long is passed over for the next one; when all were, the evaluation
is left out and the next one comes in its turn. So is one that a coordinator's restart forgot.
"""

from __future__ import annotations

from dataclasses import replace

from farflung.config.run import MAX_PROMPTS
from farflung.errors import ProtocolError
from farflung.events import EvaluationFailed, ModelEvaluated, inert
from farflung.network.messages import Evaluate, Measured
from farflung.swarm.membership import present
from farflung.swarm.records import Drawn, Evaluation
from farflung.swarm.resolve import fp32_bits
from farflung.swarm.state import Evaluating, Node, State, Step

PATIENCE_S = 1800.0
"""A node that has not answered after this is passed over."""
MAX_TEXT = 4096
"""Characters of a prompt and what was drawn after it."""
MOST = 1e6
"""Of a figure or of seconds: more is nonsense, and would not fit into fp32."""


def advance(step: Step) -> None:
    """Ask somebody when an evaluation is due; somebody else when who was asked cannot.

    In a finished run it is due once more, for an evaluator only: no trainer is kept by it.
    """
    job = step.state.evaluating
    if job is None:
        if _due(step.state) if not step.state.finished else _last_due(step.state):
            _ask(step, step.state.committed, frozenset())
        return
    if not present(step.state, job.node, job.generation):
        _pass_over(step, job, "it is gone")
    elif step.now_s >= job.deadline_s:
        _pass_over(step, job, f"no answer for {PATIENCE_S:.0f} s")


def take(step: Step, sender: str, message: Measured) -> None:
    """An answer. Of a job that is not open any more it changes nothing.

    Raises ProtocolError for figures and texts that no evaluation has.
    """
    job, state = step.state.evaluating, step.state
    if job is None or (job.serial, job.node, state.term) != (message.serial, sender, message.term):
        return
    if message.note:
        _pass_over(step, job, inert(message.note))
        return
    _check(message)
    step.append(
        Evaluation(
            serial=job.serial,
            node=sender,
            committed=job.committed,
            next_round=message.next_round,
            nats_per_token=fp32_bits(message.nats_per_token),
            bits_per_byte=fp32_bits(message.bits_per_byte),
            tokens=message.tokens,
            samples=tuple(Drawn(prompt=s.prompt, text=s.text) for s in message.samples),
        )
    )
    step.state = replace(state, evaluations=job.serial + 1, evaluating=None)
    name, bits = step.name(sender), message.bits_per_byte
    step.tell(
        ModelEvaluated(
            serial=job.serial,
            node=sender,
            name=name,
            next_round=message.next_round,
            nats_per_token=message.nats_per_token,
            bits_per_byte=bits,
            tokens=message.tokens,
            prompts=tuple(s.prompt for s in message.samples),
            texts=tuple(s.text for s in message.samples),
            took_s=message.took_s,
        )
    )
    step.because(f"{name} measured {bits:.3f} bits per byte after {message.next_round} rounds")


def _check(message: Measured) -> None:
    figures = message.nats_per_token, message.bits_per_byte, message.took_s
    if not all(0 <= f <= MOST for f in figures) or message.tokens < 1:  # not for NaN either
        raise ProtocolError(f"an evaluation's figures must be in 0..{MOST:,.0f}")
    if message.next_round < 0:
        raise ProtocolError(f"an evaluation of round {message.next_round} cannot be")
    long = any(len(s.prompt) + len(s.text) > MAX_TEXT for s in message.samples)
    if long or len(message.samples) > MAX_PROMPTS:
        raise ProtocolError("an evaluation's texts are longer or more than any spec asks for")


def _due(state: State) -> bool:
    every = state.spec.evaluation.every
    return every > 0 and state.committed // every > state.evaluated // every


def _last_due(state: State) -> bool:
    """Whether the final state is not measured, and an evaluator could."""
    wanted = state.spec.evaluation.every > 0 and state.committed > state.evaluated
    return wanted and bool(_able(state, frozenset()))


def _able(state: State, tried: frozenset[str]) -> list[Node]:
    """Who may be asked: evaluators, or trainers where no evaluator can."""
    trainers = [] if state.finished else state.active_trainers()
    for group in (state.active_evaluators(), trainers):
        able = [n for n in group if n.evaluates and n.node not in tried]
        if able:
            return able
    return []


def _ask(step: Step, committed: int, tried: frozenset[str]) -> None:
    """The next node in turn, so that no peer does it every time; none left: not this time."""
    state = step.state
    able = _able(state, tried)
    if not able:
        given_up = committed if tried else state.evaluated  # nobody yet: when somebody comes
        step.state = replace(state, evaluating=None, evaluated=given_up)
        return
    node: Node = able[state.evaluations % len(able)]
    job = Evaluating(
        serial=state.evaluations,
        node=node.node,
        generation=node.generation,
        committed=committed,
        deadline_s=step.now_s + PATIENCE_S,
        tried=tried,
    )
    step.state = replace(state, evaluating=job, evaluated=committed)
    resolved = state.next_round if state.oldest is None else state.oldest
    step.send(node.node, Evaluate(term=state.term, serial=job.serial, next_round=resolved))
    step.because(f"{node.name} is asked for evaluation {job.serial}")


def _pass_over(step: Step, job: Evaluating, reason: str) -> None:
    step.tell(EvaluationFailed(name=step.name(job.node), reason=reason))
    _ask(step, job.committed, job.tried | {job.node})
