"""Fake peers around the pure `decide`: every step is checked, every history comes from a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from swarm_samples import genesis, mark

from farflung.config.load import from_table
from farflung.config.run import RunSpec
from farflung.errors import ProtocolError
from farflung.hashing import merkle_root
from farflung.ids import Hash
from farflung.network.messages import (
    Accuse,
    Attempt,
    Beat,
    Control,
    Leave,
    Partial,
    Plan,
    Ready,
    Result,
    Statistics,
    Synced,
    Verdict,
    Vote,
)
from farflung.swarm import ranges
from farflung.swarm.decide import decide
from farflung.swarm.ledger import Ledger, audit
from farflung.swarm.records import (
    Abandon,
    AnyRecord,
    Close,
    Commit,
    Gen,
    Ranges,
    Term,
)
from farflung.swarm.replay import orphans, replay
from farflung.swarm.state import (
    Admitted,
    Append,
    Connected,
    Disconnected,
    Input,
    Link,
    Received,
    Send,
    State,
    Tick,
)

ELEMENTS = 512
"""Of each fragment: two chunks of 256."""
TOKENS_OF_A_ROW = 5
"""As fake peers count; the ledger goes by data.seq_len = 16."""


def driver_spec(
    *, window: int = 1, fragments: int = 2, start_peers: int = 1, **more: object
) -> RunSpec:
    outer = {"inner_steps": 4, "rounds": 8, "chunk_elements": 256}
    outer |= {"window": window, "fragments": fragments, **more}
    return from_table(
        {
            "model": {"preset": "quadratic", "parameters": ELEMENTS * fragments},
            "data": {"source": "synthetic", "rows": 100_000, "seq_len": 16},
            "inner": {"batch_rows": 4},
            "outer": outer,
            "swarm": {"start_peers": start_peers},
        }
    )


@dataclass
class Peer:
    """What an agent remembers, without tensors."""

    node: str
    role: str = "trainer"
    session: int = 0
    linked: bool = False
    frozen: bool = False
    generation: int = 0
    steps: int = 0
    kept: bool = False
    applied: int = 0
    next_round: int = 0
    assigned: Ranges = ()
    trained: Ranges = ()
    counted: int = 0
    """Tokens of this stay as its program counts them: TOKENS_OF_A_ROW each."""
    plans: dict[int, Plan] = field(default_factory=dict)
    sent: dict[int, Ready] = field(default_factory=dict)
    todo: list[Control] = field(default_factory=list)

    def forget(self) -> None:
        """The stay is over: nothing trained is kept."""
        self.generation, self.assigned, self.trained, self.counted = 0, (), (), 0
        self.plans.clear()
        self.sent.clear()
        self.todo.clear()

    def read(self, record: AnyRecord) -> None:
        match record:
            case Gen(node=self.node):
                self.forget()
                self.generation = record.generation
            case Close(node=self.node):
                self.forget()
            case Commit() | Abandon():
                self.next_round = record.round + 1
                self.sent.pop(record.round, None)
                self.plans.pop(record.round, None)
                if isinstance(record, Commit):
                    mine = [c for c in record.contributors if c.node == self.node]
                    if mine and mine[0].generation == self.generation:
                        self.trained = ranges.subtract(self.trained, mine[0].credited)
            case _:
                pass

    def receive(self, message: Control) -> None:
        match message:
            case Plan(generation=self.generation):
                self.plans[message.round] = message
                known = ranges.union(self.trained, self.assigned)
                self.assigned = (*self.assigned, *ranges.subtract(message.ranges, known))
            case Attempt():
                self.todo += sums(self.node, message)
            case Verdict():
                self.todo += outcome(self.node, self._slices[message.round])
            case _:
                pass
        if isinstance(message, Attempt):
            self._slices[message.round] = message

    _slices: dict[int, Attempt] = field(default_factory=dict)


def sums(node: str, attempt: Attempt, square: float = 1.0) -> list[Control]:
    """Honest statistics for the slices that this node owns."""
    return [
        Statistics(
            term=attempt.term,
            round=attempt.round,
            attempt=attempt.attempt,
            slice=i,
            partials=tuple(Partial(node=c.node, square=square, dot=1) for c in attempt.candidates),
        )
        for i, s in enumerate(attempt.slices)
        if s.owner == node
    ]


def result_hash(round_: int, attempt: int, index: int) -> bytes:
    return mark(f"result {round_} {attempt} {index}")


def vote_for(attempt: Attempt) -> Vote:
    r, k = attempt.round, attempt.attempt
    root = merkle_root([result_hash(r, k, i) for i in range(len(attempt.slices))])
    return Vote(
        term=attempt.term,
        round=r,
        attempt=k,
        bytes_root=root,
        fragment_hash=mark(f"fragment after {r} {k}"),
        signature=bytes(64),
    )


def outcome(node: str, attempt: Attempt) -> list[Control]:
    """Results of the slices that this node owns, and its vote."""
    results: list[Control] = [
        Result(
            term=attempt.term,
            round=attempt.round,
            attempt=attempt.attempt,
            slice=i,
            hash=result_hash(attempt.round, attempt.attempt, i),
        )
        for i, s in enumerate(attempt.slices)
        if s.owner == node
    ]
    return [*results, vote_for(attempt)]


def durable_ledger(ledger: Ledger) -> tuple[object, ...]:
    held = {k: tuple(v) for k, v in ledger.held.items() if ranges.count(v)}
    return ledger.frontier, ledger.free, ledger.credited, held


def durable(state: State) -> tuple[object, ...]:
    """What a restart must find again."""
    return (
        state.term,
        durable_ledger(state.ledger),
        state.fragment_hashes,
        state.fragment_rounds,
        state.next_round,
        state.committed,
        state.tokens,
        state.shown_total,
        dict(state.shown),
        state.finished,
        state.ended,
        state.spec,
        state.amended,
        sorted(state.rounds),
        {n: (x.generation, x.open, x.role, x.name) for n, x in state.nodes.items()},
        dict(state.since),
    )


class Driver:
    """The coordinator's decisions, its journal, and the peers."""

    def __init__(self, spec: RunSpec, trainers: int, *, keeper: bool = True) -> None:
        self.spec = spec
        self.now_s = 100.0
        first = genesis(spec, spec.outer.fragments)
        self.records: list[AnyRecord] = [first, Term(term=1)]
        self.elements = (ELEMENTS,) * spec.outer.fragments
        self.state = replay(self.records, self.elements, self.now_s)
        self.reasons: list[str] = []
        self.messages: list[tuple[str, Control]] = []
        self.peers: dict[str, Peer] = {}
        names = [f"p{i}" for i in range(trainers)] + (["keeper"] if keeper else [])
        for name in names:
            node = mark(name).hex()[:40]
            role = "keeper" if name == "keeper" else "trainer"
            self.peers[name] = Peer(node, role)
            self.feed(
                Admitted(
                    node=node, name=name, region="", role=role, public_key=mark(name), invite=b""
                )
            )

    # ---- one decision, checked -------------------------------------------------------------

    def feed(self, event: Input) -> str:
        before = self.state
        self.state, actions, reason = decide(before, event, self.now_s)
        fresh = [a.record for a in actions if isinstance(a, Append)]
        for record in fresh:
            self._check_record(before, record)
            self.records.append(record)
        self._check_state()
        if fresh:
            again = replay(self.records, self.elements, self.now_s)
            assert durable(again) == durable(self.state), f"replay differs after {fresh}"
        for action in actions:
            if isinstance(action, Send):
                self._send(action.node, action.message)
        if reason:
            self.reasons.append(reason)
        return reason

    def _send(self, node: str, message: Control) -> None:
        self.messages.append((node, message))
        for peer in self.peers.values():
            if peer.node == node and peer.linked:
                self.catch_up(peer)
                peer.receive(message)

    def _check_state(self) -> None:
        open_ = self.state.rounds.values()
        assert len(open_) <= self.spec.outer.window
        assert len({r.fragment for r in open_}) == len(open_)
        for round_ in open_:
            assert round_.attempts <= 3
        places = [self.state.ledger.free, self.state.ledger.credited]
        places += list(self.state.ledger.held.values())
        assert sum(ranges.count(p) for p in places) == self.state.ledger.frontier

    def _check_record(self, before: State, record: AnyRecord) -> None:
        if not isinstance(record, Commit | Abandon):
            return
        done = [r for r in self.records if isinstance(r, Commit | Abandon)]
        assert record.round == len(done), "rounds are resolved in order"
        if isinstance(record, Commit):
            self._check_commit(before, record)

    def _check_commit(self, before: State, record: Commit) -> None:
        assert record.divisor == sum(c.tokens for c in record.contributors) > 0
        assert not {c.node for c in record.contributors} & {r.node for r in record.rejected}
        assert record.base_hash != record.fragment_hash
        assert {(v.bytes_root, v.fragment_hash) for v in record.votes} == {
            (record.bytes_root, record.fragment_hash)
        }
        assert record.bytes_root == merkle_root([s.hash for s in record.slices])
        trial = before.rounds[record.round].trial
        if trial is not None and trial.message.attempt == record.attempt:
            live = {n.node for n in self.state.active_members()}
            eligible = len({m.node for m in trial.message.members} & live)
            assert len(record.votes) >= min(2, max(1, eligible))

    def check_end(self) -> None:
        result = audit(self.records)
        assert (result.duplicated, result.lost) == (0, 0)
        assert self.state.tokens == 16 * result.credited
        assert self.state.shown_total == TOKENS_OF_A_ROW * result.credited

    # ---- what peers do ---------------------------------------------------------------------

    def catch_up(self, peer: Peer) -> None:
        for record in self.records[peer.applied :]:
            peer.read(record)
        peer.applied = len(self.records)

    def say(self, peer: Peer, message: Control) -> str:
        return self.feed(Received(node=peer.node, message=message))

    def connect(self, peer: Peer) -> None:
        self.catch_up(peer)
        peer.session += 1
        peer.linked = True
        peer.todo.clear()
        self.feed(
            Connected(
                node=peer.node,
                session=str(peer.session),
                generation=peer.generation,
                endpoints=("127.0.0.1:1",),
            )
        )
        self.catch_up(peer)

    def sync(self, peer: Peer) -> None:
        self.catch_up(peer)
        root = merkle_root(self.state.fragment_hashes)
        self.say(peer, Synced(next_round=peer.next_round, state_root=root))

    def disconnect(self, peer: Peer) -> None:
        peer.linked = False
        self.feed(Disconnected(node=peer.node, session=str(peer.session), reason="cut"))

    def beat(self, peer: Peer) -> None:
        peer.steps += 1
        steps = peer.steps
        self.say(peer, Beat(steps=steps, steps_per_s=0.0, phase="training", kept=peer.kept))

    def advance(self, seconds: float) -> None:
        """Time passes; everybody linked and awake beats."""
        self.now_s += seconds
        for peer in self.peers.values():
            if peer.linked and not peer.frozen:
                self.beat(peer)
        self.feed(Tick())

    def train(self, peer: Peer, rows: int | None = None, tokens: int = 10**9) -> None:
        """READY for the oldest plan: all that is assigned for it, or its first `rows`."""
        number = min(set(peer.plans))
        plan = peer.plans.pop(number)
        if number not in peer.sent:
            last = max(
                (i for i, p in enumerate(peer.assigned, 1) if ranges.intersect((p,), plan.ranges)),
                default=0,
            )
            now, later = peer.assigned[:last], peer.assigned[last:]
            if rows is not None:
                now, rest = ranges.take(now, rows)
                later = (*rest, *later)
            peer.trained, peer.assigned = ranges.union(peer.trained, now), later
            peer.counted += TOKENS_OF_A_ROW * ranges.count(now)
            peer.sent[number] = self.ready_of(peer, plan, tokens)
        self.say(peer, replace_term(peer.sent[number], self.state.term))

    def ready_of(self, peer: Peer, plan: Plan, tokens: int) -> Ready:
        return Ready(
            term=plan.term,
            round=plan.round,
            fragment=plan.fragment,
            generation=peer.generation,
            trained=peer.trained,
            base_round=-1,
            tokens=tokens,
            commitment=mark(f"{peer.node} {plan.round}"),
            steps=1,
            loss_sum=1.0,
            compute_s=0.1,
            wait_s=0.0,
            reported=peer.counted,
        )

    def restart(self) -> None:
        """A new incarnation of the coordinator, from the journal alone."""
        self.records += [Term(term=self.state.term + 1), *orphans(self.state)]
        self.state = replay(self.records, self.elements, self.now_s)
        for peer in self.peers.values():
            peer.linked = False
        self.feed(Tick())

    def settle(self) -> None:
        """Until this moment has nothing more to decide."""
        before = None
        while before is not self.state:
            before = self.state
            self.feed(Tick())

    # ---- whole stories ---------------------------------------------------------------------

    def gather(self) -> None:
        """Everybody connects and takes part."""
        for peer in self.peers.values():
            if not peer.linked:
                self.connect(peer)
            if self.state.nodes[peer.node].link is Link.SYNCING:
                self.sync(peer)

    def work(self) -> bool:
        """Everybody does what is on the list. False when nothing was."""
        did = False
        for peer in self.peers.values():
            while peer.linked and peer.plans and not self.state.finished:
                self.train(peer)
                did = True
            while peer.linked and peer.todo:
                self.say(peer, peer.todo.pop(0))
                did = True
        return did

    def run_to_the_end(self, limit_s: float = 600.0) -> None:
        """No more faults: the run must finish."""
        until = self.now_s + limit_s
        while not self.state.finished:
            assert self.now_s < until, f"stuck: {self.state.rounds} {self.reasons[-3:]}"
            self.gather()
            if not self.work():
                self.advance(0.3)


