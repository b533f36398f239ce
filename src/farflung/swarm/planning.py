"""PLAN and READY: opening rounds, granting leases, deciding when an attempt may start. Pure."""

from __future__ import annotations

import math
from dataclasses import replace

from farflung.errors import ProtocolError
from farflung.events import Paused, PeerReady, Resumed, RoundOpened, inert
from farflung.network.messages import Plan, Ready
from farflung.swarm import ranges
from farflung.swarm.membership import present
from farflung.swarm.records import Grant, Lease, Ranges
from farflung.swarm.state import Link, Node, Phase, Round, State, Step
from farflung.words import counted

SAME_SPEED = 0.9
"""A peer at or above this share of the fastest gets the full budget: measured speeds wobble."""
CLEARLY_SLOWER = 0.6
SLOWER_ROUNDS = 3
"""Below the first share a peer is planned with less at once; in between after so many rounds in a
row, so that one round on a busy machine does not make an equal peer one that nobody waits for."""
COURTESY = 0.02
"""How much longer a round may take, as a share, for slower peers and for newcomers."""
LEAST_COURTESY_S = 0.1
"""A courtesy below the coordinator's tick would cost a whole tick: there is none then."""
MISSES = 3
"""A slower peer that came too late this often in a row gets a plan without steps."""
PACE_FLOOR = 0.5
PACE_DOWN, PACE_UP = 0.95, 0.005
"""A slower peer that came too late gets less work the next time, and slowly more again."""


def open_rounds(step: Step) -> None:
    """Open as many rounds as the window allows, or say why none may open."""
    while not step.state.finished and len(step.state.rounds) < _window(step.state):
        if step.now_s < step.state.hold_until_s:
            return
        obstacle = _obstacle(step.state)
        if obstacle:
            if obstacle != step.state.waiting:
                step.state = replace(step.state, waiting=obstacle)
                step.tell(Paused(reason=obstacle))
                step.because(obstacle)
            return
        if step.state.waiting:
            step.tell(Resumed(reason=f"{len(step.state.active_trainers())} trainers"))
            step.state = replace(step.state, waiting="")
        _open_round(step)


def _window(state: State) -> int:
    """Rounds that may be unresolved, never more than are left to commit."""
    if state.spec.outer.tokens:
        return state.spec.outer.window
    return min(state.spec.outer.window, state.spec.outer.rounds - state.committed)


def _obstacle(state: State) -> str:
    """Why no round may open now; empty when one may."""
    rules = state.spec.swarm
    active = len(state.active_trainers())
    first = state.committed == 0 and state.next_round == 0
    needed = max(rules.min_peers, rules.start_peers) if first else rules.min_peers
    if active < needed:
        verb = "waiting" if first else "paused"
        return f"{verb}: {active} of {'at least ' if first else 'min '}{counted(needed, 'peer')}"
    return ""


def _open_round(step: Step) -> None:
    state = step.state
    number, batch = state.next_round, step.spec.inner.batch_rows
    fragment = number % len(state.fragment_hashes)
    trainers = state.active_trainers()
    # Before the budgets are added up: the first round of a stay is the one without any yet.
    newcomers = frozenset(n.node for n in trainers if n.budget == 0)
    paced = _slower(step, trainers)
    budgets = {n.node: _budget(step, n, trainers, paced) * batch for n in trainers}
    grants = tuple(_grant(step, node, budgets[node.node]) for node in trainers)
    step.append(Lease(round=number, term=state.term, fragment=fragment, grants=grants))
    round_ = Round(
        number=number,
        fragment=fragment,
        opened_s=step.now_s,
        deadline_s=step.now_s + _round_deadline_s(step, trainers),
        planned={node.node: node.generation for node in trainers},
        budgets=budgets,
        paced=paced,
        newcomers=newcomers,
    )
    step.set_round(round_)
    step.state = replace(step.state, next_round=number + 1)
    for node in trainers:
        send_plan(step, round_, node.node)
    rows = sum(ranges.count(grant.ranges) for grant in grants)
    step.tell(RoundOpened(round=number, fragment=fragment, peers=len(trainers), rows=rows))
    step.because(f"round {number} opens with {len(trainers)} trainers")


