"""The coordinator of the model: what it may decide, without time, bytes and arithmetic.

The search (`rounds_model.py`) and the comparison with `decide` (`model_lockstep.py`) use
the same steps. Every step refuses with `NotAllowed` what the rules forbid. Deciding *when* is the
caller's: timers are somebody's free choice here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import book_model
from book_model import Book, NotAllowed, Pairs, Rows, Stay, drop, look, put

Nodes = frozenset[str]
NOBODY: Nodes = frozenset()
MAX_ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Bounds that a run sets, and rules that a mutant breaks."""

    window: int = 2
    fragments: int = 2
    rounds: int = 3
    """Commits that the run wants."""
    attempts: int = MAX_ATTEMPTS
    votes: int = 2
    living_votes: bool = True
    """Votes of members that are gone do not count."""
    one_per_fragment: bool = True
    """At most one unresolved round per fragment."""
    abandon_keeps_leases: bool = True
    death_waits_for_attempt: bool = True
    """A closed stay's claims become free after the attempt that uses them."""
    root: Callable[[tuple[Any, ...]], object] = tuple
    """The hash over the hashes of all slices."""


class Node(NamedTuple):
    trains: bool = True
    generation: int = 0
    open: bool = False
    link: str = "gone"
    """gone, syncing, active."""


class Trial(NamedTuple):
    """One attempt in flight."""

    attempt: int
    candidates: tuple[Stay, ...]
    weights: tuple[int, ...]
    """Rows behind each candidate's contribution."""
    members: Nodes
    owners: tuple[str, ...]
    """Of each slice."""
    statistics: frozenset[int] = frozenset()
    included: tuple[str, ...] = ()
    """Of the verdict; empty before it."""
    results: Pairs = ()
    """Slice -> hash."""
    votes: Pairs = ()
    """Node -> (root over the slices' hashes, fragment hash)."""


class Round(NamedTuple):
    planned: frozenset[Stay]
    ready: Pairs = ()
    """Node -> (generation, rows that it says are behind its contribution; 0: it has none)."""
    attempts: int = 0
    excluded: Nodes = NOBODY
    trial: Trial | None = None


class Coordinator(NamedTuple):
    term: int = 1
    nodes: Pairs = ()
    book: Book = Book()
    since: Pairs = ()
    """Stay -> rows credited since its last contribution to each fragment."""
    rounds: Pairs = ()
    """Unresolved ones."""
    next_round: int = 0
    committed: int = 0
    hashes: tuple[Any, ...] = ()
    """Of each fragment."""

    @property
    def oldest(self) -> int | None:
        return self.rounds[0][0] if self.rounds else None

    def node(self, name: str) -> Node:
        found: Node = look(self.nodes, name)
        return found

    def round(self, number: int) -> Round:
        found: Round | None = look(self.rounds, number)
        if found is None:
            raise NotAllowed(f"round {number} is not open")
        return found

    def active(self) -> list[str]:
        return [name for name, n in self.nodes if n.open and n.link == "active"]

    def trainers(self) -> list[str]:
        return [name for name in self.active() if self.node(name).trains]

    def present(self, stay: Stay) -> bool:
        name, generation = stay
        return name in self.active() and self.node(name).generation == generation


def _set_node(c: Coordinator, name: str, **fields: Any) -> Coordinator:
    return c._replace(nodes=put(c.nodes, name, c.node(name)._replace(**fields)))


def _set_round(c: Coordinator, number: int, **fields: Any) -> Coordinator:
    return c._replace(rounds=put(c.rounds, number, c.round(number)._replace(**fields)))


def _set_trial(c: Coordinator, number: int, **fields: Any) -> Coordinator:
    return _set_round(c, number, trial=trial_of(c, number)._replace(**fields))


def trial_of(c: Coordinator, number: int) -> Trial:
    trial = c.round(number).trial
    if trial is None:
        raise NotAllowed(f"round {number} has no attempt")
    return trial


# ---- who is there --------------------------------------------------------------------------


def connect(c: Coordinator, name: str) -> Coordinator:
    return _set_node(c, name, link="syncing")


def disconnect(c: Coordinator, name: str) -> Coordinator:
    return _set_node(c, name, link="gone")


def activate(c: Coordinator, name: str) -> Coordinator:
    """An open stay's node is in step again."""
    if c.node(name).link == "gone" or not c.node(name).open:
        raise NotAllowed(f"{name} has no link or no stay")
    return _set_node(c, name, link="active")


def open_stay(c: Coordinator, name: str, generation: int, fragments: int) -> Coordinator:
    """GEN."""
    node = c.node(name)
    if node.open or generation != node.generation + 1 or node.link == "gone":
        raise NotAllowed(f"{name} opens stay {generation} after {node}")
    c = c._replace(since=put(c.since, (name, generation), (0,) * fragments))
    return _set_node(c, name, generation=generation, open=True, link="active")


