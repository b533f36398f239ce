"""What the coordinator knows: immutable values, changed only by `decide`.

Durable facts (terms, members, generations, ledger, fragment hashes) come from the journal;
the rest (links, beats, attempts in flight) is forgotten by a restart and rebuilt by the peers.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from farflung.averaging.plan import Edge
from farflung.config.run import RunSpec
from farflung.events import Event
from farflung.ids import AccusationKind, Hash, NodePhase, Role
from farflung.network.messages import Attempt, Control, Partial, Ready, Verdict, Vote
from farflung.swarm.ledger import Ledger
from farflung.swarm.records import AnyRecord, Mix, Rejected


class Link(enum.Enum):
    GONE = "gone"
    """No connection."""
    SYNCING = "syncing"
    """Connected, still catching up: gets the journal, no plan."""
    ACTIVE = "active"
    """Holds the current state and takes part."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """One admitted identity."""

    node: str
    name: str
    region: str
    role: Role
    public_key: bytes
    generation: int = 0
    open: bool = False
    """Whether `generation` is still open."""
    link: Link = Link.GONE
    session: str = ""
    endpoints: tuple[str, ...] = ()
    last_beat_s: float = 0.0
    gone_s: float = 0.0
    """When the link was lost."""
    suspect: bool = False
    steps: int = 0
    step_s: float = 0.0
    """When `steps` last changed, or a declared phase last excused it."""
    steps_per_s: float = 0.0
    phase: NodePhase = NodePhase.WAITING
    phase_s: float = 0.0
    """When this phase began, or the stay."""
    budget: float = 0.0
    """C_m: cumulative fractional budget of inner steps in this generation."""
    up_bytes_per_s: float = 0.0
    """Measured by the node; 0: unknown."""
    down_bytes_per_s: float = 0.0
    uplink_level: int = 0
    """How much slower than the fastest its uplink counts when slices are cut (uplinks.py)."""
    uplink_seen: tuple[int, ...] = ()
    """The levels that its last rounds showed, newest last."""
    slower: int = 0
    """Rounds in a row that opened with it below the fastest's speed."""
    pace: float = 1.0
    """Share of the budget of its speed that a slower peer gets, so that it is ready in time."""
    missed: int = 0
    """Rounds in a row for which a slower peer was not ready in time."""
    applied: int = -1
    """The last round up to which it has said, with the right hash, that it has applied all."""
    kept: bool = False
    """It has said that the finished run's last round is on its disk."""
    slow_links: int = 0
    """Rounds in a row that its uplink held up."""
    observes_until: int = 0
    """Committed rounds from which it may train again; it follows until then."""
    unknown_until_s: float = 0.0
    """After a restart: keep the generation until then."""
    evaluates: bool = False
    """It can measure how good the model is."""

    @property
    def trains(self) -> bool:
        return self.role == Role.TRAINER

    @property
    def averages(self) -> bool:
        """Whether it is told of attempts, may own slices, and votes."""
        return self.role != Role.EVALUATOR


class Phase(enum.Enum):
    TRAIN = "train"
    """PLAN is out; waiting for READY."""
    EXCHANGE = "exchange"
    """ATTEMPT is out; owners gather contributions."""
    REDUCE = "reduce"
    """VERDICT is out; owners reduce, everybody stores results and votes."""