def _slower(step: Step, trainers: list[Node]) -> frozenset[str]:
    """Who gets less work in this round for being slower. Counts rounds at lower speed."""
    slower = set()
    for node in trainers:
        ratio = _speed(node, trainers)
        rounds = node.slower + 1 if ratio < SAME_SPEED else 0
        step.set_node(replace(node, slower=rounds))
        if ratio < CLEARLY_SLOWER or rounds >= SLOWER_ROUNDS:
            slower.add(node.node)
    return frozenset(slower)


def _budget(step: Step, node: Node, trainers: list[Node], paced: frozenset[str]) -> int:
    """h_m(r) = floor(C_m(r+1)) - floor(C_m(r)), so that all finish together (TRAINING 1)."""
    slower = node.node in paced
    if slower and node.missed >= MISSES:
        return 0  # it is ready at once, and what it has trained is contributed
    share = _speed(node, trainers) * node.pace if slower else 1.0
    current = step.state.nodes[node.node]
    after = current.budget + step.spec.steps_per_round * share
    step.set_node(replace(current, budget=after))
    return math.floor(after) - math.floor(current.budget)


def _speed(node: Node, trainers: list[Node]) -> float:
    """Share of the fastest peer's speed; 1 while either is unknown."""
    fastest = max((n.steps_per_s for n in trainers), default=0.0)
    return node.steps_per_s / fastest if fastest > 0 and node.steps_per_s > 0 else 1.0


def _grant(step: Step, node: Node, rows: int) -> Grant:
    """Rows for the budget, on top of what is left of leases that no open round needs."""
    left = ranges.count(step.state.ledger.untrained(node.node, node.generation))
    missing = max(0, rows + _needed_before(step.state, node.node) - left)
    granted: Ranges = ()
    if missing:
        ledger, granted = step.state.ledger.grant(node.node, node.generation, missing)
        step.state = replace(step.state, ledger=ledger)
    return Grant(node=node.node, generation=node.generation, ranges=granted)


def _needed_before(state: State, node: str, number: int | None = None) -> int:
    """Rows that open rounds (before `number`) still expect of this node."""
    return sum(
        r.budgets.get(node, 0)
        for r in state.rounds.values()
        if node not in r.ready and (number is None or r.number < number)
    )


