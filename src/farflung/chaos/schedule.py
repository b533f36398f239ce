"""Which faults strike when: a pure function of seed, length and number of peers.

Times are seconds after the storm's start. Every fault ends before the storm does. At any time at
least `min_peers` peers are untouched by a fault that stops or cuts them off.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from enum import StrEnum

HOST = "host"
WITNESS = "p0"
"""This peer is never killed: its resources are compared over the whole storm."""


class Kind(StrEnum):
    """What can strike; the text is what people read."""

    KILL = "kill peer"
    STOP = "stop peer"
    KILL_HOST = "kill host"
    PARTITION = "partition"
    ONE_WAY = "one-way partition"
    RESET = "reset link"
    SLOW = "slow links"
    DELAY = "delayed links"
    JOIN = "join"
    LEAVE = "leave"
    DOUBLE = "double start"
    DISK = "full disk of a peer"
    HOST_DISK = "full disk of the host"


INTERVAL_S: dict[Kind, float] = {
    Kind.KILL: 4.8,
    Kind.KILL_HOST: 30.0,
    Kind.STOP: 30.0,
    Kind.PARTITION: 36.0,
    Kind.ONE_WAY: 36.0,
    Kind.RESET: 8.0,
    Kind.SLOW: 40.0,
    Kind.DELAY: 40.0,
    Kind.JOIN: 32.0,
    Kind.DOUBLE: 60.0,
    Kind.DISK: 60.0,
    Kind.HOST_DISK: 120.0,
}
"""Mean time between two faults of a kind, with five peers."""
USUAL_PEERS = 5
LINK_KINDS = frozenset({Kind.PARTITION, Kind.ONE_WAY, Kind.RESET, Kind.SLOW, Kind.DELAY})
CUTTING = frozenset({Kind.PARTITION, Kind.ONE_WAY})
RETRY_S = 0.5
"""How much later a fault strikes for which there is no target now."""
LAST_S = 1.0
"""No fault strikes in the storm's last second."""
POLITE = 0.6
"""Share of late peers that say goodbye; the others are killed for good."""
DOUBLE_S = 8.0
"""How long a second process of one key may try."""

Pairs = tuple[tuple[str, str], ...]
"""Directed: (from, to)."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that happens. `lasts_s` is 0 for what has no end."""

    number: int
    kind: Kind
    at_s: float
    lasts_s: float = 0.0
    nodes: tuple[str, ...] = ()
    """Whom it strikes: processes, or those whose links are bad."""
    links: Pairs = ()
    amount: float = 0.0
    """Bytes/s with `slow links`, seconds one way with `delayed links`."""
    returns: bool = True
    """Whether a killed peer comes back."""

    @property
    def end_s(self) -> float:
        return self.at_s + self.lasts_s


@dataclass
class _Peer:
    """What the schedule knows of one peer."""

    name: str
    busy_until_s: float = 0.0
    """A fault of its process, and its return."""
    cut_until_s: float = 0.0
    leaves_s: float = float("inf")
    gone: bool = False


@dataclass
class _Timeline:
    """The walk through time."""

    rng: random.Random
    length_s: float
    min_peers: int
    peers: dict[str, _Peer]
    faults: list[Fault] = field(default_factory=list)
    host_until_s: float = 0.0
    late: int = 0

    def here(self) -> list[_Peer]:
        return [p for p in self.peers.values() if not p.gone]

    def free(self, now_s: float) -> list[_Peer]:
        """Peers whose process is left alone now."""
        return [p for p in self.here() if p.busy_until_s <= now_s]

    def sound(self, now_s: float) -> list[_Peer]:
        return [p for p in self.free(now_s) if p.cut_until_s <= now_s]

    def victims(self, now_s: float, *, killing: bool) -> list[_Peer]:
        """Peers whose process may be struck: enough others stay sound."""
        sound = {p.name for p in self.sound(now_s)}
        return [
            p
            for p in self.free(now_s)
            if len(sound - {p.name}) >= self.min_peers and not (killing and p.name == WITNESS)
        ]

    def lasting(self, now_s: float, low_s: float, high_s: float) -> float:
        """A duration that ends with the storm at the latest."""
        return max(0.0, min(self.rng.uniform(low_s, high_s), self.length_s - now_s))

    def add(self, kind: Kind, at_s: float, lasts_s: float = 0.0, **rest: object) -> None:
        number = len(self.faults)
        fault = Fault(number=number, kind=kind, at_s=at_s, lasts_s=lasts_s, **rest)  # type: ignore[arg-type]
        self.faults.append(fault)


