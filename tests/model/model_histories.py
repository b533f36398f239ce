"""Every short history of a small swarm, in lockstep."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from model_lockstep import Lockstep
from swarm_driver import Peer

from farflung.config.load import from_table
from farflung.config.run import RunSpec
from farflung.network.messages import Accuse, Leave
from farflung.swarm.state import Link

Event = Callable[[Lockstep], None]


def spec_of(*, window: int, fragments: int, rounds: int, start_peers: int = 1) -> RunSpec:
    """Two rows a round for each peer; two slices when there are two owners."""
    outer = {"inner_steps": 2 * fragments, "rounds": rounds, "chunk_elements": 256}
    outer |= {"window": window, "fragments": fragments}
    return from_table(
        {
            "model": {"preset": "quadratic", "parameters": 512 * fragments},
            "data": {"source": "synthetic", "rows": 100_000, "seq_len": 16},
            "inner": {"batch_rows": 1},
            "outer": outer,
            "swarm": {"start_peers": start_peers},
        }
    )


# ---- what may happen -----------------------------------------------------------------------


def events(swarm: Lockstep, *, coarse: bool = False) -> Iterator[tuple[str, Event]]:
    """Everything that may happen to this swarm now. Timers fire whenever they like.

    `coarse`: a peer that works does all it can, so that short histories reach further.
    """
    for name, peer in swarm.peers.items():
        for label, act in _coarse(peer) if coarse else _of_peer(swarm, peer):
            yield f"{name} {label}", _on(name, act)
    for seconds in (0.3, 3.0, 6.0, 20.0):
        yield f"{seconds:g} s pass", lambda s, t=seconds: s.advance(t)  # type: ignore[misc]
    yield "restart", lambda s: s.restart()


Act = Callable[[Lockstep, Peer], object]


def _on(name: str, act: Act) -> Event:
    return lambda swarm: act(swarm, swarm.peers[name]) and None  # type: ignore[func-returns-value]


def _of_peer(swarm: Lockstep, peer: Peer) -> Iterator[tuple[str, Act]]:
    if not peer.linked:
        yield "connects", lambda s, p: s.connect(p)
        return
    if swarm.state.nodes[peer.node].link is Link.SYNCING:
        yield "is in step", lambda s, p: s.sync(p)
    if peer.plans:
        yield "is ready", lambda s, p: s.train(p)
        yield "is ready, one row", lambda s, p: s.train(p, 1)
    if peer.todo:
        yield "speaks", lambda s, p: s.say(p, p.todo.pop(0))
    if len(peer.todo) > 1:
        yield "speaks out of order", lambda s, p: s.say(p, p.todo.pop())
    yield "is cut off", lambda s, p: s.disconnect(p)
    yield "crashes", crash
    if peer.generation:
        yield "leaves", leave
    for round_ in swarm.state.rounds.values():
        if round_.trial is not None and peer.role == "trainer":
            yield f"accuses in {round_.number}", accusation(round_.number)


def _coarse(peer: Peer) -> Iterator[tuple[str, Act]]:
    if not peer.linked:
        yield "comes back", come_back
        return
    yield "works", work
    yield "is cut off", lambda s, p: s.disconnect(p)
    yield "crashes", crash


def come_back(swarm: Lockstep, peer: Peer) -> None:
    swarm.connect(peer)
    swarm.sync(peer)


def work(swarm: Lockstep, peer: Peer) -> None:
    """Everything that is on its list."""
    if swarm.state.nodes[peer.node].link is Link.SYNCING:
        swarm.sync(peer)
    while peer.plans and not swarm.state.finished:
        swarm.train(peer)
    while peer.todo:
        swarm.say(peer, peer.todo.pop(0))


def crash(swarm: Lockstep, peer: Peer) -> None:
    """The process loses its progress."""
    swarm.disconnect(peer)
    peer.forget()


def leave(swarm: Lockstep, peer: Peer) -> None:
    swarm.say(peer, Leave(reason="tired"))
    swarm.catch_up(peer)


def accusation(number: int) -> Act:
    """Of the last member of the attempt, of bad bytes: who is accused is left out."""

    def act(swarm: Lockstep, peer: Peer) -> None:
        trial = swarm.state.rounds[number].trial
        assert trial is not None
        message = trial.message
        accused = message.members[-1].node
        fence = {"term": message.term, "round": number, "attempt": message.attempt}
        swarm.say(peer, Accuse(**fence, nodes=(accused,), kind="bad-bytes"))

    return act


# ---- all of them ---------------------------------------------------------------------------


def explore(start: Lockstep, depth: int, *, coarse: bool = False) -> tuple[int, int]:
    """All histories of `depth` events, moments that behave alike merged: (moments, steps)."""
    seen = {start.key()}
    edge = [start]
    steps = 0
    for _ in range(depth):
        following: list[Lockstep] = []
        for swarm in edge:
            for label, event in events(swarm, coarse=coarse):
                after = swarm.fork()
                try:
                    event(after)
                except AssertionError as error:
                    error.add_note(" > ".join([*swarm.history, label]))
                    raise
                steps += 1
                after.history = (*swarm.history, label)
                key = after.key()
                if key not in seen:
                    seen.add(key)
                    following.append(after)
        edge = following
    return len(seen), steps


# ---- where they begin ----------------------------------------------------------------------


def planned(*, window: int, fragments: int, trainers: int = 2, keeper: bool = True) -> Lockstep:
    """Everybody takes part, the first rounds are planned."""
    spec = spec_of(window=window, fragments=fragments, rounds=2, start_peers=trainers)
    swarm = Lockstep(spec, trainers, keeper=keeper)
    swarm.gather()
    return swarm


def exchanging(**bounds: int) -> Lockstep:
    """The first attempt is in flight."""
    swarm = planned(**bounds)
    for peer in swarm.peers.values():
        if peer.plans:
            swarm.train(peer)
    return swarm


def reducing(**bounds: int) -> Lockstep:
    """The first verdict is out; results and votes are still unsaid."""
    swarm = exchanging(**bounds)
    for peer in swarm.peers.values():
        for message in [m for m in peer.todo if type(m).__name__ == "Statistics"]:
            peer.todo.remove(message)
            swarm.say(peer, message)
    return swarm


BEGINNINGS = (planned, exchanging, reducing)


@dataclass(frozen=True)
class Short:
    """All histories of so many events from one beginning."""

    begin: Callable[..., Lockstep]
    window: int
    keeper: bool
    depth: int
    at_least: int
    """Steps that there must be: a silent shrink is noticed."""
    coarse: bool = False

    @property
    def name(self) -> str:
        start = f"{self.begin.__name__}, window {self.window}"
        start += ", keeper" if self.keeper else ""
        return f"{start}, {self.depth} {'coarse ' if self.coarse else ''}events"

    def run(self) -> tuple[int, int, set[str]]:
        """(moments, steps, kinds of steps of the model that were taken)."""
        start = self.begin(window=self.window, fragments=self.window, keeper=self.keeper)
        return (*explore(start, self.depth, coarse=self.coarse), start.kinds)


SHORT = [
    Short(planned, 1, True, 2, 240),
    Short(planned, 2, False, 2, 200),
    Short(exchanging, 1, False, 2, 190),
    Short(exchanging, 2, True, 2, 400),
    Short(reducing, 1, True, 2, 370),
    Short(reducing, 2, False, 2, 360),
    Short(planned, 1, False, 3, 900, coarse=True),
    Short(planned, 2, True, 3, 1_400, coarse=True),
]

LONG = [
    *(Short(begin, 2, keeper, 3, 2_000) for begin in BEGINNINGS for keeper in (True, False)),
    *(Short(planned, w, keeper, 4, 6_000, coarse=True) for w in (1, 2) for keeper in (True, False)),
]
