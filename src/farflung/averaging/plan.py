"""Who reduces which slice: pure functions of the members, their links and their rates.

Direct reduce-scatter and all-gather: contributor i sends slice j to owner j, owner j sends the
result to everybody. Peer i then uploads D * (1 - w_i + w_i * (N - 1)) for a share w_i of the D
bytes, so a slow peer, or one that nobody can dial, gets w_i = 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from farflung.network.messages import Slice

Edge = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Reach:
    """What is known about the links of the moment."""

    dialable: frozenset[str]
    """Nodes that advertise at least one endpoint."""
    dead: frozenset[Edge] = frozenset()
    """Pairs that failed lately, each stored as (smaller id, larger id)."""

    def linked(self, a: str, b: str) -> bool:
        """True when one of the two can dial the other and their link is not known to be dead."""
        return a == b or (
            (a in self.dialable or b in self.dialable) and edge(a, b) not in self.dead
        )


def edge(a: str, b: str) -> Edge:
    return (a, b) if a < b else (b, a)


def chunk_count(elements: int, chunk_elements: int) -> int:
    return -(-elements // chunk_elements)


def choose_owners(
    candidates: Sequence[str], keepers: Sequence[str], members: Iterable[str], reach: Reach
) -> tuple[str, ...]:
    """Candidates that every candidate can exchange with; else keepers; () when nobody can.

    A candidate that also reaches every other member is preferred: the others get the result
    directly instead of fetching it by hash.
    """
    everybody = tuple(members)
    able = [c for c in candidates if all(reach.linked(c, other) for other in candidates)]
    best = tuple(c for c in able if all(reach.linked(c, m) for m in everybody))
    if best or able:
        return best or tuple(able)
    return tuple(k for k in keepers if all(reach.linked(k, c) for c in candidates))


def shares(owners: Sequence[str], rates: Mapping[str, float], candidates: int) -> dict[str, float]:
    """Share of the fragment that each owner reduces; they add up to 1.

    `rates` may have any unit; an owner without one counts as the fastest. Equal rates give equal
    shares. Otherwise the smallest time T for which f_i = max(0, (T * b_i / V - 1) / (N - 2)) adds
    up to 1, found by bisection with V = 1. `candidates` is N, everybody who gets the result.
    """
    best = max((rates.get(o, 0.0) for o in owners), default=0.0)
    known = [rates.get(o, 0.0) or best for o in owners]
    if candidates <= 2 or best <= 0 or min(known) == best:
        return {o: 1 / len(owners) for o in owners}

    def total(time_s: float) -> float:
        return sum(max(0.0, (time_s * b - 1) / (candidates - 2)) for b in known)

    low, high = 0.0, 2.0 * candidates / min(known)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if total(middle) >= 1 else (middle, high)
    raw = [max(0.0, (high * b - 1) / (candidates - 2)) for b in known]
    return {o: f / sum(raw) for o, f in zip(owners, raw, strict=True)}


def exchange_s(
    fragment_bytes: int,
    share: Mapping[str, float],
    candidates: Iterable[str],
    members: Iterable[str],
    rates: Mapping[str, tuple[float, float]],
) -> float:
    """Seconds until the slowest member has sent and received everything, at these rates.

    `rates`: (up, down) bytes/s of every member, above 0. Contributors send the slices that they
    do not own, owners send theirs to everybody else; members receive whatever they do not own.
    """
    contributing, everybody = set(candidates), tuple(members)
    slowest = 0.0
    for member in everybody:
        up_rate, down_rate = rates[member]
        own, contributes = share.get(member, 0.0), member in contributing
        up = contributes * (1 - own) + own * (len(everybody) - 1)
        down = own * (len(contributing) - contributes) + (1 - own)
        slowest = max(slowest, up * fragment_bytes / up_rate, down * fragment_bytes / down_rate)
    return slowest


def cut_slices(chunks: int, share: Mapping[str, float]) -> tuple[Slice, ...]:
    """Contiguous slices of codec chunks in proportion to the shares, none of them empty."""
    slices: list[Slice] = []
    done, upto = 0, 0.0
    owners = list(share)
    for i, owner in enumerate(owners):
        upto += share[owner]
        stop = chunks if i == len(owners) - 1 else min(chunks, round(chunks * upto))
        if stop > done:
            slices.append(Slice(first=done, stop=stop, owner=owner))
            done = stop
    return tuple(slices)
