"""COMMIT and ABANDON: the only two ways in which a round ends. Pure."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from farflung.config.run import RunSpec
from farflung.events import RoundAbandoned, RoundCommitted, RunFinished, StateReported
from farflung.hashing import merkle_root
from farflung.ids import Hash
from farflung.network.messages import Moved, Ready, Vote
from farflung.swarm import ending, ranges, slow_links
from farflung.swarm.records import (
    Abandon,
    Admin,
    Commit,
    Contributor,
    Ranges,
    SignedVote,
    SliceHash,
)
from farflung.swarm.state import Round, State, Step, Trial
from farflung.swarm.trial import thaw

FORGET_EDGES_AFTER = 10
"""Rounds after which links that failed are tried again."""


FIRST_HOLD_S = 0.5
MAX_HOLD_S = 8.0
"""Pause after an abandoned round; doubles with each one in a row."""
MOST_TOKENS_OF_A_ROW = 1 << 24
"""A claim above that is nonsense, and would spoil every total that is shown."""
KEPT_ROOTS = 16
"""State roots of this many last rounds are compared with what peers report."""


def fp32_bits(value: float) -> int:
    return int(np.float32(value).view(np.uint32))


def fp32_value(bits: int) -> float:
    """The inverse of `fp32_bits`."""
    return float(np.uint32(bits).view(np.float32))


def agreed(state: State, trial: Trial) -> tuple[SignedVote, ...] | None:
    """The equal votes, when enough durable holders agree on bytes and fragment.

    Only members that are still here are counted: whoever voted and is gone may have taken the only
    copy of the bytes along.
    """
    if trial.verdict is None or len(trial.results) < len(trial.message.slices):
        return None
    bytes_root = merkle_root([trial.results[i] for i in range(len(trial.results))])
    by_hash: dict[bytes, list[SignedVote]] = {}
    for node in sorted(trial.votes):
        if trial.votes[node].bytes_root == bytes_root:
            vote = _signed(node, trial.votes[node])
            by_hash.setdefault(vote.fragment_hash, []).append(vote)
    if not by_hash:
        return None
    live = _live(state)
    present = {h: sum(v.node in live for v in votes) for h, votes in by_hash.items()}
    best = max(by_hash, key=lambda h: (present[h], len(by_hash[h]), h))
    if present[best] < _holders_needed(state, trial):
        return None
    return tuple(by_hash[best])


def _holders_needed(state: State, trial: Trial) -> int:
    """h = min(2, eligible holders). Only votes of connected members count towards it: who voted
    and is gone may have taken the only copy along.

    A member that has just lost its connection is still eligible: if several die at once, what is
    left at one instant must not lower h.
    """
    staying = {n.node for n in state.nodes.values() if n.open}
    return min(2, max(1, len({m.node for m in trial.message.members} & staying)))


def _signed(node: str, vote: Vote) -> SignedVote:
    return SignedVote(
        node=node,
        bytes_root=vote.bytes_root,
        fragment_hash=vote.fragment_hash,
        signature=vote.signature,
    )


def _live(state: State) -> set[str]:
    return {n.node for n in state.active_members()}


def commit(step: Step, round_: Round) -> bool:
    """Append COMMIT(r) when the oldest round has its votes. True when it was committed."""
    trial = round_.trial
    if trial is None or trial.verdict is None or step.state.oldest != round_.number:
        return False
    votes = agreed(step.state, trial)
    if votes is None:
        return False
    record = _record(step.state, round_, _credit(step, round_, trial), votes)
    step.append(record)
    _settle(step, round_, record)
    return True


def _credit(step: Step, round_: Round, trial: Trial) -> tuple[Contributor, ...]:
    assert trial.verdict is not None
    generations = {c.node: (c.generation, c.commitment) for c in trial.message.candidates}
    out: list[Contributor] = []
    for entry in trial.verdict.included:
        generation, commitment = generations[entry.node]
        ledger, credited = step.state.ledger.credit(round_.number, entry.node, generation)
        step.state = replace(step.state, ledger=ledger)
        message = round_.ready[entry.node]
        out.append(
            Contributor(
                node=entry.node,
                generation=generation,
                credited=credited,
                tokens=entry.weight,
                commitment=commitment,
                clip=entry.clip,
                base_round=message.base_round,
                reported=_reported(step.state, message, credited, entry.node),
            )
        )
    return tuple(out)


def _reported(state: State, message: Ready, credited: Ranges, node: str) -> int:
    """What the program counted for the credited rows, if that differs from the ledger's tokens."""
    rows = ranges.count(credited)
    new = message.reported - state.shown.get((node, message.generation), 0)
    new = max(0, min(new, rows * MOST_TOKENS_OF_A_ROW))
    return 0 if new == rows * state.spec.data.seq_len else new


def shown_tokens(contributor: Contributor, seq_len: int) -> int:
    """Tokens of a contribution, for people; decisions go by the ledger's rows.

    `seq_len`: the run's `data.seq_len`.
    """
    return contributor.reported or ranges.count(contributor.credited) * seq_len


def _record(
    state: State,
    round_: Round,
    contributors: tuple[Contributor, ...],
    votes: tuple[SignedVote, ...],
) -> Commit:
    trial = round_.trial
    assert trial is not None and trial.verdict is not None
    hashes = list(state.fragment_hashes)
    base = hashes[round_.fragment]
    hashes[round_.fragment] = Hash(votes[0].fragment_hash)
    return Commit(
        term=state.term,
        round=round_.number,
        attempt=trial.message.attempt,
        fragment=round_.fragment,
        base_hash=base,
        base_round=state.fragment_rounds[round_.fragment],
        codec=state.spec.outer.codec,
        contributors=contributors,
        rejected=round_.rejected,
        divisor=trial.verdict.divisor,
        slices=tuple(
            SliceHash(first=s.first, stop=s.stop, owner=s.owner, hash=trial.results[i])
            for i, s in enumerate(trial.message.slices)
        ),
        bytes_root=votes[0].bytes_root,
        outer_lr=fp32_bits(state.spec.outer.lr),
        outer_momentum=fp32_bits(state.spec.outer.momentum),
        fragment_hash=votes[0].fragment_hash,
        state_root=merkle_root(hashes),
        holders=tuple(v.node for v in votes),
        votes=votes,
    )