def replace_term(ready: Ready, term: int) -> Ready:
    fields = {f: getattr(ready, f) for f in ready.__struct_fields__}
    return Ready(**{**fields, "term": term})


class Chaos:
    """Random events in random order, from one seed."""

    def __init__(self, driver: Driver, seed: int) -> None:
        self.driver = driver
        self.rng = random.Random(seed)

    def step(self) -> None:
        peer = self.rng.choice(list(self.driver.peers.values()))
        kinds = ["act"] * 12 + ["tick"] * 4 + ["cut", "freeze", "accuse", "stale", "hostile"]
        if self.rng.random() < 0.02:
            kinds = ["leave", "crash", "restart"]
        getattr(self, f"_{self.rng.choice(kinds)}")(peer)

    def _act(self, peer: Peer) -> None:
        node = self.driver.state.nodes[peer.node]
        if peer.frozen:
            return
        if not peer.linked:
            self.driver.connect(peer)
        elif node.link is Link.SYNCING:
            self.driver.sync(peer)
        elif peer.todo:
            self.driver.say(peer, peer.todo.pop(self.rng.randrange(len(peer.todo))))
        elif peer.plans:
            rows = self.rng.choice([None, None, 1, 3, 0])
            self.driver.train(peer, rows, tokens=self.rng.choice([10**9, 16, 64]))

    def _tick(self, _: Peer) -> None:
        self.driver.advance(self.rng.choice([0.1, 0.3, 0.5, 1.0, 2.0]))

    def _cut(self, peer: Peer) -> None:
        if peer.linked:
            self.driver.disconnect(peer)

    def _freeze(self, peer: Peer) -> None:
        peer.frozen = not peer.frozen

    def _leave(self, peer: Peer) -> None:
        if peer.linked:
            self.driver.say(peer, Leave(reason="tired"))
            self.driver.catch_up(peer)

    def _crash(self, peer: Peer) -> None:
        """The process loses its progress; the journal is on its disk."""
        if peer.linked:
            self.driver.disconnect(peer)
        peer.forget()

    def _restart(self, _: Peer) -> None:
        self.driver.restart()

    def _accuse(self, peer: Peer) -> None:
        for round_ in self.driver.state.rounds.values():
            if round_.trial is None:
                continue
            attempt = round_.trial.message
            accused = self.rng.choice(attempt.members).node
            kind = self.rng.choice(["unreachable", "silent", "bad-bytes"])
            self.driver.say(
                peer,
                Accuse(
                    term=attempt.term,
                    round=attempt.round,
                    attempt=attempt.attempt,
                    nodes=(accused,),
                    kind=kind,
                ),
            )

    def _stale(self, peer: Peer) -> None:
        """Words of an older term or attempt, or of a resolved round, change nothing."""
        self.driver.settle()
        state = self.driver.state
        for message in stale_messages(state):
            after, actions, _ = decide(
                state, Received(node=peer.node, message=message), self.driver.now_s
            )
            assert (after, actions) == (state, ()), f"{message} changed something"

    def _hostile(self, peer: Peer) -> None:
        """Whatever a member says, it is answered or refused: `decide` never breaks."""
        for message in hostile_messages(self.driver.state, self.rng):
            try:
                decide(
                    self.driver.state, Received(node=peer.node, message=message), self.driver.now_s
                )
            except ProtocolError:
                continue


