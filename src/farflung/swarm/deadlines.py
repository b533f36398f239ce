"""How long an attempt may take, from what the nodes measured of their own links. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from farflung.averaging.plan import exchange_s
from farflung.swarm.state import Node, Round, State

FLOOR_RATE = 64 * 1024
"""Bytes/s below which no deadline waits for a node, and what is assumed of an unmeasured one."""
PATIENCE = 4.0
"""An attempt may take this many times what the measured rates promise. It is the last resort:
links that move no bytes are accused much earlier (averaging/exchange.py)."""
WIRE_BYTES = {"fp32": 4.0, "bf16": 2.0}
"""Bytes per element by codec; 1.1 for the others."""


def attempt_s(
    state: State, round_: Round, share: Mapping[str, float], candidates: Sequence[str]
) -> float:
    """`swarm.attempt_s` plus the bytes of the slowest member over its rates, with patience."""
    members = state.active_members()
    rates = {m.node: _rates(m) for m in members}
    expected_s = exchange_s(
        wire_bytes(state, round_), share, candidates, [m.node for m in members], rates
    )
    return state.spec.swarm.attempt_s + PATIENCE * expected_s


def wire_bytes(state: State, round_: Round) -> int:
    """A whole contribution on the wire, nearly."""
    elements = state.fragment_elements[round_.fragment]
    return int(elements * WIRE_BYTES.get(state.spec.outer.codec, 1.1))


def _rates(node: Node) -> tuple[float, float]:
    return max(FLOOR_RATE, node.up_bytes_per_s), max(FLOOR_RATE, node.down_bytes_per_s)
