"""What nodes tell for people is checked and bounded before it becomes events."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farflung.coordinator.measures import (
    BURST_LINES,
    LATE_ROUNDS,
    LEAST_LINKS,
    LINES_PER_S,
    MAX_LINKS,
    MAX_SPANS,
    WINDOW_S,
    LinkShares,
    MeasureBook,
    measured,
    measured_link,
    true_links,
)
from farflung.events import (
    PHASES,
    Event,
    EventLog,
    PeerDescribed,
    PeerMeasured,
    older_log,
    parse_event,
    read_events,
)
from farflung.network.messages import Hello, LinkFigures, RoundMeasures
from farflung.swarm.state import State

WALL_S = 1_800_000_000.0
NODES = [f"{i:040x}" for i in range(40)]


def state(next_round: int = 5, nodes: int = 3) -> State:
    """Of a State only what the book looks at."""
    names = {n: SimpleNamespace(name=f"p{i}") for i, n in enumerate(NODES[:nodes])}
    return cast(State, SimpleNamespace(nodes=names, next_round=next_round))


def book(events: list[Event]) -> MeasureBook:
    return MeasureBook(events.append, lambda: 0.0, lambda: WALL_S)


def hello(**changes: Any) -> Hello:
    fields: dict[str, Any] = {
        "protocol": 3,
        "arithmetic": 1,
        "run": "r",
        "name": "ann",
        "region": "FRA",
        "role": "trainer",
        "endpoints": (),
        "term": 1,
        "journal_length": 0,
        "journal_head": b"",
        "session": "s",
        "generation": 0,
        "device": "H200",
        "software": "farflung 0.1.0",
    }
    return Hello(**(fields | changes))


def test_spans_become_seconds_of_the_coordinators_clock() -> None:
    message = RoundMeasures(round=1, spans=((7, 1.5, 0.25), (0, 20.0, 1.5)))
    event = measured(message, NODES[0], "p0", WALL_S)
    assert event.spans == (0, WALL_S - 20, WALL_S - 1.5, 7, WALL_S - 1.5, WALL_S - 0.25)


BAD_SPANS = [
    (-1, 2.0, 1.0),
    (len(PHASES), 2.0, 1.0),
    (0, 1.0, 2.0),
    (0, 1.0, -1.0),
    (0, WINDOW_S + 1, 1.0),
    (0, math.inf, 1.0),
    (0, math.nan, 1.0),
    (0, 1.0, math.nan),
    (2**62, 1e308, -1e308),
]


@pytest.mark.parametrize("span", BAD_SPANS)
def test_a_span_that_cannot_be_is_left_out(span: tuple[int, float, float]) -> None:
    message = RoundMeasures(round=1, spans=(span, (0, 2.0, 1.0)))
    assert len(measured(message, NODES[0], "p0", WALL_S).spans) == 3


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, 1e308])
def test_a_figure_that_cannot_be_counts_as_not_measured(value: float) -> None:
    message = RoundMeasures(
        round=1,
        lr=value,
        grad_norm=value,
        tokens_per_s=value,
        mfu=value,
        flops=value,
        data_wait_s=value,
        copy_s=value,
        links=(LinkFigures(node=NODES[1], bytes=-5, bytes_per_s=value, rtt_s=value, loss=value),),
    )
    event = measured(message, NODES[0], "p0", WALL_S)
    assert not any((event.lr, event.grad_norm, event.tokens_per_s, event.mfu, event.flops))
    assert not any((event.data_wait_s, event.copy_s))
    (told,) = true_links(message, NODES[0], NODES)
    link = measured_link(1, NODES[0], told)
    assert (link.bytes, link.bytes_per_s, link.rtt_s, link.loss) == (0, 0, 0, -1)


def test_links_lead_to_other_nodes_of_the_run_and_are_told_once() -> None:
    links = tuple(LinkFigures(node=n, bytes=1) for n in ("strange", NODES[0], NODES[1], NODES[1]))
    message = RoundMeasures(round=1, links=links)
    assert [e.node for e in true_links(message, NODES[0], NODES)] == [NODES[1]]


def test_more_than_allowed_is_cut() -> None:
    many = {f"{i:040x}" for i in range(1000)}
    links = tuple(LinkFigures(node=n, bytes=1) for n in sorted(many))
    message = RoundMeasures(round=1, spans=((0, 2.0, 1.0),) * 1000, links=links)
    assert len(measured(message, "", "p0", WALL_S).spans) == 3 * MAX_SPANS
    assert len(true_links(message, "", many)) == MAX_LINKS


def test_a_node_is_heard_once_per_resolved_round() -> None:
    events: list[Event] = []
    told = book(events)
    for round_ in (4, 4, 3, 5, 6, 2**60, -1):
        told.heard(state(5), NODES[0], RoundMeasures(round=round_))
    assert [e.round for e in events if isinstance(e, PeerMeasured)] == [4]
    told.heard(state(6), NODES[0], RoundMeasures(round=5))
    told.heard(state(100), NODES[1], RoundMeasures(round=99 - LATE_ROUNDS))
    told.heard(state(100), "strange", RoundMeasures(round=99))
    assert [e.round for e in events if isinstance(e, PeerMeasured)] == [4, 5]


def test_a_node_is_described_when_it_connects_and_when_its_device_changes() -> None:
    events: list[Event] = []
    told = book(events)
    told.greeted(state(), NODES[0], hello(region="<script>", device="", software="\x1b]0;x"))
    for round_, device in ((1, ""), (2, "H200"), (3, "H200"), (4, "CPU")):
        told.heard(state(9), NODES[0], RoundMeasures(round=round_, device=device))
    told.greeted(state(), NODES[0], hello(device=""))
    said = [e for e in events if isinstance(e, PeerDescribed)]
    assert [e.device for e in said] == ["", "H200", "CPU", "CPU"]
    assert [e.region for e in said] == ["", "", "", "FRA"]
    assert {e.name for e in said} == {"p0"} and said[0].software == "]0;x"


def test_every_pair_gets_its_turn_and_no_second_has_too_many() -> None:
    """64 nodes that each tell of 16 links of 63, in rounds of 30 s."""
    nodes = [f"{i:040x}" for i in range(64)]
    shares, seen, lines = LinkShares(), set[tuple[str, str]](), list[int]()
    for round_ in range(300):
        count = 0
        for source in nodes:
            others = [n for n in nodes if n != source]
            window = [others[(16 * round_ + i) % 63] for i in range(16)]
            chosen = shares.choose(30.0 * round_, source, links_to(window), len(nodes))
            seen |= {(source, e.node) for e in chosen}
            count += len(chosen)
        lines.append(count)
    assert max(lines) <= BURST_LINES
    assert sum(lines) <= BURST_LINES + LINES_PER_S * 30 * 300
    assert len(seen) > 0.95 * 64 * 63


def test_a_small_swarm_tells_all_its_links() -> None:
    shares, nodes = LinkShares(), NODES[:5]
    for round_ in range(50):
        for source in nodes:
            links = links_to([n for n in nodes if n != source])
            assert len(shares.choose(10.0 * round_, source, links, 5)) == 4


def test_the_lines_come_back_with_time_only() -> None:
    shares = LinkShares()
    links = links_to(NODES[1:])
    while shares.choose(0.0, NODES[0], links, 1000):
        pass
    assert len(shares.choose(1000.0, NODES[0], links, 1000)) == LINES_PER_S
    assert not shares.choose(1000.0, NODES[0], links, 1000)
    assert len(shares.choose(1e9, NODES[0], links, 1000)) == LEAST_LINKS
    assert not shares.choose(-1e9, NODES[0], links, 1000), "a clock that goes back earns nothing"
    assert not shares.choose(1e9, NODES[0], links, 1000)


def links_to(targets: list[str]) -> list[LinkFigures]:
    return [LinkFigures(node=n, bytes=1) for n in targets]


anything = st.floats(allow_nan=True, allow_infinity=True)
messages = st.builds(
    RoundMeasures,
    round=st.integers(-(2**63), 2**63 - 1),
    spans=st.lists(st.tuples(st.integers(-9, 99), anything, anything), max_size=80).map(tuple),
    links=st.lists(
        st.builds(
            LinkFigures,
            node=st.sampled_from([*NODES, "x", ""]) | st.text(max_size=50),
            bytes=st.integers(-(2**63), 2**63 - 1),
            bytes_per_s=anything,
            rtt_s=anything,
            loss=anything,
        ),
        max_size=20,
    ).map(tuple),
    lr=anything,
    grad_norm=anything,
    tokens_per_s=anything,
    mfu=anything,
    flops=anything,
    data_wait_s=anything,
    copy_s=anything,
    memory_bytes=st.integers(-(2**63), 2**63 - 1),
    device=st.text(max_size=100),
)


@given(messages)
def test_whatever_is_said_becomes_events_that_can_be_written_and_read_back(
    message: RoundMeasures,
) -> None:
    events: list[Event] = []
    told = book(events)
    told.heard(state(2**62, nodes=40), NODES[0], message)
    told.heard(state(message.round + 1, nodes=40), NODES[0], message)
    for event in events:
        line = json.dumps({"kind": type(event).__name__, **vars(event)}, allow_nan=False)
        assert parse_event(json.loads(line)) == event
        assert len(line) < 4096


def test_every_value_of_an_honest_node_survives() -> None:
    message = RoundMeasures(
        round=1,
        lr=0.25,
        grad_norm=1.25,
        tokens_per_s=1e6,
        mfu=0.5,
        flops=6e9,
        data_wait_s=0.5,
        copy_s=0.125,
        memory_bytes=2**37,
        device="NVIDIA H200",
        links=(LinkFigures(node=NODES[1], bytes=9, bytes_per_s=2.5e6, rtt_s=0.08, loss=0.001),),
    )
    event = measured(message, NODES[0], "p0", WALL_S)
    told = replace(event, spans=())
    assert told == PeerMeasured(
        round=1,
        node=NODES[0],
        name="p0",
        spans=(),
        lr=0.25,
        grad_norm=1.25,
        tokens_per_s=1e6,
        mfu=0.5,
        data_wait_s=0.5,
        copy_s=0.125,
        memory_bytes=2**37,
        device="NVIDIA H200",
        flops=6e9,
    )
    (told_link,) = true_links(message, NODES[0], NODES)
    found = measured_link(1, NODES[0], told_link)
    assert (found.bytes, found.bytes_per_s, found.rtt_s, found.loss) == (9, 2.5e6, 0.08, 0.001)


@pytest.mark.parametrize(("nodes", "most"), [(5, 10_000), (65, 80_000), (257, 280_000)])
def test_a_round_adds_no_more_to_the_log_than_its_share(
    nodes: int, most: int, tmp_path: Path
) -> None:
    """Rounds of ten seconds, of nodes that tell as much as the honest ones do at most."""
    log = EventLog(tmp_path / "events.jsonl", "host", lambda: 0.0, most_bytes=2**20)
    now = [0.0]
    told = MeasureBook(log.emit, lambda: now[0], lambda: WALL_S + now[0])
    names = [f"{i:040x}" for i in range(nodes)]
    known = {n: SimpleNamespace(name=f"peer-{n[-4:]}") for n in names}
    spans = tuple((i % 8, 9.0 - i / 2, 8.5 - i / 2) for i in range(14))
    written = list[int]()
    log.listen(lambda e: written.append(len(json.dumps(vars(e))) + 60))
    for number in range(30):
        now[0] += 10.0
        seen = cast(State, SimpleNamespace(nodes=known, next_round=number + 1))
        written.append(0)
        for i, node in enumerate(names):
            links = tuple(
                LinkFigures(node=names[(i + k) % nodes], bytes=10**6, bytes_per_s=1e7, rtt_s=0.08)
                for k in range(1, min(17, nodes))
            )
            message = RoundMeasures(
                round=number, spans=spans, links=links, lr=0.731, device="NVIDIA H200"
            )
            told.heard(seen, node, message)
    log.close()
    burst = 300 * max(BURST_LINES, LEAST_LINKS * nodes)
    assert sum(written) - burst < 30 * most
    kept = [older_log(tmp_path / "events.jsonl"), tmp_path / "events.jsonl"]
    assert sum(p.stat().st_size for p in kept if p.exists()) <= 2 * 2**20 + 4096
    events = [e for p in kept if p.exists() for _, e in read_events(p.read_bytes().splitlines())]
    rounds = [e.round for e in events if isinstance(e, PeerMeasured)]
    assert rounds == sorted(rounds) and rounds[-1] == 29, "the older file goes on into the newer"
