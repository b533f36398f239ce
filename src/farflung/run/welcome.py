"""Who may connect to the coordinator, and what a new incarnation of it starts from."""

from __future__ import annotations

from farflung.clock import Clock
from farflung.config.run import ARITHMETIC_VERSION, PROTOCOL_VERSION
from farflung.errors import MismatchError, ProtocolError
from farflung.failpoints import hit
from farflung.network.messages import Hello, Welcome
from farflung.swarm import ranges
from farflung.swarm.records import Abandon, AnyRecord, Close, Lease, Return
from farflung.swarm.state import Link, Node, State

GAP_S = 1.0
"""A gap between two looks at the clock above this means that this process was suspended."""
USUAL_GAP_S = 0.1


class AwakeClock:
    """Seconds in which this process ran: a suspension moves no deadline."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last = clock.now()
        self._asleep = 0.0
        self._frozen: float | None = None

    def now(self) -> float:
        if self._frozen is not None:
            return self._frozen
        raw = self._clock.now()
        gap = raw - self._last
        if gap > GAP_S:
            self._asleep += gap - USUAL_GAP_S
        self._last = raw
        return raw - self._asleep

    def freeze(self) -> None:
        """Time stands still until `thaw`: nothing can be decided meanwhile."""
        self._frozen = self.now()

    def thaw(self) -> None:
        """Time goes on from where it stood."""
        if self._frozen is not None:
            self._last = self._clock.now()
            self._asleep = self._last - self._frozen
            self._frozen = None


def refuse_version(state: State, hello: Hello) -> str:
    """One sentence with both values, or ''."""
    if hello.protocol != PROTOCOL_VERSION:
        return (
            f"you speak protocol {hello.protocol}, this run {PROTOCOL_VERSION}; install the "
            f"same farflung version as the host"
        )
    if hello.arithmetic != ARITHMETIC_VERSION:
        return (
            f"your arithmetic version is {hello.arithmetic}, the run's {ARITHMETIC_VERSION}; "
            f"install the same farflung version as the host"
        )
    if hello.run != state.run:
        return f"you want run {hello.run}, this is {state.run}; use its own invite"
    return ""


def refuse(state: State, node: str, hello: Hello, connected: bool, now_s: float) -> str:
    """One sentence with both values, or '' to let the node in. Its journal fits mine."""
    if node not in state.nodes:
        return "this run does not know your key; redeem an invite first"
    if hello.term > state.term:
        return (
            f"you claim term {hello.term}, but your journal is a prefix of mine, in term "
            f"{state.term}; move your copy of this run away and join again"
        )
    return _double_start(state, node, hello, connected, now_s)


def _double_start(state: State, node: str, hello: Hello, connected: bool, now_s: float) -> str:
    """A live session of the same key is kept; only a silent one gives way."""
    known = state.nodes[node]
    if not connected or known.session in ("", hello.session):
        return ""
    silence = now_s - known.last_beat_s
    if known.link is Link.GONE or silence > state.spec.swarm.suspect_s:
        return ""
    return (
        f"the key of {known.name} is already connected (last beat {silence:.1f} s ago); stop "
        f"the other process or use another FARFLUNG_HOME"
    )


def serves(node: Node) -> bool:
    """Whoever is connected may hold bytes that others miss, also while it catches up itself:
    after a power cut everywhere nobody is active until the holders' bytes have gone round."""
    return node.link is not Link.GONE


def check_welcome(welcome: Welcome, followed_term: int) -> None:
    """What a node asks of a coordinator. Raises MismatchError (protocol), ProtocolError (a term
    below the one it has followed: another endpoint may lead to the newer coordinator)."""
    if welcome.protocol != PROTOCOL_VERSION:
        raise MismatchError(
            f"the run speaks protocol {welcome.protocol}, this farflung "
            f"{PROTOCOL_VERSION}; install the version that the host runs"
        )
    if welcome.term < followed_term:
        raise ProtocolError(
            f"its term {welcome.term} is older than {followed_term}, which I have followed; stop "
            f"the stale coordinator"
        )


def hit_appended(records: list[AnyRecord]) -> None:
    """The failpoints of a decision that is durable and was not sent yet."""
    hit("coordinator.appended")
    for record in records:
        match record:
            case Lease():
                hit("lease.appended")
            case Abandon():
                hit("abandon.appended")
            case Close():
                hit("generation.closed")
            case _:
                pass


def orphans(state: State) -> list[AnyRecord]:
    """Leases of closed stays that an attempt held when the former incarnation ended: its
    attempts are void, so they become free now."""
    found: list[AnyRecord] = []
    for (node, generation), held in sorted(state.ledger.held.items()):
        known = state.nodes[node]
        if held and not (known.open and known.generation == generation):
            found.append(Return(node=node, generation=generation, ranges=ranges.normalise(held)))
    return found