def stale_messages(state: State) -> list[Control]:
    gone = state.next_round - len(state.rounds) - 1
    fences = [(state.term, gone, 1), (state.term, state.next_round + 5, 1)]
    for number, round_ in state.rounds.items():
        attempt = round_.trial.message.attempt if round_.trial else round_.attempts
        fences += [(state.term - 1, number, attempt), (state.term, number, attempt - 1)]
        fences += [(state.term, number, attempt + 1)]
    out: list[Control] = []
    for term, number, attempt in fences:
        fence = {"term": term, "round": number, "attempt": attempt}
        out.append(Statistics(**fence, slice=0, partials=()))
        out.append(Result(**fence, slice=0, hash=mark("x")))
        out.append(
            Vote(**fence, bytes_root=mark("x"), fragment_hash=mark("y"), signature=bytes(64))
        )
        out.append(Accuse(**fence, nodes=("nobody",), kind="silent"))
    return out


def hostile_messages(state: State, rng: random.Random) -> list[Control]:
    out: list[Control] = []
    for number, round_ in state.rounds.items():
        attempt = round_.trial.message.attempt if round_.trial else 1
        fence = {"term": state.term, "round": number, "attempt": attempt}
        names = tuple(round_.trial.candidates) if round_.trial else ()
        value = rng.choice([float("nan"), float("inf"), -1.0, 1e300])
        partials = tuple(Partial(node=n, square=value, dot=value) for n in names)
        index = rng.choice([-1, 0, 1, 2, 10**9])
        out.append(Statistics(**fence, slice=index, partials=partials))
        out.append(Statistics(**fence, slice=index, partials=partials[:1]))
        out.append(Result(**fence, slice=index, hash=rng.choice([b"", mark("z")])))
        out.append(Vote(**fence, bytes_root=b"", fragment_hash=b"", signature=b""))
        out.append(Accuse(**fence, nodes=("nobody", ""), kind="unheard"))
        out += [_hostile_ready(state, number, rng) for _ in range(3)]
    return out


def _hostile_ready(state: State, number: int, rng: random.Random) -> Ready:
    start = rng.choice([-5, 0, 4, 10**15])
    return Ready(
        term=state.term,
        round=number,
        fragment=rng.choice([-1, 0, 99]),
        generation=rng.choice([0, 1, 2]),
        trained=((start, start + rng.choice([-1, 0, 4, 10**12])), (0, 4)),
        base_round=10**9,
        tokens=rng.choice([-1, 0, 10**18]),
        commitment=rng.choice([b"", mark("c"), b"short"]),
        steps=-1,
        loss_sum=float("nan"),
        compute_s=-1.0,
        wait_s=-1.0,
    )


def with_hash(state: State, fragment: int, value: bytes) -> State:
    hashes = list(state.fragment_hashes)
    hashes[fragment] = Hash(value)
    return replace(state, fragment_hashes=tuple(hashes))