MOVES: Mapping[Phase, tuple[Phase, ...]] = {
    Phase.TRAIN: (Phase.EXCHANGE,),
    Phase.EXCHANGE: (Phase.EXCHANGE, Phase.REDUCE, Phase.TRAIN),
    Phase.REDUCE: (Phase.EXCHANGE, Phase.TRAIN),
}
"""Legal moves; a round leaves the table by COMMIT or ABANDON."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One attempt in flight."""

    message: Attempt
    weights: Mapping[str, int]
    """Tokens of every candidate, fixed here: it may leave before the verdict and still count."""
    started_s: float
    deadline_s: float
    statistics: Mapping[int, tuple[Partial, ...]] = field(default_factory=dict)
    verdict: Verdict | None = None
    results: Mapping[int, Hash] = field(default_factory=dict)
    votes: Mapping[str, Vote] = field(default_factory=dict)
    accusations: tuple[tuple[str, str, AccusationKind], ...] = ()
    """(accuser, accused, kind)."""
    judge_s: float = 0.0
    """When the gathered accusations are judged; 0: none so far."""

    @property
    def candidates(self) -> tuple[str, ...]:
        return tuple(c.node for c in self.message.candidates)


@dataclass(frozen=True, kw_only=True)
class Round:
    """A round without resolution."""

    number: int
    fragment: int
    opened_s: float
    deadline_s: float
    planned: Mapping[str, int]
    """node -> generation that was given a PLAN."""
    budgets: Mapping[str, int]
    """node -> rows that it is to train for this round."""
    phase: Phase = Phase.TRAIN
    ready: Mapping[str, Ready] = field(default_factory=dict)
    quorum_s: float = 0.0
    """When the quorum was reached; 0: not yet."""
    paced: frozenset[str] = frozenset()
    """Nodes whose budget is smaller because they are slower."""
    newcomers: frozenset[str] = frozenset()
    """Nodes for which it is the first round of their stay."""
    full_s: float = 0.0
    """When all the others were ready; 0: not yet."""
    trial: Trial | None = None
    attempts: int = 0
    excluded: frozenset[str] = frozenset()
    """Nodes that an attempt of this round had to do without."""
    rejected: tuple[Rejected, ...] = ()

    def enter(self, phase: Phase) -> Round:
        if phase not in MOVES[self.phase]:
            raise AssertionError(f"{self.phase} -> {phase}; legal: {MOVES[self.phase]}")
        return replace(self, phase=phase)


@dataclass(frozen=True, kw_only=True)
class Evaluating:
    """An evaluation that somebody was asked for."""

    serial: int
    node: str
    generation: int
    committed: int
    deadline_s: float
    tried: frozenset[str]
    """Who was asked for it, and did not do it."""


@dataclass(frozen=True, kw_only=True)
class State:
    """Everything. `run` and sizes never change, `spec` by AMEND records only."""

    run: str
    spec: RunSpec
    fragment_elements: tuple[int, ...]
    term: int
    nodes: Mapping[str, Node]
    ledger: Ledger
    fragment_hashes: tuple[Hash, ...]
    fragment_rounds: tuple[int, ...]
    """Round that wrote each fragment; -1 is genesis."""
    since: Mapping[tuple[str, int], tuple[int, ...]] = field(default_factory=dict)
    """(node, generation) -> rows credited since its last contribution to each fragment."""
    rounds: Mapping[int, Round] = field(default_factory=dict)
    """Unresolved rounds, at most `outer.window`."""
    next_round: int = 0
    committed: int = 0
    tokens: int = 0
    """Committed tokens of the ledger: credited rows times data.seq_len. What the run's end and
    schedule go by."""
    shown: Mapping[tuple[str, int], int] = field(default_factory=dict)
    """(node, generation) -> committed tokens of an open stay as its program counted them."""
    shown_total: int = 0
    """The same over the whole run, for people."""
    mixes: tuple[Mix, ...] = ()
    """Changes of the mixture of sources, in the order in which they were decided."""
    roots: Mapping[int, Hash] = field(default_factory=dict)
    """State root after each of the last committed rounds."""
    medians: Mapping[int, float] = field(default_factory=dict)
    """Fragment -> median of norm / sqrt(tokens) in its last committed round."""
    dead_edges: frozenset[Edge] = frozenset()
    abandoned_in_row: int = 0
    hold_until_s: float = 0.0
    """After an abandon no round opens before this: a run in trouble must not spin."""
    evaluations: int = 0
    """How many are journalled."""
    evaluated: int = 0
    """Committed rounds when the last one was asked for, or given up."""
    evaluating: Evaluating | None = None
    waiting: str = ""
    """Why no round may open; empty: rounds are open."""
    finished: bool = False
    """The last round is committed."""
    finished_s: float = 0.0
    ended: bool = False
    """The last round is kept (swarm/ending.py)."""
    amended: tuple[str, ...] = ()
    """Requests that have changed the spec, oldest first."""

    @property
    def oldest(self) -> int | None:
        """The lowest unresolved round: the only one that may be resolved."""
        return min(self.rounds, default=None)

    def active_trainers(self) -> list[Node]:
        """Sorted by id, so that nothing depends on the order of arrival."""
        live = (n for n in self.nodes.values() if n.trains and n.open and n.link is Link.ACTIVE)
        return sorted(live, key=lambda n: n.node)

    def active_members(self) -> list[Node]:
        """Those who average and vote, sorted by id."""
        live = (n for n in self.nodes.values() if n.averages and n.open and n.link is Link.ACTIVE)
        return sorted(live, key=lambda n: n.node)

    def active_evaluators(self) -> list[Node]:
        """Sorted by id."""
        live = (n for n in self.nodes.values() if n.role == Role.EVALUATOR and n.open)
        return sorted((n for n in live if n.link is Link.ACTIVE), key=lambda n: n.node)


