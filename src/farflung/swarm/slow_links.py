"""Peers whose uplink is too slow to contribute: they follow for a while without training. Pure.

A contribution has to leave its peer in the time that the round trains, or `swarm.attempt_s` where
that is longer. When two rounds in a row take longer than that to average, and a contributor's own
measurements say that it is why, its stay ends after the second commit, so that nothing that it
trained is lost, and it is not planned with for some rounds.
"""

from __future__ import annotations

import statistics
from dataclasses import replace

from farflung.swarm.deadlines import wire_bytes
from farflung.swarm.membership import close_generation, enough_without
from farflung.swarm.state import Node, Round, State, Step

STRIKES = 2
"""Rounds in a row that a peer held up."""
OBSERVED_ROUNDS = 20
"""Rounds after which such a peer is tried again."""
RELATIVE = 0.5
"""Nobody within this share of the others' median is put out: then the network is what it is."""


def judge(step: Step, round_: Round) -> None:
    """After COMMIT(r): count who held it up, end the stays of those with two strikes."""
    trial = round_.trial
    assert trial is not None and trial.verdict is not None
    allowed_s = max(step.spec.swarm.attempt_s, trial.started_s - round_.opened_s)
    late = step.now_s - trial.started_s > allowed_s
    floor = wire_bytes(step.state, round_) / allowed_s
    for entry in trial.verdict.included:
        node = step.state.nodes[entry.node]
        slow = late and 0 < node.up_bytes_per_s < min(floor, _others(step.state, node))
        strikes = node.slow_links + 1 if slow else 0
        step.set_node(replace(node, slow_links=strikes))
        if strikes >= STRIKES and node.open and enough_without(step.state, node.node):
            again = step.state.committed + OBSERVED_ROUNDS
            step.set_node(replace(node, slow_links=0, observes_until=again))
            rate = f"{node.up_bytes_per_s / 1000:,.0f} kB/s up is below the floor of"
            reason = f"{rate} {floor / 1000:,.0f} kB/s; follows for {OBSERVED_ROUNDS} rounds"
            close_generation(step, node.node, reason)


def _others(state: State, node: Node) -> float:
    """What the others' links make a fair minimum; an unmeasured one is fast enough."""
    others = [n.up_bytes_per_s or float("inf") for n in state.active_trainers() if n != node]
    return RELATIVE * statistics.median(others) if others else 0.0