def make_schedule(
    seed: int,
    length_s: float,
    peers: int,
    min_peers: int = 2,
    kinds: frozenset[Kind] = frozenset(Kind),
) -> tuple[Fault, ...]:
    """All faults of a storm, by time. Equal arguments give equal schedules."""
    rng = random.Random(f"{seed}/{length_s:g}/{peers}")
    names = [f"p{i}" for i in range(peers)]
    plan = _Timeline(
        rng=rng, length_s=length_s, min_peers=min_peers, peers={n: _Peer(n) for n in names}
    )
    due = _times(rng, length_s, peers, kinds)
    while due:
        at_s, kind, name = due.pop(0)
        if at_s > length_s - LAST_S:
            continue
        if kind is Kind.LEAVE:
            done = _leave(plan, at_s, plan.peers[name])
        else:
            done = _STRIKES[kind](plan, at_s)
        if not done:
            _insert(due, (at_s + RETRY_S, kind, name))
        elif kind is Kind.JOIN:
            peer = list(plan.peers.values())[-1]
            _insert(due, (peer.leaves_s, Kind.LEAVE, peer.name))
    return tuple(plan.faults)


_Due = tuple[float, Kind, str]


def _insert(due: list[_Due], one: _Due) -> None:
    due.append(one)
    due.sort()


def _times(rng: random.Random, length_s: float, peers: int, kinds: frozenset[Kind]) -> list[_Due]:
    """One time in each of n equal parts of the storm, so that counts do not depend on luck."""
    due: list[_Due] = []
    for kind, interval_s in INTERVAL_S.items():
        if kind not in kinds:
            continue
        if kind not in (Kind.KILL_HOST, Kind.HOST_DISK):
            interval_s *= USUAL_PEERS / peers
        n = max(1, round(length_s / interval_s))
        for i in range(n):
            due.append(((i + rng.uniform(0.05, 0.95)) * length_s / n, kind, ""))
    return sorted(due)


# ---- what each kind does with its time -----------------------------------------------------


def _kill(plan: _Timeline, at_s: float) -> bool:
    victims = plan.victims(at_s, killing=True)
    if not victims:
        return False
    peer = plan.rng.choice(victims)
    # Mostly short absences: many kills need many peers that are there to be killed.
    away_s = min(10.0 * plan.rng.random() ** 2.5, plan.length_s - at_s)
    plan.add(Kind.KILL, at_s, away_s, nodes=(peer.name,))
    # Some are struck again while they catch up.
    peer.busy_until_s = at_s + away_s + plan.rng.uniform(0.3, 4.0)
    return True


def _stop(plan: _Timeline, at_s: float) -> bool:
    victims = plan.victims(at_s, killing=False)
    if not victims:
        return False
    peer = plan.rng.choice(victims)
    lasts_s = plan.lasting(at_s, 2.0, 20.0)
    plan.add(Kind.STOP, at_s, lasts_s, nodes=(peer.name,))
    peer.busy_until_s = at_s + lasts_s + 2.0
    return True


def _kill_host(plan: _Timeline, at_s: float) -> bool:
    if plan.host_until_s > at_s:
        return False
    away_s = plan.lasting(at_s, 0.0, 5.0)
    plan.add(Kind.KILL_HOST, at_s, away_s, nodes=(HOST,))
    plan.host_until_s = at_s + away_s + 4.0
    return True


def _partition(plan: _Timeline, at_s: float) -> bool:
    """A group of peers is cut off from everybody else, the host included."""
    spare = len(plan.sound(at_s)) - plan.min_peers
    if spare < 1:
        return False
    group = plan.rng.sample([p.name for p in plan.sound(at_s)], plan.rng.randint(1, min(spare, 2)))
    others = [HOST, *(p.name for p in plan.here() if p.name not in group)]
    links = [pair for a in group for b in others for pair in ((a, b), (b, a))]
    lasts_s = plan.lasting(at_s, 2.0, 15.0)
    plan.add(Kind.PARTITION, at_s, lasts_s, nodes=tuple(group), links=tuple(links))
    for name in group:
        plan.peers[name].cut_until_s = at_s + lasts_s
    return True