# ---- what `decide` is told -----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Admitted:
    """An invite was redeemed (or the host made its own keeper)."""

    node: str
    name: str
    region: str
    role: Role
    public_key: bytes
    invite: bytes


@dataclass(frozen=True, kw_only=True)
class Connected:
    """An admitted node said Hello and passed all checks."""

    node: str
    session: str
    generation: int
    endpoints: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Disconnected:
    node: str
    session: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Received:
    """A message of an admitted, connected node; signatures are already checked."""

    node: str
    message: Control


@dataclass(frozen=True, kw_only=True)
class Tick:
    pass


@dataclass(frozen=True, kw_only=True)
class Amending:
    """The operator wants other settings (swarm/amendments.py)."""

    request: str
    wishes: tuple[str, ...]
    """`rounds=+100`, `outer.rounds=150`, `weights=web:5,books:5`, ..."""


Input = Admitted | Connected | Disconnected | Received | Tick | Amending


# ---- what `decide` answers -----------------------------------------------------------------


@dataclass(frozen=True)
class Append:
    """Journal this and sync before anything is sent."""

    record: AnyRecord


@dataclass(frozen=True)
class Send:
    node: str
    message: Control


@dataclass(frozen=True)
class Tell:
    """Emit an event."""

    event: Event


Action = Append | Send | Tell


class Step:
    """The scratchpad of one call of `decide`: a state on its way, and what follows from it."""

    def __init__(self, state: State, now_s: float) -> None:
        self.state = state
        self.now_s = now_s
        self.actions: list[Action] = []
        self.reasons: list[str] = []

    @property
    def spec(self) -> RunSpec:
        return self.state.spec

    def append(self, record: AnyRecord) -> None:
        self.actions.append(Append(record))

    def send(self, node: str, message: Control) -> None:
        self.actions.append(Send(node, message))

    def tell(self, event: Event) -> None:
        self.actions.append(Tell(event))

    def because(self, sentence: str) -> None:
        self.reasons.append(sentence)

    def set_node(self, node: Node) -> None:
        self.state = replace(self.state, nodes={**self.state.nodes, node.node: node})

    def set_round(self, round_: Round) -> None:
        self.state = replace(self.state, rounds={**self.state.rounds, round_.number: round_})

    def drop_round(self, number: int) -> None:
        kept = {r: v for r, v in self.state.rounds.items() if r != number}
        self.state = replace(self.state, rounds=kept)

    def name(self, node: str) -> str:
        known = self.state.nodes.get(node)
        return known.name if known else node[:8]
