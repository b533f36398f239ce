"""What nodes tell for people, made into events: checked, bounded, and never an input of decisions.

A node may say what it likes. What is not finite, not in its range or not in time is left out; nodes
that the run does not know are too; a node is heard once per resolved round. Of many links some are
told each time, so that a large swarm's log grows no faster than a small one's (decisions/0029).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

from farflung import regions
from farflung.events import PHASES, Emit, LinkMeasured, PeerDescribed, PeerMeasured, inert
from farflung.network.messages import Hello, LinkFigures, RoundMeasures
from farflung.swarm.state import State

MAX_SPANS = 64
MAX_LINKS = 64
MAX_TEXT = 64
WINDOW_S = 86_400.0
"""Nothing that a node did longer ago is told."""
LATE_ROUNDS = 16
"""Nothing of rounds that were resolved before so many others."""
LINES_PER_S, BURST_LINES = 2.0, 256
"""Links that are told: so many at once, then this many each second, in equal shares."""
LEAST_LINKS = 4
"""That a node may tell at once, in the largest swarm."""

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
        self._shares = LinkShares()

    def greeted(self, state: State, node: str, hello: Hello) -> None:
        """A node has connected, and its Hello was accepted."""
        known = self._described.get(node)
        self._describe(
            PeerDescribed(
                node=node,
                name=state.nodes[node].name,
                region=hello.region if regions.known(hello.region) else "",
                device=inert(hello.device, MAX_TEXT) or (known.device if known else ""),
                software=inert(hello.software, MAX_TEXT),
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
        links = true_links(message, node, state.nodes)
        for link in self._shares.choose(self._now(), node, links, len(state.nodes)):
            self._emit(measured_link(message.round, node, link))

    def _describe(self, event: PeerDescribed) -> None:
        self._described[event.node] = event
        self._emit(event)


@dataclass
class _Share:
    lines: float
    seen_s: float


class LinkShares:
    """Which of the links that a node tells of are put into the log: any, and as many as its share
    allows. Pure: equal calls choose equally."""

    def __init__(self) -> None:
        self._shares: dict[str, _Share] = {}
        self._dice = random.Random(0)

    def choose(
        self, now_s: float, source: str, links: Sequence[LinkFigures], nodes: int
    ) -> Sequence[LinkFigures]:
        """`nodes`: among how many the lines are shared."""
        most = float(max(LEAST_LINKS, BURST_LINES // max(1, nodes)))
        share = self._shares.setdefault(source, _Share(most, now_s))
        earned = max(0.0, now_s - share.seen_s) * LINES_PER_S / max(1, nodes)
        share.lines = min(most, share.lines + earned)
        share.seen_s = max(now_s, share.seen_s)
        count = min(len(links), int(share.lines))
        share.lines -= count
        return links if count == len(links) else self._dice.sample(links, count)


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
        device=inert(message.device, MAX_TEXT),
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


def true_links(message: RoundMeasures, source: str, nodes: Container[str]) -> Sequence[LinkFigures]:
    """Those that lead to other nodes of the run, each once."""
    found = {link.node: link for link in reversed(message.links[:MAX_LINKS])}
    return [link for n, link in found.items() if n in nodes and n != source]


def measured_link(round_: int, source: str, link: LinkFigures) -> LinkMeasured:
    """What the sender says of one of them."""
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
