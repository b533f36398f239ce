"""Bytes and seconds of one averaging: the owners and shares that averaging/plan.py would choose.

Contributor i sends D (1 - w_i + w_i (M - 1)), with D bytes of a fragment, w_i its share of the
reduction and M members (trainers and the keeper, which gets a copy).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from farflung.averaging.plan import Reach, choose_owners, exchange_s, shares
from farflung.sizing.groups import PeerGroup
from farflung.sizing.links import LinkClass
from farflung.swarm.uplinks import STEP, level

KEEPER = "the keeper"
ROUND_TRIPS = 4
"""READY to ATTEMPT, contributions, verdict, results and vote: those that bytes do not hide."""
ELEMENT_S = 12e-9
"""Encode, decode, reduce, step and hash, per element, beyond what goes on beside the transfer."""
FIXED_S, PEER_S, COUNTED = 0.05, 0.045, 8
"""Decisions and messages of a round: FIXED_S, and PEER_S for each of the first COUNTED peers.
Fitted with ELEMENT_S to what docs/sizing.md lists."""


@dataclass(frozen=True, kw_only=True)
class MemberTraffic:
    """Of one member of a group, for one round; bytes."""

    up: float
    down: float
    up_s: float
    down_s: float


@dataclass(frozen=True, kw_only=True)
class Exchanged:
    """One averaging among all peers of a plan."""

    seconds: float
    transfer_s: float
    arithmetic_s: float
    """Encoding, reducing, stepping, hashing."""
    traffic: dict[str, MemberTraffic]
    """By group's name, and KEEPER."""
    slowest: str
    """Whose link takes longest: a group's name, or KEEPER."""
    slowest_up: bool
    owners: int
    keeper_owns: bool


def exchange(
    groups: Sequence[PeerGroup], keeper: LinkClass, wire_bytes: float, elements: float
) -> Exchanged:
    """`wire_bytes` and `elements` of the fragment."""
    links = {f"{g.name}#{i}": g.link for g in groups for i in range(g.count)}
    candidates = tuple(links)
    everybody = (*candidates, KEEPER)
    links[KEEPER] = keeper
    dialable = frozenset(n for n in everybody if links[n].dialable)
    reach = Reach(dialable=dialable)
    owners = choose_owners(candidates, (KEEPER,), everybody, reach) or (KEEPER,)
    fastest = max(links[o].up for o in owners)
    rates = {o: _by_level(links[o].up, fastest) for o in owners}
    share = shares(owners, rates, len(everybody))
    traffic: dict[str, MemberTraffic] = {}
    for name in (*(g.name for g in groups), KEEPER):
        node = KEEPER if name == KEEPER else f"{name}#0"
        traffic[name] = _traffic(
            wire_bytes, share.get(node, 0.0), node != KEEPER, len(candidates), links[node]
        )
    slowest = max(traffic, key=lambda n: max(traffic[n].up_s, traffic[n].down_s))
    pairs = {n: (links[n].up, links[n].down) for n in everybody}
    transfer = exchange_s(int(wire_bytes), share, candidates, everybody, pairs)
    fixed = FIXED_S + PEER_S * min(len(candidates), COUNTED)
    trips = ROUND_TRIPS * max(link.rtt_s for link in links.values())
    arithmetic = ELEMENT_S * elements
    return Exchanged(
        seconds=transfer + trips + fixed + arithmetic,
        transfer_s=transfer,
        arithmetic_s=arithmetic,
        traffic=traffic,
        slowest=slowest,
        slowest_up=traffic[slowest].up_s >= traffic[slowest].down_s,
        owners=len(owners),
        keeper_owns=owners == (KEEPER,),
    )


def _by_level(rate: float, fastest: float) -> float:
    """Slices follow levels of 1.5, not rates (swarm/uplinks.py)."""
    steps = level(rate, fastest)
    return STEP ** -(steps + 0.5) if steps else 1.0


def _traffic(
    wire: float, own: float, contributes: bool, contributors: int, link: LinkClass
) -> MemberTraffic:
    """As in averaging/plan.py: `exchange_s`, before the largest of all is taken."""
    up = wire * (contributes * (1 - own) + own * contributors)
    down = wire * (own * (contributors - contributes) + (1 - own))
    return MemberTraffic(up=up, down=down, up_s=up / link.up, down_s=down / link.down)
