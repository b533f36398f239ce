"""What nodes tell for people, made into events: checked, bounded, and never an input of decisions.

A node may say what it likes. What is not finite, not in its range or not in time is left out; nodes
that the run does not know are too; a node is heard once per resolved round. Links are told in
turn, so that a large swarm's log grows no faster than a small one's (decisions/0029).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Sequence

from farflung import regions
from farflung.events import PHASES, Emit, LinkMeasured, PeerDescribed, PeerMeasured, printable
from farflung.network.messages import Hello, LinkFigures, RoundMeasures
from farflung.swarm.state import State

MAX_SPANS = 64
MAX_LINKS = 128
MAX_TEXT = 64
WINDOW_S = 86_400.0
"""Nothing that a node did longer ago is told."""
LATE_ROUNDS = 16
"""Nothing of rounds that were resolved before so many others."""
LINES_PER_S, BURST_LINES = 4.0, 256
"""Links that are told: so many at once, then this many each second."""
LEAST_LINKS = 4
"""Of one message, while there are lines left."""

MOST_NORM = 1e9
MOST_LR = 1e6
MOST_RATE = 1e15
MOST_BYTES = 2**60
MOST_FLOPS = 1e18


class MeasureBook:
    """Owned by the coordinator's loop."""

    def __init__(self, emit: Emit, now: Callable[[], float], wall_now: Callable[[], float]) -> None:
        """`now`: monotonic seconds; `wall_now`: seconds since 1970, as the event log stamps."""
        self._emit, self._now, self._wall_now = emit, now, wall_now
        self._told: dict[str, int] = {}
        """The last round that each node was heard of."""
        self._described: dict[str, PeerDescribed] = {}
        self._turns = LinkTurns()

    def greeted(self, state: State, node: str, hello: Hello) -> None:
        """A node has connected, and its Hello was accepted."""
        known = self._described.get(node)
        self._describe(
            PeerDescribed(
                node=node,
                name=state.nodes[node].name,
                region=hello.region if regions.known(hello.region) else "",
                device=text(hello.device) or (known.device if known else ""),
                software=text(hello.software),
            )
        )

    def heard(self, state: State, node: str, message: RoundMeasures) -> None:
        """Ignored when it is not of a round that was resolved just now, or said before."""
        oldest = max(self._told.get(node, -1) + 1, state.next_round - LATE_ROUNDS)
        if node not in state.nodes or not oldest <= message.round < state.next_round:
            return
        self._told[node] = message.round
        event = measured(message, node, state.nodes[node].name, self._wall_now())
        known = self._described.get(node)
        if known is not None and event.device not in ("", known.device):
            described = {"name": known.name, "region": known.region, "software": known.software}
            self._describe(PeerDescribed(node=node, device=event.device, **described))
        self._emit(event)
        links = measured_links(message, node, state.nodes)
        for link in self._turns.choose(self._now(), node, links, len(state.nodes)):
            self._emit(link)

    def _describe(self, event: PeerDescribed) -> None:
        self._described[event.node] = event
        self._emit(event)


class LinkTurns:
    """Which of a node's links are told this time: the next ones after the last time's. Pure."""

    def __init__(self) -> None:
        self._last: dict[str, str] = {}
        """By source: the target that was told last."""
        self._lines = float(BURST_LINES)
        self._seen_s = -math.inf

    def choose(
        self, now_s: float, source: str, links: Sequence[LinkMeasured], nodes: int
    ) -> list[LinkMeasured]:
        """`nodes`: among how many the lines are shared."""
        earned = LINES_PER_S * max(0.0, now_s - self._seen_s)
        self._lines, self._seen_s = min(float(BURST_LINES), self._lines + earned), now_s
        room = min(int(self._lines), max(LEAST_LINKS, BURST_LINES // max(1, nodes)))
        last = self._last.get(source, "")
        order = sorted(links, key=lambda link: (link.target <= last, link.target))[:room]
        self._lines -= len(order)
        if order:
            self._last[source] = order[-1].target
        return order


# ---- what a message says: pure ---------------------------------------------------------------


def measured(message: RoundMeasures, node: str, name: str, wall_s: float) -> PeerMeasured:
    """`wall_s`: when it came, seconds since 1970."""
    return PeerMeasured(
        round=message.round,
        node=node,
        name=name,
        spans=_spans(message, wall_s),
        lr=within(message.lr, MOST_LR),
        grad_norm=within(message.grad_norm, MOST_NORM),
        tokens_per_s=round(within(message.tokens_per_s, MOST_RATE), 1),
        mfu=within(message.mfu, 1.0),
        data_wait_s=round(within(message.data_wait_s, WINDOW_S), 4),
        copy_s=round(within(message.copy_s, WINDOW_S), 4),
        memory_bytes=int(within(message.memory_bytes, MOST_BYTES)),
        device=text(message.device),
        flops=within(message.flops, MOST_FLOPS),
    )


def _spans(message: RoundMeasures, wall_s: float) -> tuple[float, ...]:
    good = [
        (index, round(wall_s - start_s, 3), round(wall_s - stop_s, 3))
        for index, start_s, stop_s in message.spans[:MAX_SPANS]
        if 0 <= index < len(PHASES) and 0.0 <= stop_s <= start_s <= WINDOW_S
    ]
    ordered = sorted(good, key=lambda span: (span[1], span[2], span[0]))
    return tuple(value for span in ordered for value in span)


def measured_links(
    message: RoundMeasures, source: str, nodes: Container[str]
) -> list[LinkMeasured]:
    """What the sender says of its links to nodes of the run, each once."""
    found: dict[str, LinkMeasured] = {}
    for link in message.links[:MAX_LINKS]:
        if link.node in nodes and link.node != source and link.node not in found:
            found[link.node] = _link(message.round, source, link)
    return list(found.values())


def _link(round_: int, source: str, link: LinkFigures) -> LinkMeasured:
    known = math.isfinite(link.loss) and 0.0 <= link.loss <= 1.0
    return LinkMeasured(
        round=round_,
        source=source,
        target=link.node,
        bytes=int(within(link.bytes, MOST_BYTES)),
        bytes_per_s=round(within(link.bytes_per_s, MOST_RATE)),
        rtt_s=round(within(link.rtt_s, WINDOW_S), 6),
        loss=round(link.loss, 6) if known else -1.0,
    )


def within(value: float, most: float) -> float:
    """A claim; 0, "not measured", when it is not finite or not in 0 .. most."""
    return _short(value) if math.isfinite(value) and 0 <= value <= most else 0.0


def _short(value: float) -> float:
    """Six digits are enough to look at."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def text(value: str) -> str:
    """A stranger's words: one short line, inert."""
    return printable(value[:MAX_TEXT]).strip()
