"""Accusations and what follows: who is left out, which links are planned around. Pure."""

from __future__ import annotations

from dataclasses import replace

from farflung.averaging.plan import Edge, edge
from farflung.errors import ProtocolError
from farflung.events import AttemptFailed, EdgeFailed
from farflung.ids import AccusationKind
from farflung.network.messages import Accuse
from farflung.swarm.membership import present
from farflung.swarm.state import Round, State, Step, Trial
from farflung.swarm.trial import current

GATHER_S = 0.3
"""Accusations of one attempt are gathered this long and judged together."""
SILENCE_GATHER_S = 1.5
"""The same for silence: buffers empty at different times, so stalls are seen one by one."""


def take_accusation(step: Step, sender: str, message: Accuse) -> None:
    round_ = current(step, message)
    if round_ is None or round_.trial is None:
        return
    members = {m.node for m in round_.trial.message.members}
    if sender not in members:
        return
    if not members >= set(message.nodes):
        raise ProtocolError("an accusation names a node that is not in the attempt")
    new = tuple((sender, accused, message.kind) for accused in message.nodes)
    silence = message.kind == AccusationKind.SILENT
    judge_s = step.now_s + (SILENCE_GATHER_S if silence else GATHER_S)
    trial = replace(
        round_.trial,
        accusations=round_.trial.accusations + new,
        judge_s=round_.trial.judge_s or judge_s,
    )
    step.set_round(replace(round_, trial=trial))


def lost_nodes(state: State, round_: Round) -> set[str]:
    """Nodes whose absence stops this attempt: owners with work to do, candidates with data."""
    trial = round_.trial
    assert trial is not None
    done = trial.results if trial.verdict else trial.statistics
    lost = {
        s.owner
        for i, s in enumerate(trial.message.slices)
        if i not in done and not _here(state, s.owner)
    }
    if trial.verdict is None:
        lost |= {n for n in trial.candidates if not _here(state, n)}
    return lost


def _here(state: State, name: str) -> bool:
    node = state.nodes[name]
    return node.open and present(state, name, node.generation)


def judge(step: Step, round_: Round) -> str:
    """Why this attempt must be given up now; '' while it may still succeed."""
    trial = round_.trial
    assert trial is not None
    lost = lost_nodes(step.state, round_)
    if lost and not trial.judge_s:
        trial = replace(trial, judge_s=step.now_s + GATHER_S)
        step.set_round(replace(round_, trial=trial))
    late = step.now_s >= trial.deadline_s
    gathered = bool(trial.judge_s) and step.now_s >= trial.judge_s
    if not late and not (gathered and (lost or trial.accusations)):
        return ""
    guilty = _guilty(step, round_, lost)
    reason = _describe(step, trial, guilty, late)
    attempt = trial.message.attempt
    without = tuple(sorted(guilty))
    step.tell(AttemptFailed(round=round_.number, attempt=attempt, reason=reason, without=without))
    step.set_round(
        replace(
            step.state.rounds[round_.number],
            excluded=round_.excluded | frozenset(guilty),
            trial=None,
        )
    )
    return reason


def _guilty(step: Step, round_: Round, lost: set[str]) -> set[str]:
    """Who must be left out of the next attempt; single dead edges are planned around instead."""
    trial = round_.trial
    assert trial is not None
    guilty = set(lost)
    accusers: dict[str, set[str]] = {}
    for accuser, accused, kind in trial.accusations:
        if not _here(step.state, accuser):
            continue
        if kind == AccusationKind.BAD_BYTES or not _here(step.state, accused):
            guilty.add(accused)
        else:
            accusers.setdefault(accused, set()).add(accuser)
    edges = set(step.state.dead_edges)
    for accused, by in accusers.items():
        if len(by) >= 2 and len(by) * 2 > len(trial.message.members) - 1:
            guilty.add(accused)
        edges |= {edge(accuser, accused) for accuser in by}
    _tell_edges(step, trial)
    step.state = replace(step.state, dead_edges=frozenset(edges))
    if not trial.accusations and not lost:
        guilty |= _idle_owners(trial)
    if guilty >= set(trial.candidates) - lost:
        return set(lost)  # everybody blames everybody: leave out only those who are gone
    return guilty


def _tell_edges(step: Step, trial: Trial) -> None:
    told: set[Edge] = set()
    for accuser, accused, kind in trial.accusations:
        if kind == AccusationKind.BAD_BYTES or not _here(step.state, accused):
            continue
        if (accuser, accused) not in told:
            told.add((accuser, accused))
            source, target = accused, accuser
            if kind == AccusationKind.UNREACHABLE:
                source, target = target, source
            step.tell(
                EdgeFailed(
                    round=trial.message.round,
                    attempt=trial.message.attempt,
                    source=step.name(source),
                    target=step.name(target),
                    fault=kind,
                    source_node=source,
                    target_node=target,
                )
            )


def _idle_owners(trial: Trial) -> set[str]:
    """Owners that have not delivered by the deadline although nobody accused anybody."""
    done = trial.results if trial.verdict else trial.statistics
    return {s.owner for i, s in enumerate(trial.message.slices) if i not in done}


def _describe(step: Step, trial: Trial, guilty: set[str], late: bool) -> str:
    if guilty:
        return "without " + ", ".join(sorted(step.name(n) for n in guilty))
    if trial.accusations:
        pairs = sorted({(step.name(a), step.name(b)) for a, b, _ in trial.accusations})
        return "dead links: " + ", ".join(f"{a}-{b}" for a, b in pairs)
    return "deadline passed" if late else "contributors lost"
