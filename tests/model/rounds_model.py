"""Many rounds at once: window, fragments, leases, stays, deaths that are none, restarts.

The coordinator is that of `coordinator_model.py`, which runs in step with the real `decide`. Here
are the peers, the journal and the faults around it. Everything that the coordinator journals is
what peers read, in order, each at its own pace; READY, ATTEMPT and votes go by themselves and
arrive in any order.

What a contribution really holds is written along as a ghost: the positions trained since the
fragment last landed, each with the stay that trained it. No decision looks at ghosts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import coordinator_model as model
from book_model import NO_ROWS, NotAllowed, Pairs, Rows, drop, look, lost_or_doubled, put
from coordinator_model import Coordinator, Rules

Trained = frozenset[tuple[int, int]]
"""Ghost: (position, generation that trained it)."""
Fence = tuple[int, int]


class Sent(NamedTuple):
    """READY of one round: the claim, and what is really in the contribution."""

    trained: Rows
    content: Trained


class Peer(NamedTuple):
    up: bool = True
    generation: int = 0
    """0: it takes part in no stay that it knows of."""
    read: int = 0
    """Records of the journal that it has followed; on its disk."""
    trained: Rows = NO_ROWS
    """Trained and, as far as it knows, not credited."""
    progress: tuple[Trained, ...] = ()
    """Of each fragment: trained since it last landed."""
    sent: Pairs = ()
    """Round -> `Sent`."""
    stored: Pairs = ()
    """Round -> (fence, candidates) whose result bytes it holds."""
    again: bool = False
    """Ghost: it has trained a position that was in its weights already."""


class Lease(NamedTuple):
    round: int
    grants: tuple[tuple[str, int, tuple[int, ...]], ...]


class Close(NamedTuple):
    node: str
    generation: int


class Gen(NamedTuple):
    node: str
    generation: int


class Commit(NamedTuple):
    round: int
    fence: Fence
    candidates: tuple[tuple[str, int], ...]
    credited: Pairs
    content: Pairs
    """Ghost: stay -> `Trained`."""
    value: Any


class Abandon(NamedTuple):
    round: int


Record = Lease | Close | Gen | Commit | Abandon


class Call(NamedTuple):
    """An attempt whose exchange is over: every owner has every contribution.

    One whose exchange fails is an attempt from which nothing comes.
    """

    round: int
    fence: Fence
    candidates: tuple[tuple[str, int], ...]
    members: frozenset[str]


class Vote(NamedTuple):
    node: str
    round: int
    fence: Fence
    value: Any


class State(NamedTuple):
    up: bool
    c: Coordinator
    lost: Coordinator | None
    """What a restart starts from when the last decision is not on the disk."""
    journal: tuple[Record, ...]
    peers: tuple[tuple[str, Peer], ...]
    contents: Pairs
    """Ghost: (round, stay) -> what it sent."""
    calls: frozenset[Call]
    votes: frozenset[Vote]
    crashes: int = 0
    losses: int = 0
    deaths: int = 0
    """Stays that ended although the process runs."""
    abandons: int = 0


@dataclass(frozen=True, kw_only=True)
class RoundsModel:
    """The rules, and the bounds of the search. Every rule can be switched off."""

    name: str
    rules: Rules
    peers: int = 2
    crashes: int = 0
    losses: int = 0
    deaths: int = 0
    abandons: int = 0
    vote_on_root: bool = False
    """A vote names the state of all fragments."""
    progress_survives: bool = False
    """A process keeps its progress although its stay was closed."""
    leases_logged: bool = True
    abandons_logged: bool = True
    durable_votes: bool = True

    def initial(self) -> State:
        names = [chr(ord("a") + i) for i in range(self.peers)]
        empty: tuple[Trained, ...] = (frozenset(),) * self.rules.fragments
        nodes = tuple((n, model.Node(generation=1, open=True, link="active")) for n in names)
        since = tuple(((n, 1), (0,) * self.rules.fragments) for n in names)
        hashes = ((),) * self.rules.fragments
        c = Coordinator(nodes=nodes, since=since, hashes=hashes)
        peers = tuple((n, Peer(generation=1, progress=empty)) for n in names)
        none: frozenset[Any] = frozenset()
        return State(True, c, None, (), peers, (), none, none)

    def done(self, s: State) -> bool:
        """Everything is committed, and every peer knows."""
        enough = s.up and s.c.committed == self.rules.rounds
        return enough and all(p.up and p.read == len(s.journal) for _, p in s.peers)

    # ---- steps -----------------------------------------------------------------------------

    def steps(self, s: State) -> Iterator[tuple[str, State]]:
        if s.up:
            yield from self._coordinator(s)
        else:
            yield "restart", self._restart(s)
        for name, peer in s.peers:
            if not peer.up:
                yield f"{name} restarts", _put(s, name, peer._replace(up=True))
                continue
            yield from self._faults(s, name, peer)
            if peer.read < len(s.journal):
                yield from self._read(s, name, peer)
        yield from self._votes(s)

    def _coordinator(self, s: State) -> Iterator[tuple[str, State]]:
        if model.may_open(self.rules, s.c):
            yield self._lease(s)
        for number, round_ in s.c.rounds:
            if round_.attempts < self.rules.attempts:
                for heard in self._heard(s, number):
                    if model.able(self.rules, heard, number):
                        yield self._attempt(s, heard, number)
        for vote in s.votes:
            if model.current(s.c, vote.round, *vote.fence):
                yield from self._count(s, vote)
        yield from self._resolve(s)
        for name, node in s.c.nodes:
            yield from self._stay(s, name, node)
        if s.crashes < self.crashes:
            yield "crash", s._replace(up=False, crashes=s.crashes + 1)

    def _lease(self, s: State) -> tuple[str, State]:
        """One new position for everybody who has nothing left to train."""
        number, c, grants = s.c.next_round, s.c, []
        free, frontier = sorted(c.book.free), c.book.frontier
        for name in c.trainers():
            rows: tuple[int, ...] = ()
            stay = (name, c.node(name).generation)
            planned = sum(stay in r.planned and name not in dict(r.ready) for _, r in c.rounds)
            if len(c.book.untrained(stay)) <= planned:
                rows = (free.pop(0),) if free else (frontier,)
                frontier = max(frontier, rows[0] + 1)
            grants.append((name, stay[1], rows))
        c = model.lease(self.rules, c, {name: rows for name, _, rows in grants})
        return f"lease {number}", self._log(s, c, Lease(number, tuple(grants)))

    def _log(self, s: State, c: Coordinator, record: Record, *, durable: bool = True) -> State:
        lost = None if durable else s.c
        return s._replace(c=c, journal=(*s.journal, record), lost=lost)

    def _heard(self, s: State, number: int) -> list[Coordinator]:
        """READY of some of those who are ready. After a restart it is learnt again."""
        out = [s.c]
        for name, peer in s.peers:
            sent: Sent | None = look(peer.sent, number)
            if not peer.up or sent is None:
                continue
            for c in list(out):
                try:
                    stay = (name, peer.generation)
                    after = model.ready(c, stay, number, sent.trained, len(sent.content))
                except NotAllowed:
                    continue
                if after != c:
                    out.append(after)
        return out

    def _attempt(self, s: State, c: Coordinator, number: int) -> tuple[str, State]:
        if c.round(number).trial is not None:
            c = model.fail(c, number, ())
        c, _ = model.attempt(self.rules, c, number, ("",))
        trial = model.trial_of(c, number)
        call = Call(number, (c.term, trial.attempt), trial.candidates, trial.members)
        votes = frozenset(v for v in s.votes if v.round != number)
        who = " ".join(name for name, _ in trial.candidates)
        label = f"attempt {number}.{trial.attempt} {who}"
        after = s._replace(c=c, votes=votes)
        if not self._exchanged(s, call):
            return label, after
        contents = after.contents
        for name, generation in call.candidates:
            content = look(dict(s.peers)[name].sent, number).content
            contents = put(contents, (number, (name, generation)), content)
        return label, after._replace(calls=after.calls | {call}, contents=contents)

    def _exchanged(self, s: State, call: Call) -> bool:
        """Whether all candidates run, with the contribution that they announced."""
        peers = dict(s.peers)
        return all(
            peers[n].up and peers[n].generation == g and look(peers[n].sent, call.round)
            for n, g in call.candidates
        )

    def _count(self, s: State, vote: Vote) -> Iterator[tuple[str, State]]:
        """Votes follow results and the verdict: all three arrive at once here."""
        c, number = s.c, vote.round
        if not model.trial_of(c, number).included:
            c = model.statistics(c, number, 0)
            included = tuple(name for name, _ in model.trial_of(c, number).candidates)
            c = model.verdict(c, number, included)
            c = model.result(c, number, 0, "bytes")
        c = model.vote(c, number, vote.node, ("bytes",), vote.value)
        if c != s.c:
            yield f"count {number} {vote.node}", s._replace(c=c, votes=s.votes - {vote})

    def _resolve(self, s: State) -> Iterator[tuple[str, State]]:
        number = s.c.oldest
        if number is None:
            return
        for value in model.agreed(self.rules, s.c, number):
            trial = model.trial_of(s.c, number)
            c, done = model.commit(self.rules, s.c, value)
            content = tuple((stay, look(s.contents, (number, stay))) for stay in trial.candidates)
            credited = tuple(sorted(done.credited.items()))
            fence = (c.term, trial.attempt)
            record = Commit(number, fence, trial.candidates, credited, content, value)
            yield f"COMMIT {number}", self._log(s, c, record)
        forced = model.hopeless(s.c, number)
        if forced or s.abandons < self.abandons:
            c, _ = model.abandon(self.rules, s.c)
            after = self._log(s, c, Abandon(number), durable=self.abandons_logged)
            yield f"ABANDON {number}", after._replace(abandons=s.abandons + (not forced))

    def _stay(self, s: State, name: str, node: model.Node) -> Iterator[tuple[str, State]]:
        """Stays end by silence, rightly or not; a process in step opens a new one."""
        peer = dict(s.peers)[name]
        in_step = peer.up and peer.read == len(s.journal)
        if node.open:
            record = Close(name, node.generation)
            c, _ = model.close_stay(self.rules, s.c, name)
            if peer.generation == 0:  # it came back without its progress
                yield f"{name} is closed", self._log(s, c, record)
            elif s.deaths < self.deaths:
                after = self._log(s, c, record)
                yield f"{name} is given up", after._replace(deaths=s.deaths + 1)
            if node.link == "gone" and in_step and peer.generation == node.generation:
                c = model.activate(model.connect(s.c, name), name)
                yield f"{name} is back", s._replace(c=c)
        elif in_step:
            generation = node.generation + 1
            c = model.connect(s.c, name)
            c = model.open_stay(c, name, generation, self.rules.fragments)
            entry = Gen(name, generation)
            s = _put(self._log(s, c, entry), name, self._apply(name, peer, entry))
            yield f"{name} enters", s

    def _restart(self, s: State) -> State:
        """Only what was journalled is left."""
        c, journal = (s.lost, s.journal[:-1]) if s.lost else (s.c, s.journal)
        if not self.leases_logged:
            c = self._without_leases(s, c)
        c, _ = model.restart(c)
        return s._replace(up=True, c=c, journal=journal, lost=None, votes=frozenset())

    def _without_leases(self, s: State, c: Coordinator) -> Coordinator:
        """What is not credited looks as if nobody had it."""
        frontier = max((x + 1 for x in c.book.credited), default=0)
        free = frozenset(range(frontier)) - c.book.credited
        ended = sum(isinstance(r, Commit | Abandon) for r in s.journal)
        book = c.book._replace(frontier=frontier, free=free, held=())
        return c._replace(book=book, rounds=(), next_round=ended)

    # ---- peers -----------------------------------------------------------------------------

    def _faults(self, s: State, name: str, p: Peer) -> Iterator[tuple[str, State]]:
        empty: tuple[Trained, ...] = (frozenset(),) * self.rules.fragments
        if s.crashes < self.crashes:
            stored = p.stored if self.durable_votes else ()
            after = Peer(up=False, read=p.read, progress=empty, stored=stored)
            yield f"{name} crashes", _put(s, name, after)._replace(crashes=s.crashes + 1)
        if s.losses < self.losses:
            gone = _put(s, name, Peer(up=False, progress=empty))
            yield f"{name} loses its disk", gone._replace(losses=s.losses + 1)

    def _train(self, name: str, p: Peer, lease: Lease) -> Peer:
        """Train what is new, say READY: a slow peer is one that reads its lease late."""
        mine = [g[2] for g in lease.grants if g[:2] == (name, p.generation)]
        if not mine:
            return p
        rows = frozenset(mine[0]) - p.trained
        fresh = frozenset((x, p.generation) for x in rows)
        again = p.again or any(f & fresh for f in p.progress)
        progress = tuple(f | fresh for f in p.progress)
        trained = p.trained | rows
        p = p._replace(again=again)
        sent = Sent(trained, progress[lease.round % self.rules.fragments])
        return p._replace(trained=trained, progress=progress, sent=put(p.sent, lease.round, sent))

    def _votes(self, s: State) -> Iterator[tuple[str, State]]:
        for call in s.calls:
            for name, peer in s.peers:
                if peer.up and name in call.members:
                    yield from self._store(s, name, peer, call)

    def _store(self, s: State, name: str, p: Peer, call: Call) -> Iterator[tuple[str, State]]:
        """Keep the results, compute the state after them, vote."""
        number = call.round
        ended = [r.round for r in s.journal[: p.read] if isinstance(r, Commit | Abandon)]
        older = look(p.stored, number)
        if number in ended or (older and older[0] >= call.fence):
            return
        if any(
            r not in ended for r in range(number % self.rules.fragments, number, self._stride())
        ):
            return  # the round before on this fragment is not known yet
        stored = put(p.stored, number, (call.fence, call.candidates))
        vote = Vote(name, number, call.fence, self._value(s, p, call))
        after = _put(s, name, p._replace(stored=stored))
        yield f"{name} votes {number}", after._replace(votes=after.votes | {vote})

    def _stride(self) -> int:
        """Rounds between two of one fragment; a mutant does not wait for the one before."""
        return self.rules.fragments if self.rules.one_per_fragment else 10**6

    def _value(self, s: State, p: Peer, call: Call) -> Any:
        """The hash of the fragment after this round: its history of contributors."""
        known = s.journal[: p.read]
        done = tuple((r.round, r.candidates) for r in known if isinstance(r, Commit))
        if self.vote_on_root:  # and what it holds of older rounds that are still open
            done += tuple((r, held[1]) for r, held in p.stored if r < call.round)
        return self._history((*done, (call.round, call.candidates)), call.round)

    def _history(self, done: tuple[tuple[int, Any], ...], number: int) -> Any:
        fragment = number % self.rules.fragments
        own = (d for d in done if self.vote_on_root or d[0] % self.rules.fragments == fragment)
        return tuple(sorted(own))

    def _read(self, s: State, name: str, p: Peer) -> Iterator[tuple[str, State]]:
        record = s.journal[p.read]
        if isinstance(record, Commit) and not self._served(s, p.read, record):
            return
        yield (
            f"{name} reads {type(record).__name__.lower()}",
            _put(s, name, self._apply(name, p, record)),
        )

    def _served(self, s: State, index: int, record: Commit) -> bool:
        """Somebody who runs has the result bytes, or the state after them."""
        return any(p.up and _holds(p, index, record) for _, p in s.peers)

    def _apply(self, name: str, p: Peer, record: Record) -> Peer:
        p = p._replace(read=p.read + 1)
        empty: tuple[Trained, ...] = (frozenset(),) * self.rules.fragments
        match record:
            case Lease():
                return self._train(name, p, record)
            case Gen(node=node, generation=generation) if node == name:
                if self.progress_survives:
                    return p._replace(generation=generation, sent=())
                return Peer(True, generation, p.read, progress=empty, stored=p.stored)
            case Close(node=node, generation=generation) if (node, generation) == (
                name,
                p.generation,
            ):
                if self.progress_survives:
                    return p._replace(generation=0, sent=())
                return Peer(read=p.read, progress=empty, stored=p.stored)
            case Commit(round=number):
                return self._land(name, p, record)
            case Abandon(round=number):
                return p._replace(sent=drop(p.sent, number), stored=drop(p.stored, number))
            case _:
                return p

    def _land(self, name: str, p: Peer, record: Commit) -> Peer:
        """The fragment lands; my contribution is in it, or stays mine."""
        number, stay = record.round, (name, p.generation)
        p = p._replace(sent=drop(p.sent, number), stored=drop(p.stored, number))
        if stay not in dict(record.content):
            return p
        fragment, content = number % self.rules.fragments, look(record.content, stay)
        progress = list(p.progress)
        progress[fragment] -= content
        credited = look(record.credited, stay)
        return p._replace(trained=p.trained - credited, progress=tuple(progress))

    # ---- promises --------------------------------------------------------------------------

    def wrong(self, s: State) -> str:
        if any(p.read > len(s.journal) for _, p in s.peers):
            return "a peer has followed a record that the journal does not hold"
        if any(p.again for _, p in s.peers):
            return "a stay trains a position twice"
        commits = [(i, r) for i, r in enumerate(s.journal) if isinstance(r, Commit)]
        ended = [r.round for r in s.journal if isinstance(r, Commit | Abandon)]
        if ended != list(range(len(ended))):
            return "rounds do not end once and in order"
        for index, record in commits:
            done = tuple((r.round, r.candidates) for i, r in commits if i <= index)
            if record.value != self._history(done, record.round):
                return f"round {record.round} commits the hash of another history"
            if not any(_holds(p, index, record) for _, p in s.peers):
                return f"round {record.round} is committed and held by nobody"
        return self._wrong_rows([r for _, r in commits]) or lost_or_doubled(s.c.book)

    def _wrong_rows(self, commits: list[Commit]) -> str:
        credits = [x for r in commits for _, rows in r.credited for x in rows]
        if len(credits) != len(set(credits)):
            return "a position is credited twice"
        for fragment in range(self.rules.fragments):
            seen: set[int] = set()
            for record in commits:
                if record.round % self.rules.fragments != fragment:
                    continue
                for (_, generation), content in record.content:
                    if any(g != generation for _, g in content):
                        return "progress of a closed stay is contributed"
                    rows = {x for x, _ in content}
                    if seen & rows:
                        return "a position is twice in one fragment"
                    seen |= rows
        return ""

    # ---- fewer states that behave alike ----------------------------------------------------

    def canonical(self, s: State) -> State:
        """Without words that nobody can use any more; records of others are read at once."""
        peers = tuple((n, self._skip(s, n, p)) for n, p in s.peers)
        s = s._replace(peers=peers)
        rounds = dict(s.c.rounds)
        calls = frozenset(c for c in s.calls if c.round in rounds and c.fence[0] == s.c.term)
        calls = frozenset(
            c for c in calls if (t := rounds[c.round].trial) and t.attempt == c.fence[1]
        )
        votes = frozenset(v for v in s.votes if model.current(s.c, v.round, *v.fence))
        contents = tuple(x for x in s.contents if x[0][0] in rounds)
        return s._replace(calls=calls, votes=votes, contents=contents)

    def _skip(self, s: State, name: str, p: Peer) -> Peer:
        """Records that change nothing for this peer."""
        while p.up and p.read < len(s.journal):
            record = s.journal[p.read]
            mine = record.node == name if isinstance(record, Gen | Close) else True
            if isinstance(record, Lease):
                mine = any(g[0] == name for g in record.grants)
            if mine:
                return p
            p = p._replace(read=p.read + 1)
        return p


def _put(s: State, name: str, peer: Peer) -> State:
    return s._replace(peers=tuple((n, peer if n == name else p) for n, p in s.peers))


def _holds(p: Peer, index: int, record: Commit) -> bool:
    """On its disk or in its memory."""
    stored = look(p.stored, record.round)
    return p.read > index or stored == (record.fence, record.candidates)