def close_stay(rules: Rules, c: Coordinator, name: str) -> tuple[Coordinator, Rows]:
    """CLOSE."""
    node = c.node(name)
    if not node.open:
        raise NotAllowed(f"{name} has no open stay")
    stay = (name, node.generation)
    book, freed = book_model.close(c.book, stay, frozen_stay=rules.death_waits_for_attempt)
    c = c._replace(book=book, since=tuple(s for s in c.since if s[0][0] != name))
    link = "gone" if node.link == "gone" else "syncing"
    return _set_node(c, name, open=False, link=link), freed


# ---- plan and ready ------------------------------------------------------------------------


def may_open(rules: Rules, c: Coordinator, *, trainers: int = 1) -> bool:
    """Whether a round fits: window, fragments, enough trainers, commits still to come."""
    room = min(rules.window, rules.rounds - c.committed)
    if len(c.rounds) >= room or len(c.trainers()) < trainers:
        return False
    taken = {number % rules.fragments for number, _ in c.rounds}
    return not rules.one_per_fragment or c.next_round % rules.fragments not in taken


def lease(rules: Rules, c: Coordinator, grants: dict[str, tuple[int, ...]]) -> Coordinator:
    """LEASE and its PLANs: every active trainer has something to train."""
    if not may_open(rules, c):
        raise NotAllowed(f"round {c.next_round} may not open: {c.rounds}")
    if sorted(grants) != c.trainers():
        raise NotAllowed(f"grants to {sorted(grants)}, active are {c.trainers()}")
    stays = [(name, c.node(name).generation) for name in sorted(grants)]
    book = c.book
    for stay in stays:
        book = book_model.grant(book, stay, grants[stay[0]])
        if not book.untrained(stay):
            raise NotAllowed(f"{stay} has nothing to train")
    opened = put(c.rounds, c.next_round, Round(planned=frozenset(stays)))
    return c._replace(book=book, rounds=opened, next_round=c.next_round + 1)


def ready(c: Coordinator, stay: Stay, number: int, trained: Rows, behind: int) -> Coordinator:
    """READY with a claim, and the rows behind the contribution. Others' words change nothing."""
    round_: Round | None = look(c.rounds, number)
    if round_ is None or stay not in round_.planned or not c.present(stay):
        return c
    book = book_model.claim(c.book, stay, number, trained - c.book.credited)
    said = put(round_.ready, stay[0], (stay[1], behind))
    return _set_round(c._replace(book=book), number, ready=said)


# ---- attempt, verdict, votes ---------------------------------------------------------------


def weight(rules: Rules, c: Coordinator, number: int, stay: Stay) -> int:
    """Rows behind a contribution: credited ones that this fragment has not seen, and claims.

    A peer may say less, never more.
    """
    since, said = look(c.since, stay), look(c.round(number).ready, stay[0])
    if since is None or said is None:
        return 0
    rows = since[number % rules.fragments] + len(c.book.claim_of(stay, number))
    return int(min(said[1], rows))


def able(rules: Rules, c: Coordinator, number: int) -> tuple[Stay, ...]:
    """Who can contribute now."""
    round_ = c.round(number)
    stays = [(name, generation) for name, (generation, _) in round_.ready]
    return tuple(
        s
        for s in stays
        if s[0] not in round_.excluded and c.present(s) and weight(rules, c, number, s) > 0
    )


Returned = list[tuple[Stay, Rows]]


def fail(c: Coordinator, number: int, guilty: Iterable[str]) -> Coordinator:
    """The attempt is given up."""
    trial_of(c, number)
    return _set_round(c, number, trial=None, excluded=c.round(number).excluded | set(guilty))


def attempt(
    rules: Rules, c: Coordinator, number: int, owners: tuple[str, ...]
) -> tuple[Coordinator, Returned]:
    """ATTEMPT with everybody who can contribute."""
    round_ = c.round(number)
    candidates = able(rules, c, number)
    if round_.trial is not None or round_.attempts >= rules.attempts or not candidates:
        raise NotAllowed(f"no attempt of round {number}: {round_}")
    book, returned = book_model.thaw(c.book, number)
    trial = Trial(
        attempt=round_.attempts + 1,
        candidates=candidates,
        weights=tuple(weight(rules, c, number, s) for s in candidates),
        members=frozenset(c.active()),
        owners=owners,
    )
    c = c._replace(book=book_model.freeze(book, number, candidates))
    return _set_round(c, number, trial=trial, attempts=trial.attempt), returned


def current(c: Coordinator, number: int, term: int, attempt_: int) -> bool:
    """Whether a message is about the attempt in flight. Fencing: all others change nothing."""
    round_: Round | None = look(c.rounds, number)
    if round_ is None or round_.trial is None:
        return False
    return (term, attempt_) == (c.term, round_.trial.attempt)


