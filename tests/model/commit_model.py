"""How one round becomes permanent: attempt, reduce, vote, commit, with crashes anywhere.

One round at a time. A peer that has applied round r - 1 is READY for round r: training that a
crash takes is trained again. The wire is a set that only grows, so messages are late, reordered
and repeated. Everything that the coordinator decides goes into `log`, which is also what it
sends: peers read it in order, each at its own pace. `synced` is how much of it is on the disk.

A *value* stands for a state's hash: the contributors of every committed round, in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

Names = frozenset[str]
Value = tuple[Names, ...]
NOBODY: Names = frozenset()


class Call(NamedTuple):
    """ATTEMPT, or its exchange that is over: every owner has everybody's contribution."""

    reduced: bool
    round: int
    fence: tuple[int, int]
    """(term, attempt)."""
    members: Names


class Vote(NamedTuple):
    voter: str
    round: int
    fence: tuple[int, int]
    value: Value


class Candidate(NamedTuple):
    """Result bytes in a peer's round log."""

    round: int
    fence: tuple[int, int]
    value: Value


class Peer(NamedTuple):
    up: bool = True
    value: Value = ()
    """Applied rounds; on the disk."""
    candidate: Candidate | None = None


class State(NamedTuple):
    up: bool
    term: int
    attempt: int
    members: Names
    """Of the attempt in flight; empty: none."""
    votes: frozenset[tuple[str, Value]]
    log: tuple[Value, ...]
    """Value after each committed round."""
    synced: int
    peers: tuple[tuple[str, Peer], ...]
    calls: frozenset[Call]
    """On the wire; like `cast`, nothing leaves it that somebody could still use."""
    cast: frozenset[Vote]
    crashes: int
    losses: int
    """Machines that lost their disk."""


@dataclass(frozen=True, kw_only=True)
class CommitModel:
    """The rules, and the bounds of the search. Every rule can be switched off."""

    name: str
    peers: int = 3
    rounds: int = 1
    attempts: int = 2
    crashes: int = 1
    losses: int = 0
    commit_step: bool = True
    """Peers apply what the coordinator committed, not what they reduced."""
    log_first: bool = True
    """A decision is on the disk before anybody sees it."""
    votes: int = 2
    fenced: bool = True
    """Votes count for their own term and attempt only."""
    durable_votes: bool = True
    """A vote leaves after its result bytes are synced."""

    def initial(self) -> State:
        peers = tuple((chr(ord("a") + n), Peer()) for n in range(self.peers))
        none: frozenset[Any] = frozenset()
        return State(True, 1, 0, NOBODY, none, (), 0, peers, none, none, 0, 0)

    def done(self, s: State) -> bool:
        return s.up and all(p.up and len(p.value) == self.rounds for _, p in s.peers)

    # ---- steps -----------------------------------------------------------------------------

    def steps(self, s: State) -> Iterator[tuple[str, State]]:
        if s.up:
            yield from self._coordinator(s)
        else:  # only the journal is left; attempts and votes are forgotten
            fresh = s._replace(up=True, term=s.term + 1)
            yield "restart", _next_round(fresh, s.log[: s.synced], synced=True)
        yield from self._exchange(s)
        for name, peer in s.peers:
            if peer.up:
                yield from self._peer(s, name, peer)
            else:
                yield f"{name} restarts", _put(s, name, peer._replace(up=True))

    def _coordinator(self, s: State) -> Iterator[tuple[str, State]]:
        if len(s.log) < self.rounds:
            if s.attempt < self.attempts:
                yield from self._attempts(s)
            for vote in s.cast:
                if self._counts(s, vote):
                    votes = s.votes | {(vote.voter, vote.value)}
                    yield f"count {vote.voter}", s._replace(votes=votes)
            for value in {v for _, v in s.votes}:
                if sum(v == value for _, v in s.votes) >= self.votes:
                    yield "commit", _next_round(s, (*s.log, value), synced=self.log_first)
        if s.synced < len(s.log):
            yield "sync", s._replace(synced=len(s.log))
        if s.crashes < self.crashes:
            yield "crash", s._replace(up=False, crashes=s.crashes + 1)

    def _attempts(self, s: State) -> Iterator[tuple[str, State]]:
        """A first or a further attempt, with any two or more of those who are ready."""
        r, number = len(s.log), s.attempt + 1
        for members in _subsets(n for n, p in s.peers if len(p.value) == r):
            call = Call(False, r, (s.term, number), members)
            after = s._replace(attempt=number, members=members, votes=frozenset())
            yield (
                f"attempt {number} {''.join(sorted(members))}",
                after._replace(calls=s.calls | {call}),
            )

    def _counts(self, s: State, vote: Vote) -> bool:
        if vote.round != len(s.log) or vote.voter not in s.members:
            return False
        if (vote.voter, vote.value) in s.votes:
            return False
        return not self.fenced or vote.fence == (s.term, s.attempt)

    def _exchange(self, s: State) -> Iterator[tuple[str, State]]:
        """All members exchange contributions. A member that dies before this ends the attempt."""
        peers = dict(s.peers)
        for call in s.calls:
            whole = call._replace(reduced=True)
            present = all(peers[m].up and len(peers[m].value) == call.round for m in call.members)
            if present and whole not in s.calls:
                yield f"reduce {call.fence}", s._replace(calls=s.calls | {whole})

    def _peer(self, s: State, name: str, p: Peer) -> Iterator[tuple[str, State]]:
        r = len(p.value)
        if s.crashes < self.crashes:
            kept = p.candidate if self.durable_votes else None
            gone = _put(s, name, p._replace(up=False, candidate=kept))
            yield f"{name} crashes", gone._replace(crashes=s.crashes + 1)
        if s.losses < self.losses:
            gone = _put(s, name, Peer(up=False))
            yield f"{name} loses its disk", gone._replace(losses=s.losses + 1)
        for call in s.calls:
            if call.reduced and call.round == r and name in call.members and _newer(call, p):
                yield self._store(s, name, p, call)
        if r < len(s.log) and s.log[r][:-1] == p.value and _served(s, s.log[r]):
            yield f"{name} applies {r}", _put(s, name, Peer(value=s.log[r]))

    def _store(self, s: State, name: str, p: Peer, call: Call) -> tuple[str, State]:
        """Keep the results and vote; without the commit step, apply them."""
        value = (*p.value, call.members)
        if not self.commit_step:
            return f"{name} applies its own {call.round}", _put(s, name, Peer(value=value))
        stored = p._replace(candidate=Candidate(call.round, call.fence, value))
        vote = Vote(name, call.round, call.fence, value)
        return f"{name} votes", _put(s, name, stored)._replace(cast=s.cast | {vote})

    # ---- promises --------------------------------------------------------------------------

    def wrong(self, s: State) -> str:
        values = [p.value for _, p in s.peers] + [*s.log]
        for r in range(self.rounds):
            if len({v[: r + 1] for v in values if len(v) > r}) > 1:
                return f"two states for round {r}"
        if self.commit_step and s.up and any(len(p.value) > len(s.log) for _, p in s.peers):
            return "a peer applied a round that the log does not hold"
        for r, value in enumerate(s.log):
            if not any(_holds(p, value) for _, p in s.peers):
                return f"round {r} is committed and held by nobody"
        return ""

    # ---- fewer states that behave alike ----------------------------------------------------

    def canonical(self, s: State) -> State:
        """Without messages that nobody can use; peers in the order of their signatures.

        Peers are alike. Equal signatures keep their order: that merges fewer states, loses none.
        """
        s = s._replace(
            calls=frozenset(c for c in s.calls if _useful(s, c)),
            cast=frozenset(v for v in s.cast if self._may_count(s, v)),
        )
        order = sorted(s.peers, key=lambda entry: _signature(s, *entry), reverse=True)
        names = {old: new for (old, _), (new, _) in zip(order, s.peers, strict=True)}
        if all(old == new for old, new in names.items()):
            return s
        renamed: State = _rename(s._replace(peers=()), names)
        return renamed._replace(peers=tuple((names[n], _rename(p, names)) for n, p in order))

    def _may_count(self, s: State, vote: Vote) -> bool:
        old = vote.round < s.synced or vote.fence < (s.term, s.attempt)
        return not (self.fenced and self.log_first and old)