def _settle(step: Step, round_: Round, record: Commit) -> None:
    """The state after COMMIT(r)."""
    state = step.state
    rows = sum(ranges.count(c.credited) for c in record.contributors)
    step.state = replace(
        apply_commit(state, record), tokens=state.tokens + rows * state.spec.data.seq_len
    )
    if step.state.committed % FORGET_EDGES_AFTER == 0:
        step.state = replace(step.state, dead_edges=frozenset())
    thaw(step, round_.number)
    step.drop_round(round_.number)
    _tell_committed(step, round_, record)
    slow_links.judge(step, round_)


def apply_commit(state: State, record: Commit) -> State:
    """Fragment hashes and the weights' bookkeeping; shared by live commits and replay.

    `since` counts what is credited but not yet in a fragment: it grows for the other fragments
    and starts again for this one.
    """
    hashes, rounds = list(state.fragment_hashes), list(state.fragment_rounds)
    hashes[record.fragment] = Hash(record.fragment_hash)
    rounds[record.fragment] = record.round
    since, shown = dict(state.since), dict(state.shown)
    for c in record.contributors:
        key = (c.node, c.generation)
        if key in since:
            since[key] = _advance(since[key], record.fragment, c.credited)
            shown[key] = shown.get(key, 0) + shown_tokens(c, state.spec.data.seq_len)
    recent = {r: root for r, root in state.roots.items() if r > record.round - KEPT_ROOTS}
    return replace(
        state,
        roots={**recent, record.round: Hash(record.state_root)},
        fragment_hashes=tuple(hashes),
        fragment_rounds=tuple(rounds),
        since=since,
        shown={key: n for key, n in shown.items() if key in since},
        shown_total=state.shown_total
        + sum(shown_tokens(c, state.spec.data.seq_len) for c in record.contributors),
        committed=state.committed + 1,
        abandoned_in_row=0,
        hold_until_s=0.0,
    )


def _advance(since: tuple[int, ...], fragment: int, credited: Ranges) -> tuple[int, ...]:
    rows = ranges.count(credited)
    return tuple(0 if f == fragment else n + rows for f, n in enumerate(since))


def _tell_committed(step: Step, round_: Round, record: Commit) -> None:
    included = {c.node for c in record.contributors}
    ready = [m for n, m in round_.ready.items() if n in included]
    steps = sum(m.steps for m in ready)
    loss = sum(m.loss_sum for m in ready) / steps if steps else math.nan
    replicated = len(record.holders) >= 2
    step.tell(
        RoundCommitted(
            round=round_.number,
            fragment=round_.fragment,
            attempt=record.attempt,
            contributors=len(included),
            tokens=sum(shown_tokens(c, step.spec.data.seq_len) for c in record.contributors),
            total_tokens=step.state.shown_total,
            loss=loss,
            took_s=step.now_s - round_.opened_s,
            holders=len(record.holders),
            replicated=replicated,
            state_root=record.state_root.hex(),
        )
    )
    word = "" if replicated else ", not replicated"
    step.because(f"round {round_.number} committed by {len(included)}{word}")


def abandon(step: Step, round_: Round, reason: str) -> None:
    """ABANDON(r): nobody applies anything; progress and leases stay where they are."""
    step.append(
        Abandon(term=step.state.term, round=round_.number, fragment=round_.fragment, reason=reason)
    )
    thaw(step, round_.number)
    step.drop_round(round_.number)
    row = step.state.abandoned_in_row + 1
    hold_s = min(MAX_HOLD_S, FIRST_HOLD_S * 2 ** (row - 1))
    step.state = replace(step.state, abandoned_in_row=row, hold_until_s=step.now_s + hold_s)
    step.tell(RoundAbandoned(round=round_.number, fragment=round_.fragment, reason=reason))
    step.because(f"round {round_.number} abandoned: {reason}")


def is_complete(state: State, spec: RunSpec) -> bool:
    if spec.outer.tokens:
        return state.tokens >= spec.outer.tokens
    return state.committed >= spec.outer.rounds


def finish(step: Step) -> None:
    """The run has what it wanted; nothing opens any more."""
    state = step.state
    step.append(Admin(action="finish", who="", reason="complete", from_round=state.next_round))
    step.state = replace(state, finished=True)
    root = merkle_root(state.fragment_hashes).hex()
    step.tell(RunFinished(rounds=state.committed, tokens=state.shown_total, state_root=root))
    step.because("the run is complete")


def state_report(step: Step, sender: str, message: Moved) -> None:
    """A peer's own state hash after a round; a difference is an alarm."""
    expected = step.state.roots.get(message.round)
    if expected is None:
        return
    agrees = message.state_root == expected
    if agrees:
        ending.applied(step, sender, message.round)
    name = step.name(sender)
    step.tell(
        StateReported(
            round=message.round,
            node=sender,
            name=name,
            state_root=message.state_root.hex(),
            agrees=agrees,
            bytes_up=message.bytes_up,
            bytes_down=message.bytes_down,
        )
    )
    if not agrees:
        step.because(f"{name} diverged after round {message.round}; it must resync itself")