def _round_deadline_s(step: Step, trainers: list[Node]) -> float:
    speeds = sorted(n.steps_per_s for n in trainers if n.steps_per_s > 0)
    if not speeds:
        return step.spec.swarm.round_s
    return max(step.spec.swarm.round_s, 3 * step.spec.steps_per_round / speeds[len(speeds) // 2])


def send_plan(step: Step, round_: Round, node: str) -> None:
    """PLAN(r) for one peer. After a restart or reconnection it is sent again, unchanged."""
    state = step.state
    generation = round_.planned[node]
    untrained, rows = _share(state, round_, node)
    steps = rows // step.spec.inner.batch_rows
    start, end = _progress(state, round_.number)
    step.send(
        node,
        Plan(
            term=state.term,
            round=round_.number,
            fragment=round_.fragment,
            generation=generation,
            steps=steps,
            ranges=untrained,
            progress_start=start,
            progress_end=end,
        ),
    )


def _share(state: State, round_: Round, node: str) -> tuple[Ranges, int]:
    """The node's untrained leases up to the end of this round's share, and the share's rows.

    The newest round takes all the rest. Earlier rounds' rows are named again: an earlier plan may
    have been sent with fewer of them, and a claim must not skip a row.
    """
    untrained = state.ledger.untrained(node, round_.planned[node])
    total = ranges.count(untrained)
    before = min(total, _needed_before(state, node, round_.number))
    if round_.number + 1 == state.next_round:
        return untrained, total - before
    rows = min(total - before, round_.budgets[node])
    return ranges.take(untrained, before + rows)[0], rows


def _progress(state: State, number: int) -> tuple[float, float]:
    """Share of the run that is committed, before and after this round.

    An abandoned round does not advance it: rounds ahead in the window are counted as committed.
    """
    outer = state.spec.outer
    ahead = number - min(state.rounds, default=number)
    if outer.tokens:
        each = sum(
            ranges.count(state.ledger.untrained(n.node, n.generation))
            for n in state.active_trainers()
        )
        each_tokens = each * state.spec.data.seq_len
        start = (state.tokens + ahead * each_tokens) / outer.tokens
        return min(1.0, start), min(1.0, start + each_tokens / outer.tokens)
    start = (state.committed + ahead) / outer.rounds
    return min(1.0, start), min(1.0, start + 1 / outer.rounds)


def ready(step: Step, sender: str, message: Ready) -> None:
    """READY(r): claims become PENDING. Claims for a resolved round come again with the next."""
    state = step.state
    round_ = state.rounds.get(message.round)
    if round_ is None or message.term != state.term:
        return
    if round_.planned.get(sender) != message.generation:
        return
    if not present(state, sender, message.generation):
        return
    if len(message.commitment) not in (0, 32):
        raise ProtocolError(f"a commitment has 32 bytes, not {len(message.commitment)}")
    # A commit may have credited part of the claim while it was on its way.
    claim = ranges.subtract(message.trained, state.ledger.credited)
    ledger = state.ledger.train(sender, message.generation, message.round, claim)
    step.state = replace(state, ledger=ledger)
    known = message.round in state.rounds and sender in round_.ready
    step.set_round(replace(round_, ready={**round_.ready, sender: message}))
    if not known:
        step.tell(
            PeerReady(
                round=message.round,
                node=sender,
                name=step.name(sender),
                steps=message.steps,
                tokens=message.tokens,
                loss_sum=message.loss_sum,
                compute_s=message.compute_s,
                wait_s=message.wait_s,
                note=inert(message.note),
            )
        )


def may_start(step: Step, round_: Round) -> str:
    """Why the attempt starts now; empty: wait. Marks the moment of the quorum."""
    state = step.state
    awaited = [n for n, gen in round_.planned.items() if _awaited(step, n, gen)]
    here = [n for n in round_.ready if n in awaited]
    if awaited and len(here) == len(awaited):
        return f"all {len(here)} ready"
    if not awaited or not here:
        return ""
    if len(here) >= math.ceil(step.spec.swarm.quorum_fraction * len(awaited)):
        reason = _patience_over(step, round_, awaited)
        if reason:
            return f"{len(here)} of {len(awaited)} ready {reason}"
    if step.now_s >= state.rounds[round_.number].deadline_s:
        return f"{len(here)} of {len(awaited)} ready at the deadline"
    return ""


def _patience_over(step: Step, round_: Round, awaited: list[str]) -> str:
    """With a quorum: why nobody is waited for any longer; empty: wait. Notes when it was reached.

    Peers at full speed get the grace window. Those that were planned with less work, and those
    that have just come (they begin later, by what they fetch), are waited for only so long that
    the round is hardly longer for it: what they train counts next time.
    """
    now, rules = step.now_s, step.spec.swarm
    full = [n for n in awaited if n not in round_.paced | round_.newcomers]
    if full and all(n in round_.ready for n in full):
        full_s = round_.full_s or now
        courtesy_s = min(rules.grace_s, COURTESY * (full_s - round_.opened_s))
        if now - full_s >= courtesy_s or courtesy_s < LEAST_COURTESY_S:
            return "after all at full speed"
    else:
        full_s = 0.0
    if round_.quorum_s and now - round_.quorum_s >= rules.grace_s:
        return "after the grace window"
    quorum_s = round_.quorum_s or now
    if (quorum_s, full_s) != (round_.quorum_s, round_.full_s):
        step.set_round(replace(round_, quorum_s=quorum_s, full_s=full_s))
    return ""


def set_pace(step: Step, round_: Round) -> None:
    """The first attempt starts: slower peers that are in time may do more, late ones less.

    Without it a peer that is always late by a little would idle every second round.
    """
    batch = step.spec.inner.batch_rows
    for name in sorted(round_.paced):
        node = step.state.nodes[name]
        if node.generation != round_.planned[name] or name in round_.newcomers:
            continue
        if name in round_.ready:
            step.set_node(replace(node, missed=0, pace=min(1.0, node.pace + PACE_UP)))
            continue
        pace = node.pace
        if round_.budgets[name] > batch:  # a single step cannot be made shorter
            pace = max(PACE_FLOOR, pace * PACE_DOWN)
        step.set_node(replace(node, missed=node.missed + 1, pace=pace))


def _awaited(step: Step, name: str, generation: int) -> bool:
    """Linked stays, and after a restart those that may still come back."""
    node = step.state.nodes[name]
    if not node.open or node.generation != generation:
        return False
    return node.link is Link.ACTIVE or node.unknown_until_s > step.now_s


def hopeless(step: Step, round_: Round) -> bool:
    """Nobody who was given this plan is left."""
    return round_.phase is Phase.TRAIN and not any(
        step.state.nodes[n].open and step.state.nodes[n].generation == gen
        for n, gen in round_.planned.items()
    )