def _put(s: State, name: str, peer: Peer) -> State:
    return s._replace(peers=tuple((n, peer if n == name else p) for n, p in s.peers))


def _next_round(s: State, log: tuple[Value, ...], *, synced: bool) -> State:
    s = s._replace(attempt=0, members=NOBODY, votes=frozenset(), log=log)
    return s._replace(synced=len(log)) if synced else s


def _subsets(names: Iterable[str]) -> list[Names]:
    """At least two of them."""
    ordered = sorted(names)
    return [frozenset(c) for n in range(2, len(ordered) + 1) for c in combinations(ordered, n)]


def _newer(call: Call, p: Peer) -> bool:
    """A candidate gives way to a newer attempt of its round only."""
    return p.candidate is None or p.candidate.round != call.round or p.candidate.fence < call.fence


def _holds(p: Peer, value: Value) -> bool:
    """As applied state, or as result bytes."""
    stored = p.candidate is not None and p.candidate.value == value
    return stored or p.value[: len(value)] == value


def _served(s: State, value: Value) -> bool:
    """Somebody who runs has the result bytes."""
    return any(p.up and _holds(p, value) for _, p in s.peers)


def _useful(s: State, call: Call) -> bool:
    if not call.reduced and call._replace(reduced=True) in s.calls:
        return False
    waiting = (p for n, p in s.peers if n in call.members and len(p.value) == call.round)
    return any(_newer(call, p) for p in waiting)


def _signature(s: State, name: str, p: Peer) -> tuple[object, ...]:
    """What of a state depends on this peer, without names; comparable."""
    fence = p.candidate.fence if p.candidate else (0, 0)
    voted, counted = {v.voter for v in s.cast}, {n for n, _ in s.votes}
    sets = (s.members, voted, counted, *(v[-1] for v in s.log))
    called = tuple(sorted(c.fence for c in s.calls if name in c.members))
    return (len(p.value), p.up, fence, *(name in x for x in sets), called)


def _rename(value: Any, names: dict[str, str]) -> Any:
    """The same value with peers' names exchanged."""
    if isinstance(value, str):
        return names[value]
    if isinstance(value, frozenset):
        return frozenset(_rename(x, names) for x in value)
    if isinstance(value, tuple):
        inner = [_rename(x, names) for x in value]
        return type(value)(*inner) if hasattr(value, "_fields") else tuple(inner)
    return value