def _one_way(plan: _Timeline, at_s: float) -> bool:
    """One peer is not heard, or does not hear, by some of the others."""
    sound = plan.sound(at_s)
    if len(sound) - 1 < plan.min_peers:
        return False
    peer = plan.rng.choice(sound)
    others = [HOST, *(p.name for p in plan.here() if p is not peer)]
    hit = plan.rng.sample(others, plan.rng.randint(1, len(others)))
    deaf = plan.rng.random() < 0.5
    links = tuple((o, peer.name) if deaf else (peer.name, o) for o in hit)
    lasts_s = plan.lasting(at_s, 2.0, 15.0)
    plan.add(Kind.ONE_WAY, at_s, lasts_s, nodes=(peer.name,), links=links)
    peer.cut_until_s = at_s + lasts_s
    return True


def _reset(plan: _Timeline, at_s: float) -> bool:
    names = [HOST, *(p.name for p in plan.here())]
    a, b = plan.rng.sample(names, 2)
    plan.add(Kind.RESET, at_s, nodes=(a, b), links=((a, b), (b, a)))
    return True


def _all_links(plan: _Timeline, name: str) -> Pairs:
    others = [HOST, *(p.name for p in plan.here() if p.name != name)]
    return tuple(pair for o in others for pair in ((name, o), (o, name)))


def _slow(plan: _Timeline, at_s: float) -> bool:
    peer = plan.rng.choice(plan.here())
    rate = float(plan.rng.choice([8_000, 20_000, 60_000, 200_000]))
    lasts_s = plan.lasting(at_s, 5.0, 20.0)
    links = _all_links(plan, peer.name)
    plan.add(Kind.SLOW, at_s, lasts_s, nodes=(peer.name,), links=links, amount=rate)
    return True


def _delay(plan: _Timeline, at_s: float) -> bool:
    peer = plan.rng.choice(plan.here())
    lasts_s = plan.lasting(at_s, 5.0, 20.0)
    amount = round(plan.rng.uniform(0.02, 0.3), 3)
    links = _all_links(plan, peer.name)
    plan.add(Kind.DELAY, at_s, lasts_s, nodes=(peer.name,), links=links, amount=amount)
    return True


def _join(plan: _Timeline, at_s: float) -> bool:
    name = f"late{plan.late}"
    plan.late += 1
    stays_s = plan.rng.uniform(20.0, 50.0)
    plan.peers[name] = _Peer(name, busy_until_s=at_s + 6.0, leaves_s=at_s + stays_s)
    plan.add(Kind.JOIN, at_s, nodes=(name,))
    return True


def _leave(plan: _Timeline, at_s: float, peer: _Peer) -> bool:
    """A late peer goes again: politely, or killed for good."""
    if peer.busy_until_s > at_s or peer.cut_until_s > at_s:
        return False
    if len(plan.sound(at_s)) - 1 < plan.min_peers:
        return False
    if plan.rng.random() < POLITE:
        plan.add(Kind.LEAVE, at_s, nodes=(peer.name,))
    else:
        plan.add(Kind.KILL, at_s, nodes=(peer.name,), returns=False)
    peer.gone = True
    return True


def _double(plan: _Timeline, at_s: float) -> bool:
    """A copy of a peer's folder is started while the peer runs."""
    free = plan.free(at_s)
    if not free:
        return False
    peer = plan.rng.choice(free)
    plan.add(Kind.DOUBLE, at_s, min(DOUBLE_S, plan.length_s - at_s), nodes=(peer.name,))
    return True


def _disk(plan: _Timeline, at_s: float) -> bool:
    victims = plan.victims(at_s, killing=True)
    if not victims:
        return False
    peer = plan.rng.choice(victims)
    lasts_s = plan.lasting(at_s, 1.0, 6.0)
    plan.add(Kind.DISK, at_s, lasts_s, nodes=(peer.name,))
    peer.busy_until_s = at_s + lasts_s + 2.0
    return True


def _host_disk(plan: _Timeline, at_s: float) -> bool:
    if plan.host_until_s > at_s:
        return False
    lasts_s = plan.lasting(at_s, 1.0, 4.0)
    plan.add(Kind.HOST_DISK, at_s, lasts_s, nodes=(HOST,))
    plan.host_until_s = at_s + lasts_s + 2.0
    return True


_STRIKES = {
    Kind.KILL: _kill,
    Kind.STOP: _stop,
    Kind.KILL_HOST: _kill_host,
    Kind.PARTITION: _partition,
    Kind.ONE_WAY: _one_way,
    Kind.RESET: _reset,
    Kind.SLOW: _slow,
    Kind.DELAY: _delay,
    Kind.JOIN: _join,
    Kind.DOUBLE: _double,
    Kind.DISK: _disk,
    Kind.HOST_DISK: _host_disk,
}
