"""ATTEMPT to VERDICT: one try at averaging a round with a fixed set of contributors. Pure."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import numpy as np

from farflung.averaging.plan import (
    Reach,
    choose_owners,
    chunk_count,
    cut_slices,
    shares,
)
from farflung.errors import ProtocolError
from farflung.events import AttemptStarted, ContributionRejected
from farflung.ids import Hash
from farflung.network.messages import (
    Accuse,
    Attempt,
    Candidate,
    Included,
    Member,
    Result,
    Statistics,
    Verdict,
    Vote,
)
from farflung.swarm import ranges
from farflung.swarm.deadlines import attempt_s, wire_bytes
from farflung.swarm.membership import present
from farflung.swarm.records import Rejected, Return
from farflung.swarm.state import Phase, Round, State, Step, Trial
from farflung.swarm.uplinks import observe, relative_rates

MAX_ATTEMPTS = 3
NO_CLIP = int(np.float32(1.0).view(np.uint32))


def weight_tokens(state: State, round_: Round, node: str) -> int:
    """Ledger tokens since this peer last landed this fragment; never more than it claims."""
    message = round_.ready[node]
    since = state.since.get((node, message.generation))
    if since is None:
        return 0
    pending = ranges.count(state.ledger.pending(node, message.generation, round_.number))
    bound = (since[round_.fragment] + pending) * state.spec.data.seq_len
    return max(0, min(message.tokens, bound))


def begin(step: Step, round_: Round, reason: str) -> str:
    """Send ATTEMPT(r, k). Returns why none is possible, or an empty string."""
    if round_.attempts >= MAX_ATTEMPTS:
        return f"{MAX_ATTEMPTS} attempts failed; last: {reason}"
    able = [n for n in sorted(round_.ready) if _can_contribute(step.state, round_, n)]
    if not able:
        return f"nobody could contribute ({reason})"
    members = step.state.active_members()
    reach = Reach(
        dialable=frozenset(m.node for m in members if m.endpoints), dead=step.state.dead_edges
    )
    keepers = [m.node for m in members if not m.trains]
    usable = [m.node for m in members if m.node not in round_.excluded]
    owners = choose_owners(able, keepers, usable, reach)
    if not owners:
        able, owners = _without_cut_off(able, keepers, usable, reach)
    if not owners and step.state.dead_edges:  # better a second try over a bad link than none
        step.state = replace(step.state, dead_edges=frozenset())
        owners = choose_owners(able, keepers, usable, replace(reach, dead=frozenset()))
    if not owners:
        return "no node can be reached by every contributor; start the host with a keeper"
    _send_attempt(step, round_, able, owners, reason)
    return ""


def _without_cut_off(
    able: list[str], keepers: list[str], usable: list[str], reach: Reach
) -> tuple[list[str], tuple[str, ...]]:
    """Leave out those who lost several links until some node reaches all the others.

    A node with a single dead link is never left out: the other end is as good a suspect.
    """
    left, owners = list(able), tuple[str, ...]()
    while not owners:
        cut = {n: sum(n in dead for dead in reach.dead) for n in left}
        worst = max(left, key=lambda n: (cut[n], n))
        if cut[worst] < 2 or len(left) == 1:
            return able, ()
        left.remove(worst)
        owners = choose_owners(left, keepers, [n for n in usable if n != worst], reach)
    return left, owners


def _can_contribute(state: State, round_: Round, node: str) -> bool:
    message = round_.ready[node]
    return (
        bool(message.commitment)
        and node not in round_.excluded
        and present(state, node, message.generation)
        and weight_tokens(state, round_, node) > 0
    )


def _send_attempt(
    step: Step, round_: Round, able: list[str], owners: tuple[str, ...], reason: str
) -> None:
    elements = step.state.fragment_elements[round_.fragment]
    chunks = chunk_count(elements, step.spec.outer.chunk_elements)
    number = round_.attempts + 1
    if number == 1:
        observe(step, able, wire_bytes(step.state, round_))
    members = step.state.active_members()
    share = shares(owners, relative_rates(members), len(members))
    duration_s = attempt_s(step.state, round_, share, able)
    message = Attempt(
        term=step.state.term,
        round=round_.number,
        attempt=number,
        fragment=round_.fragment,
        candidates=tuple(
            Candidate(
                node=n,
                generation=round_.ready[n].generation,
                commitment=round_.ready[n].commitment,
            )
            for n in able
        ),
        slices=cut_slices(chunks, share),
        members=tuple(Member(node=m.node, endpoints=m.endpoints) for m in members),
        deadline_s=duration_s,
    )
    thaw(step, round_.number)
    frozen = [(c.node, c.generation) for c in message.candidates]
    step.state = replace(step.state, ledger=step.state.ledger.freeze(round_.number, frozen))
    trial = Trial(
        message=message,
        weights={n: weight_tokens(step.state, round_, n) for n in able},
        started_s=step.now_s,
        deadline_s=step.now_s + 1.5 * duration_s,
    )
    step.set_round(replace(round_.enter(Phase.EXCHANGE), trial=trial, attempts=number))
    for member in message.members:
        step.send(member.node, message)
    step.tell(
        AttemptStarted(
            round=round_.number,
            attempt=number,
            candidates=len(able),
            owners=len(owners),
            reason=reason,
            shares=_shares(message, chunks),
        )
    )
    step.because(f"round {round_.number} attempt {number}: {len(able)} contributors, {reason}")


def _shares(message: Attempt, chunks: int) -> tuple[tuple[str, float], ...]:
    """(owner, share of the fragment's chunks), by owner."""
    owned: dict[str, int] = {}
    for place in message.slices:
        owned[place.owner] = owned.get(place.owner, 0) + place.stop - place.first
    return tuple((n, round(k / max(1, chunks), 4)) for n, k in sorted(owned.items()))


def thaw(step: Step, number: int) -> None:
    """Ranges of closed stays that waited for this round's attempt become free."""
    ledger, freed = step.state.ledger.thaw(number)
    step.state = replace(step.state, ledger=ledger)
    for node, generation, what in freed:
        step.append(Return(node=node, generation=generation, ranges=what))


def current(step: Step, message: Statistics | Result | Vote | Accuse) -> Round | None:
    """The round whose open attempt a message is about; None: an older attempt's, ignore it."""
    round_ = step.state.rounds.get(message.round)
    if round_ is None or round_.trial is None:
        return None
    attempt = round_.trial.message
    if (attempt.term, attempt.attempt) != (message.term, message.attempt):
        return None
    return round_


def take_statistics(step: Step, sender: str, message: Statistics) -> Round | None:
    """Store one slice's partial sums. The round when all slices are in."""
    round_ = current(step, message)
    if round_ is None or round_.trial is None or round_.phase is not Phase.EXCHANGE:
        return None
    trial = round_.trial
    _check_owner(trial, sender, message.slice)
    if tuple(p.node for p in message.partials) != trial.candidates:
        raise ProtocolError("statistics must name every candidate, in order")
    known = {**trial.statistics, message.slice: message.partials}
    round_ = replace(round_, trial=replace(trial, statistics=known))
    step.set_round(round_)
    return round_ if len(known) == len(trial.message.slices) else None


def give_verdict(step: Step, round_: Round) -> str:
    """Fix inclusion, clip factors, weights, divisor. Returns why nobody is left, or ''."""
    assert round_.trial is not None
    squares = dict.fromkeys(round_.trial.candidates, 0.0)
    for partials in round_.trial.statistics.values():
        for partial in partials:
            squares[partial.node] += partial.square
    scaled = {n: _scaled(round_.trial, n, square) for n, square in squares.items()}
    finite = [v for v in scaled.values() if math.isfinite(v)]
    limit = step.state.medians.get(round_.fragment, math.inf) * step.spec.swarm.norm_band
    reasons = {n: _reject(v, limit) for n, v in scaled.items()}
    good = [n for n in round_.trial.candidates if not reasons[n]]
    for node in round_.trial.candidates:
        if reasons[node]:
            _tell_rejected(step, round_.number, node, reasons[node])
    if not good:
        # A run whose every norm left the band must not be stuck behind an old median for ever.
        fresh = statistics.median(finite) if finite else math.inf
        medians = {**step.state.medians, round_.fragment: fresh}
        step.state = replace(step.state, medians=medians)
        return "every contribution was rejected: " + "; ".join(sorted(set(reasons.values())))
    rejected = tuple(
        Rejected(node=n, generation=round_.ready[n].generation, reason=reasons[n])
        for n in round_.trial.candidates
        if reasons[n]
    )
    _send_verdict(step, replace(round_, rejected=rejected), good, scaled)
    return ""


def _scaled(trial: Trial, node: str, square: float) -> float:
    """norm / sqrt(tokens), so that slow peers and carried progress are not punished."""
    if not math.isfinite(square) or square < 0:
        return math.inf
    return math.sqrt(square / trial.weights[node])


def _reject(scaled: float, limit: float) -> str:
    if not math.isfinite(scaled):
        return "non-finite values"
    if scaled > limit > 0:
        return f"norm per token {scaled:.3g} is above the band {limit:.3g}"
    return ""


def _tell_rejected(step: Step, number: int, node: str, reason: str) -> None:
    step.tell(ContributionRejected(round=number, node=node, name=step.name(node), reason=reason))


def _send_verdict(step: Step, round_: Round, good: list[str], scaled: dict[str, float]) -> None:
    assert round_.trial is not None
    included = tuple(Included(node=n, weight=round_.trial.weights[n], clip=NO_CLIP) for n in good)
    attempt = round_.trial.message
    verdict = Verdict(
        term=attempt.term,
        round=attempt.round,
        attempt=attempt.attempt,
        included=included,
        divisor=sum(i.weight for i in included),
    )
    median = statistics.median(scaled[n] for n in good)
    step.state = replace(step.state, medians={**step.state.medians, round_.fragment: median})
    trial = replace(round_.trial, verdict=verdict)
    step.set_round(replace(round_.enter(Phase.REDUCE), trial=trial))
    for member in attempt.members:
        step.send(member.node, verdict)


def take_result(step: Step, sender: str, message: Result) -> Round | None:
    round_ = current(step, message)
    if round_ is None or round_.trial is None or round_.phase is not Phase.REDUCE:
        return None
    _check_owner(round_.trial, sender, message.slice)
    _check_hashes(message.hash)
    results = {**round_.trial.results, message.slice: Hash(message.hash)}
    round_ = replace(round_, trial=replace(round_.trial, results=results))
    step.set_round(round_)
    return round_


def take_vote(step: Step, sender: str, message: Vote) -> Round | None:
    round_ = current(step, message)
    if round_ is None or round_.trial is None or round_.phase is not Phase.REDUCE:
        return None
    if sender not in {m.node for m in round_.trial.message.members}:
        return None
    _check_hashes(message.bytes_root, message.fragment_hash)
    votes = {**round_.trial.votes, sender: message}
    round_ = replace(round_, trial=replace(round_.trial, votes=votes))
    step.set_round(round_)
    return round_


def _check_hashes(*hashes: bytes) -> None:
    if any(len(h) != 32 for h in hashes):
        raise ProtocolError("a hash has 32 bytes")


def _check_owner(trial: Trial, sender: str, index: int) -> None:
    slices = trial.message.slices
    if not 0 <= index < len(slices) or slices[index].owner != sender:
        raise ProtocolError(f"slice {index} is not owned by the sender")