def statistics(c: Coordinator, number: int, index: int) -> Coordinator:
    trial = trial_of(c, number)
    if trial.included:
        return c
    return _set_trial(c, number, statistics=trial.statistics | {index})


def verdict(c: Coordinator, number: int, included: tuple[str, ...]) -> Coordinator:
    trial = trial_of(c, number)
    if trial.included or not included or len(trial.statistics) < len(trial.owners):
        raise NotAllowed(f"no verdict of round {number}: {trial}")
    if not set(included) <= {n for n, _ in trial.candidates}:
        raise NotAllowed(f"{included} are not all candidates")
    return _set_trial(c, number, included=included)


def result(c: Coordinator, number: int, index: int, value: object) -> Coordinator:
    trial = trial_of(c, number)
    if not trial.included:
        return c
    return _set_trial(c, number, results=put(trial.results, index, value))


def vote(c: Coordinator, number: int, name: str, root: object, value: object) -> Coordinator:
    trial = trial_of(c, number)
    if not trial.included or name not in trial.members:
        return c
    return _set_trial(c, number, votes=put(trial.votes, name, (root, value)))


def agreed(rules: Rules, c: Coordinator, number: int) -> dict[object, Nodes]:
    """Fragment hash -> its voters, of the hashes with enough equal votes; empty before that.

    Counted are voters that are still here: the others may have taken the bytes along. Needed are
    two while two members stay, linked or not: who lost its link a moment ago may come back.
    """
    trial = c.round(number).trial
    if trial is None or not trial.included or len(trial.results) < len(trial.owners):
        return {}
    root = rules.root(tuple(value for _, value in trial.results))
    live = trial.members & frozenset(c.active())
    stay = [name for name, n in c.nodes if n.open and name in trial.members]
    needed = min(rules.votes, max(1, len(stay)))
    votes = [(n, value) for n, (r, value) in trial.votes if r == root]
    voters = {value: frozenset(n for n, v in votes if v == value) for _, value in votes}
    counted = live if rules.living_votes else trial.members
    return {value: who for value, who in voters.items() if len(who & counted) >= needed}


# ---- the two ends of a round ---------------------------------------------------------------


class Committed(NamedTuple):
    credited: dict[Stay, Rows]
    returned: Returned


def commit(rules: Rules, c: Coordinator, value: Any) -> tuple[Coordinator, Committed]:
    """COMMIT of the oldest round."""
    number = c.oldest
    if number is None or value not in agreed(rules, c, number):
        raise NotAllowed(f"round {number} has no votes for {value}")
    trial, fragment = trial_of(c, number), number % rules.fragments
    book, credited, since = c.book, {}, c.since
    for stay in trial.candidates:
        if stay[0] not in trial.included:
            continue
        book, credited[stay] = book_model.credit(book, number, stay)
        old = look(since, stay)
        if old is not None:
            rows = len(credited[stay])
            fresh = tuple(0 if f == fragment else n + rows for f, n in enumerate(old))
            since = put(since, stay, fresh)
    book, returned = book_model.thaw(book, number)
    hashes = tuple(value if f == fragment else h for f, h in enumerate(c.hashes))
    c = c._replace(book=book, since=since, hashes=hashes, committed=c.committed + 1)
    return c._replace(rounds=drop(c.rounds, number)), Committed(credited, returned)


def abandon(rules: Rules, c: Coordinator) -> tuple[Coordinator, Returned]:
    """ABANDON of the oldest round: no lease returns but those of closed stays."""
    number = c.oldest
    if number is None:
        raise NotAllowed("no round is open")
    book, returned = book_model.thaw(c.book, number)
    if not rules.abandon_keeps_leases:
        for stay in c.round(number).planned:
            book, _ = book_model._release(book, stay)
    return c._replace(book=book, rounds=drop(c.rounds, number)), returned


def hopeless(c: Coordinator, number: int) -> bool:
    """Nobody who was given this plan is left."""
    round_ = c.round(number)
    stays = {(name, n.generation) for name, n in c.nodes if n.open}
    return round_.attempts == 0 and round_.trial is None and not round_.planned & stays


def restart(c: Coordinator) -> tuple[Coordinator, Returned]:
    """A new incarnation: what is not journalled is forgotten; orphaned leases return."""
    book = c.book._replace(claims=(), frozen=(), closing=frozenset())
    returned: Returned = []
    for stay, rows in book.held:
        node = c.node(stay[0])
        if rows and not (node.open and node.generation == stay[1]):
            book = book._replace(free=book.free | set(rows), held=drop(book.held, stay))
            returned.append((stay, frozenset(rows)))
    nodes = tuple((name, n._replace(link="gone")) for name, n in c.nodes)
    rounds = tuple((number, Round(planned=r.planned)) for number, r in c.rounds)
    return c._replace(term=c.term + 1, nodes=nodes, book=book, rounds=rounds), returned
