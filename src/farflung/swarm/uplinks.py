"""By how much slices may differ: the uplinks that are slower than the fastest, and lastingly. Pure.

Measured rates wobble, and an exchange whose slices follow the wobble is as slow as its worst guess.
So every uplink has a *level*: 0 within a factor 1.5 of the fastest, 1 within its square, and so on.
Slices are cut by levels only, and a level changes only when every one of the last rounds says so:
three rounds where they are two levels away, which noise is not, twelve where it is one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from farflung.swarm.state import Node, Step

STEP = 1.5
"""Rates within this factor of the fastest count as equal to it; also the width of a level."""
MAX_LEVEL = 12
"""About 130 times slower: less than any chunk's share, whatever a node claims to have measured."""
CLEAR_LEVELS, CLEAR_ROUNDS = 2, 3
"""A clear difference counts after this many rounds in a row ..."""
SMALL_ROUNDS = 12
"""... and one of a single level after this many: two noisy rates are that far apart now and then.
"""

UNMEASURED_S = 2.0
"""A contribution that takes longer is measured, with a margin of two (averaging/rates.py)."""


def observe(step: Step, contributors: Iterable[str], contribution_bytes: int) -> None:
    """Once per round, before its first attempt: one more look at the contributors' uplinks."""
    nodes = [step.state.nodes[n] for n in contributors]
    fastest = _fastest(nodes, contribution_bytes)
    for node in nodes:
        seen = (*node.uplink_seen, level(node.up_bytes_per_s, fastest))[-SMALL_ROUNDS:]
        settled = lasting(node.uplink_level, seen)
        step.set_node(replace(node, uplink_seen=seen, uplink_level=settled))
        if settled != node.uplink_level:
            step.because(_sentence(node.name, settled))


def _fastest(nodes: Sequence[Node], contribution_bytes: int) -> float:
    """The fastest measured uplink; an unmeasured one counts as that.

    Where only a slow uplink can be measured it is not the fastest: the others have contributed and
    were done before anything could be measured.
    """
    quick = any(n.uplink_seen and n.up_bytes_per_s <= 0 for n in nodes)
    floor = contribution_bytes / UNMEASURED_S if quick else 0.0
    return max(floor, *(n.up_bytes_per_s for n in nodes))


def level(rate: float, fastest: float) -> int:
    """How many factors of 1.5 lie between a rate and the fastest; 0 for an unknown one."""
    if rate <= 0 or fastest <= rate:
        return 0
    return min(MAX_LEVEL, math.floor((math.log(fastest) - math.log(rate)) / math.log(STEP)))


def lasting(now: int, seen: Sequence[int]) -> int:
    """The level after these looks, newest last: the one nearest to `now` that all of them passed.

    A single look that does not say so keeps the level, so that it cannot flap.
    """
    for rounds, away in ((CLEAR_ROUNDS, CLEAR_LEVELS), (SMALL_ROUNDS, 1)):
        recent = seen[-rounds:]
        if len(recent) < rounds:
            continue
        if min(recent) >= now + away:
            return min(recent)
        if max(recent) <= now - away:
            return max(recent)
    return now


def relative_rates(members: Iterable[Node]) -> Mapping[str, float]:
    """What slices are cut by: the fastest is 1, a level the middle of what it stands for."""
    return {m.node: STEP ** -(m.uplink_level + 0.5) if m.uplink_level else 1.0 for m in members}


def _sentence(name: str, settled: int) -> str:
    if not settled:
        return f"{name}'s uplink is as fast as the others' again"
    return f"{name}'s uplink is {STEP**settled:.1f} times slower than the fastest, or more"
