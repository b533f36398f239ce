"""The real `decide` and the model, step by step: same inputs, same decisions, same state.

`Lockstep` drives the real coordinator with the fake peers of its own tests. The model is told the
same inputs. Every record and message that `decide` gives is a step of the model: the model must
allow it and name the same ranges, stays and contributors. Afterwards both states must be equal,
and nothing that the model says is due may be left undone.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import coordinator_model as model
import model_mapping as mapping
from book_model import NotAllowed, Rows, Stay
from coordinator_model import Coordinator, Rules
from model_timers import Timers
from swarm_driver import ELEMENTS, Driver, Peer, orphans
from swarm_samples import genesis

from farflung.config.run import RunSpec
from farflung.errors import ProtocolError
from farflung.events import AttemptFailed
from farflung.hashing import merkle_root
from farflung.network.messages import (
    Accuse,
    Attempt,
    Beat,
    Control,
    Leave,
    Plan,
    Ready,
    Result,
    Statistics,
    Synced,
    Verdict,
    Vote,
)
from farflung.swarm import records as journal
from farflung.swarm.decide import decide
from farflung.swarm.state import (
    Action,
    Admitted,
    Append,
    Connected,
    Disconnected,
    Input,
    Received,
    Send,
    Tell,
    Tick,
)

IRRELEVANT = {"session", "applied", "steps"}
"""Counters of a fake peer that decide nothing."""


class Differs(AssertionError):
    """The model and `decide` part here."""


def rules_of(spec: RunSpec) -> Rules:
    return Rules(
        window=spec.outer.window,
        fragments=spec.outer.fragments,
        rounds=spec.outer.rounds,
        root=lambda hashes: merkle_root(list(hashes)),
    )


class Lockstep(Driver):
    """A driver of `decide` whose every step the model takes as well."""

    def __init__(self, spec: RunSpec, trainers: int, *, keeper: bool = True) -> None:
        self.rules = rules_of(spec)
        hashes = genesis(spec, spec.outer.fragments).fragment_hashes
        self.model = Coordinator(hashes=hashes)
        self.timers = Timers(spec, ELEMENTS)
        self.steps = 0
        self.history: tuple[str, ...] = ()
        self.kinds: set[str] = set()
        """Steps of the model that were taken."""
        super().__init__(spec, trainers, keeper=keeper)

    # ---- one step --------------------------------------------------------------------------

    def feed(self, event: Input) -> str:
        before = self.state
        try:
            _, actions, _ = decide(before, event, self.now_s)
        except ProtocolError as error:
            self._refused(event, error)
            raise
        self.steps += 1
        _Follow(self, event, actions).run()
        reason = super().feed(event)
        real, expected = mapping.coordinator(self.state), mapping.plain(self.model)
        if mapping.plain(real) != expected:
            raise Differs(_difference(mapping.plain(real), expected))
        self.timers.mark(self.model, self.now_s)
        if isinstance(event, Tick):
            silent = self.timers.expired(self.model, self.now_s)
            if silent and not self.state.finished:
                raise Differs(f"{silent} should have been closed")
        elif self.overdue():
            self.feed(Tick())
        if isinstance(event, Tick) and self.overdue():
            raise Differs(f"not done: {self.overdue()}")
        return reason

    def _refused(self, event: Input, error: ProtocolError) -> None:
        """What `decide` refuses must be forbidden in the model too."""
        try:
            after = _Follow(self, event, ()).hear()
        except NotAllowed:
            return
        raise Differs(f"decide refuses ({error}), the model does not: {event} {after}")

    def fork(self) -> Lockstep:
        """The same moment with memory of its own: states are immutable, the rest is copied."""
        twin = copy.copy(self)
        twin.records, twin.reasons, twin.messages = list(self.records), [], []
        twin.peers = {name: forked(peer) for name, peer in self.peers.items()}
        twin.timers = self.timers.copy()
        return twin

    def key(self) -> tuple[object, ...]:
        """Equal for moments that behave alike: clocks are read as time that has passed."""
        peers = tuple(
            tuple(repr(v) for k, v in sorted(vars(p).items()) if k not in IRRELEVANT)
            for p in self.peers.values()
        )
        return mapping.plain(self.model), self.timers.since(self.now_s), peers

    def restart(self) -> None:
        self.model, returned = model.restart(self.model)
        self.timers.restarted(self.model, self.now_s)
        found = [((r.node, r.generation), mapping.rows(r.ranges)) for r in self.returns()]
        if found != returned:
            raise Differs(f"a restart returns {found}, the model {returned}")
        self.kinds.add("restart")
        super().restart()

    def returns(self) -> list[journal.Return]:
        return [r for r in orphans(self.state) if isinstance(r, journal.Return)]

    # ---- what is due -----------------------------------------------------------------------

    def needed(self) -> int:
        rules = self.spec.swarm
        first = self.model.committed == 0 and self.model.next_round == 0
        return max(rules.min_peers, rules.start_peers) if first else rules.min_peers

    def overdue(self) -> list[str]:
        """Steps of the model that may not wait any longer."""
        c, now = self.model, self.now_s
        if self.state.finished:
            return []
        out = []
        if c.committed >= self.rules.rounds:
            out.append("finish")
        elif now >= self.timers.hold and model.may_open(self.rules, c, trainers=self.needed()):
            out.append(f"lease {c.next_round}")
        for number, _ in c.rounds:
            out += self._overdue_round(number)
        return out

    def _overdue_round(self, number: int) -> list[str]:
        c, now = self.model, self.now_s
        round_, oldest = c.round(number), c.oldest == number
        if oldest and model.agreed(self.rules, c, number):
            return [f"commit {number}"]
        if round_.trial is not None:
            complete = len(round_.trial.statistics) == len(round_.trial.owners)
            if complete and not round_.trial.included:
                return [f"verdict {number}"]
            return [f"fail {number}"] if self.timers.must_fail(c, number, now) else []
        able = model.able(self.rules, c, number)
        if round_.attempts == 0:
            due = self.timers.may_start(c, number, now)
            if oldest and (model.hopeless(c, number) or (due and not able)):
                return [f"abandon {number}"]
            return [f"attempt {number}"] if due and able else []
        return [f"attempt or abandon {number}"] if oldest else []


class _Follow:
    """One call of `decide`: its input, then every decision that it gave, in order."""

    def __init__(self, lockstep: Lockstep, event: Input, actions: Sequence[Action]) -> None:
        self.at = lockstep
        self.event = event
        self.actions = list(actions)
        self.rules, self.now, self.timers = lockstep.rules, lockstep.now_s, lockstep.timers
        self.returned: list[tuple[Stay, Rows]] = []
        self.journalled: list[tuple[Stay, Rows]] = []
        self.failed: set[int] = set()
        self.sent: dict[tuple[str, int], set[str]] = {}

    @property
    def c(self) -> Coordinator:
        return self.at.model

    @c.setter
    def c(self, value: Coordinator) -> None:
        self.at.model = value

    def run(self) -> None:
        try:
            self.c = self.hear()
            for action in self.actions:
                self.take(action)
        except NotAllowed as error:
            raise Differs(f"the model forbids it: {error}") from error
        if self.journalled != self.returned:
            raise Differs(f"journalled returns {self.journalled}, the model's {self.returned}")
        for (kind, number), who in self.sent.items():
            members = set(model.trial_of(self.c, number).members) if self._open(number) else who
            if who != members:
                raise Differs(f"{kind} of round {number} went to {who}, members are {members}")

    def _open(self, number: int) -> bool:
        """Still the attempt that was sent: a round may end in the same call."""
        found = dict(self.c.rounds).get(number)
        return found is not None and found.trial is not None

    # ---- the input -------------------------------------------------------------------------

    def hear(self) -> Coordinator:
        match self.event:
            case Admitted(node=node, role=role):
                self._expect(journal.Join)
                fresh = model.put(self.c.nodes, node, model.Node(trains=role == "trainer"))
                return self.c._replace(nodes=fresh)
            case Connected(node=node, generation=generation):
                if self.c.node(node).open and generation != self.c.node(node).generation:
                    self.close(node)
                self.timers.heard[node] = self.now
                return model.connect(self.c, node)
            case Disconnected(node=node):
                self.timers.gone[node] = self.now
                return model.disconnect(self.c, node)
            case Received(node=node, message=message):
                return self.message(node, message)
            case Tick():
                for name in self.timers.expired(self.c, self.now):
                    self.close(name)
        return self.c

    def close(self, name: str) -> None:
        """The next action must be CLOSE, with the model's ranges."""
        record = self._expect(journal.Close)
        generation = self.c.node(name).generation
        self.c, freed = model.close_stay(self.rules, self.c, name)
        self.timers.unknown.pop(name, None)
        found = (record.node, record.generation, mapping.rows(record.freed))
        if found != (name, generation, freed):
            raise Differs(f"CLOSE {found}, the model closes {(name, generation, freed)}")

    def _expect(self, kind: type[journal.AnyRecord]) -> journal.AnyRecord:
        for i, action in enumerate(self.actions):
            if isinstance(action, Append):
                if isinstance(action.record, kind):
                    del self.actions[i]
                    self.at.kinds.add(kind.__name__.lower())
                    return action.record
                break
        raise Differs(f"{kind.__name__.upper()} expected before {self.actions[:2]}")

    def message(self, node: str, message: Control) -> Coordinator:
        c = self.c
        match message:
            case Beat():
                self.timers.heard[node] = self.now
            case Synced():
                return self.synced(node, message)
            case Leave() if c.node(node).open:
                self.close(node)
                return self.c
            case Ready() if message.term == c.term:
                stay, trained = (node, message.generation), mapping.rows(message.trained)
                behind = mapping.behind(message, self.at.spec)
                return model.ready(c, stay, message.round, trained, behind)
            case Statistics() | Result() | Vote() | Accuse():
                fence = (message.round, message.term, message.attempt)
                return self.of_attempt(node, message) if model.current(c, *fence) else c
            case _:
                pass
        return c

    def synced(self, node: str, message: Synced) -> Coordinator:
        c = self.c
        resolved = c.next_round if c.oldest is None else c.oldest
        known = message.state_root == merkle_root(c.hashes)
        if c.node(node).link == "gone" or message.next_round != resolved or not known:
            return c
        self.timers.heard[node] = self.now
        self.timers.unknown.pop(node, None)
        if c.node(node).open:
            return model.activate(c, node)
        record = self._expect(journal.Gen)
        return model.open_stay(c, node, record.generation, self.rules.fragments)

    def of_attempt(self, node: str, message: Statistics | Result | Vote | Accuse) -> Coordinator:
        c, number = self.c, message.round
        trial = model.trial_of(c, number)
        if isinstance(message, Vote):
            return model.vote(c, number, node, message.bytes_root, message.fragment_hash)
        if isinstance(message, Accuse):
            if node in trial.members:
                self.timers.blamed(number, trial.attempt, self.now, silent=message.kind == "silent")
            return c
        reducing = isinstance(message, Result)
        if bool(trial.included) != reducing:
            return c  # statistics after the verdict, a result before it
        if message.slice >= len(trial.owners) or trial.owners[message.slice] != node:
            raise NotAllowed(f"{node} does not own slice {message.slice}")
        if isinstance(message, Result):
            return model.result(c, number, message.slice, message.hash)
        return model.statistics(c, number, message.slice)

    # ---- the decisions ---------------------------------------------------------------------

    def take(self, action: Action) -> None:
        match action:
            case Append(record=record):
                self.at.kinds.add(type(record).__name__.lower())
                self.record(record)
            case Send(node=node, message=Attempt() as message):
                self.attempt(node, message)
            case Send(node=node, message=Verdict() as message):
                self.verdict(node, message)
            case Send(node=node, message=Plan() as message):
                self.plan(node, message)
            case Tell(event=AttemptFailed(round=number)):
                self.fail(number)
            case _:
                pass

    def record(self, record: journal.AnyRecord) -> None:
        match record:
            case journal.Lease():
                self.lease(record)
            case journal.Commit():
                self.commit(record)
            case journal.Abandon():
                self.abandon(record)
            case journal.Return():
                stay = (record.node, record.generation)
                self.journalled.append((stay, mapping.rows(record.ranges)))
            case journal.Admin() if self.c.committed >= self.rules.rounds:
                pass
            case _:
                raise Differs(f"nothing asked for {record}")

    def lease(self, record: journal.Lease) -> None:
        c = self.c
        if not model.may_open(self.rules, c, trainers=self.at.needed()):
            raise Differs(f"LEASE {record.round} with {c.rounds} open")
        if self.now < self.timers.hold:
            raise Differs(f"LEASE {record.round} before the pause is over")
        if (record.round, record.term) != (c.next_round, c.term):
            raise Differs(f"LEASE {record.round} of term {record.term}, expected {c.next_round}")
        if any(g.generation != c.node(g.node).generation for g in record.grants):
            raise Differs(f"LEASE names old stays: {record}")
        self.c = model.lease(
            self.rules, c, {g.node: mapping.in_order(g.ranges) for g in record.grants}
        )
        stays = {(g.node, g.generation) for g in record.grants}
        self.timers.opened(record.round, stays, self.now)

    def plan(self, node: str, message: Plan) -> None:
        """What a peer is told to train is what it holds."""
        stay = (node, message.generation)
        if message.term != self.c.term or stay not in self.c.round(message.round).planned:
            raise Differs(f"PLAN {message} to {node}, planned {self.c.round(message.round)}")
        untrained = self.c.book.untrained(stay)
        told = mapping.in_order(message.ranges)
        if told != untrained[: len(told)]:
            raise Differs(f"PLAN says {told}, {stay} still has {untrained}")

    def fail(self, number: int) -> None:
        if not self.timers.must_fail(self.c, number, self.now):
            raise Differs(f"the attempt of round {number} ended early")
        after = decide(self.at.state, self.event, self.now)[0].rounds.get(number)
        guilty = after.excluded if after else frozenset()
        self.c = model.fail(self.c, number, guilty)
        self.failed.add(number)
        self.at.kinds.add("fail")

    def attempt(self, node: str, message: Attempt) -> None:
        number = message.round
        self.sent.setdefault(("ATTEMPT", number), set()).add(node)
        if len(self.sent["ATTEMPT", number]) > 1:
            return
        first = self.c.round(number).attempts == 0
        if first and not self.timers.may_start(self.c, number, self.now):
            raise Differs(f"the attempt of round {number} starts early")
        owners = tuple(s.owner for s in message.slices)
        self.c, returned = model.attempt(self.rules, self.c, number, owners)
        self.returned += returned
        trial = model.trial_of(self.c, number)
        self.timers.tried(number, trial.attempt, self.now, message.deadline_s)
        if (message.term, message.attempt) != (self.c.term, trial.attempt):
            raise Differs(f"{message} is attempt {trial.attempt} of term {self.c.term}")
        self.at.kinds.add("attempt")

    def verdict(self, node: str, message: Verdict) -> None:
        number = message.round
        self.sent.setdefault(("VERDICT", number), set()).add(node)
        if len(self.sent["VERDICT", number]) > 1:
            return
        self.c = model.verdict(self.c, number, tuple(i.node for i in message.included))
        trial = model.trial_of(self.c, number)
        weights = dict(zip(trial.candidates, trial.weights, strict=True))
        rows = {n: weights[n, g] for n, g in trial.candidates if n in trial.included}
        seq_len = self.at.spec.data.seq_len
        if {i.node: i.weight for i in message.included} != {
            n: w * seq_len for n, w in rows.items()
        }:
            raise Differs(f"weights {message.included}, rows {rows}")
        self.at.kinds.add("verdict")

    def commit(self, record: journal.Commit) -> None:
        number, voters = self.c.oldest, {v.node for v in record.votes}
        agreed = model.agreed(self.rules, self.c, number) if number is not None else {}
        if record.round != number or agreed.get(record.fragment_hash) != voters:
            raise Differs(f"COMMIT {record.round} by {voters}, the model has {number}: {agreed}")
        trial = model.trial_of(self.c, number)
        if (record.term, record.attempt) != (self.c.term, trial.attempt):
            raise Differs(f"COMMIT of {record.term}.{record.attempt}, in flight {trial.attempt}")
        self.c, done = model.commit(self.rules, self.c, record.fragment_hash)
        self.returned += done.returned
        credited = {(c.node, c.generation): mapping.rows(c.credited) for c in record.contributors}
        if credited != done.credited:
            raise Differs(f"COMMIT credits {credited}, the model {done.credited}")
        self.timers.committed()

    def abandon(self, record: journal.Abandon) -> None:
        number = self.c.oldest
        if record.round != number:
            raise Differs(f"ABANDON {record.round}, the oldest is {number}")
        round_ = self.c.round(number)
        nobody = round_.trial is None and not model.able(self.rules, self.c, number)
        due = round_.attempts > 0 or self.timers.may_start(self.c, number, self.now)
        tried = round_.trial is None and round_.attempts >= self.rules.attempts
        # Who was found guilty in this very call is not known: the round is gone.
        if not (
            model.hopeless(self.c, number) or tried or (nobody and due) or number in self.failed
        ):
            raise Differs(f"ABANDON {number} ({record.reason}) with {round_}")
        self.c, returned = model.abandon(self.rules, self.c)
        self.returned += returned
        self.timers.abandoned(self.now)


def _difference(real: Coordinator, expected: Coordinator) -> str:
    parts = [
        f"{name}: decide has {got}, the model {want}"
        for name, got, want in zip(real._fields, real, expected, strict=True)
        if got != want
    ]
    return "; ".join(parts)


def forked(peer: Peer) -> Peer:
    """The same peer with memory of its own."""
    twin = Peer(peer.node, peer.role)
    for name, value in vars(peer).items():
        own = value.copy() if isinstance(value, dict | list) else value
        setattr(twin, name, own)
    return twin
