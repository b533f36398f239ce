"""What is told of links: bytes from here, the rest as the system counted it, everybody in turn."""

from __future__ import annotations

import weakref
from typing import Any, cast

import pytest

from farflung.network.link import Connection, LinkCounts
from farflung.network.messages import LinkFigures
from farflung.transfer.link_meter import MAX_LINKS, LinkMeter, figures
from farflung.transfer.mesh import Mesh


class Wire:
    """A link whose counters are set by hand."""

    def __init__(self, **counts: Any) -> None:
        self.now: LinkCounts | None = counted(**counts)

    def counts(self) -> LinkCounts | None:
        return self.now


class Links:
    """Of a Mesh what the meter looks at."""

    def __init__(self) -> None:
        self.sent: dict[str, int] = {}
        self.links: dict[str, tuple[Wire, ...]] = {}

    def sent_to(self) -> dict[str, int]:
        return dict(self.sent)

    def open_links(self, node: str) -> tuple[Connection, ...]:
        return cast("tuple[Connection, ...]", self.links.get(node, ()))


def counted(**changes: Any) -> LinkCounts:
    fields: dict[str, Any] = {
        "acknowledged": 0,
        "segments": 0,
        "retransmitted": 0,
        "busy_s": 0.0,
        "rtt_s": 0.0,
        "delivery_bytes_per_s": 0.0,
    }
    return LinkCounts(**(fields | changes))


@pytest.fixture
def links() -> Links:
    return Links()


@pytest.fixture
def meter(links: Links) -> LinkMeter:
    return LinkMeter(cast(Mesh, links))


def test_bytes_are_those_since_the_last_time(links: Links, meter: LinkMeter) -> None:
    links.sent = {"a": 100, "b": 5}
    assert [(f.node, f.bytes) for f in meter.take()] == [("a", 100), ("b", 5)]
    links.sent = {"a": 130, "b": 5}
    assert [(f.node, f.bytes) for f in meter.take()] == [("a", 30)]
    assert meter.take() == ()


def test_rates_and_losses_are_those_since_the_last_time(links: Links, meter: LinkMeter) -> None:
    wire = Wire(acknowledged=10**6, segments=1000, retransmitted=500, busy_s=10.0, rtt_s=0.3)
    links.sent, links.links = {"a": 1}, {"a": (wire,)}
    meter.take()
    wire.now = counted(
        acknowledged=3 * 10**6, segments=3000, retransmitted=510, busy_s=11.0, rtt_s=0.08
    )
    links.sent = {"a": 2}
    assert meter.take() == (
        LinkFigures(node="a", bytes=1, bytes_per_s=2e6, rtt_s=0.08, loss=10 / 2000),
    )


def test_counters_that_wrap_or_begin_anew_give_no_nonsense(links: Links, meter: LinkMeter) -> None:
    wire = Wire(segments=2**32 - 10, retransmitted=2**32 - 2, acknowledged=9, busy_s=9.0)
    links.sent, links.links = {"a": 1}, {"a": (wire,)}
    meter.take()
    wire.now = counted(segments=90, retransmitted=3, acknowledged=8, busy_s=8.0)
    links.sent = {"a": 2}
    (told,) = meter.take()
    assert told.loss == 5 / 100 and told.bytes_per_s == 0


def test_a_new_link_to_the_same_node_counts_from_its_beginning(
    links: Links, meter: LinkMeter
) -> None:
    links.sent, links.links = {"a": 1}, {"a": (Wire(acknowledged=10**9, busy_s=1.0),)}
    meter.take()
    links.sent, links.links = {"a": 2}, {"a": (Wire(acknowledged=10**6, busy_s=1.0),)}
    assert meter.take()[0].bytes_per_s == 1e6


def test_a_closed_link_is_not_held(links: Links, meter: LinkMeter) -> None:
    wire = Wire(acknowledged=1)
    gone = weakref.ref(wire)
    links.sent, links.links = {"a": 1}, {"a": (wire,)}
    meter.take()
    links.links = {}
    del wire
    assert gone() is not None
    meter.take()
    assert gone() is None


def test_where_the_system_tells_nothing_bytes_are_all(links: Links, meter: LinkMeter) -> None:
    wire = Wire()
    wire.now = None
    links.sent, links.links = {"a": 7, "gone": 8}, {"a": (wire,)}
    assert meter.take() == (
        LinkFigures(node="a", bytes=7),
        LinkFigures(node="gone", bytes=8),
    )


def test_a_transfer_too_short_to_be_timed_has_the_systems_estimate() -> None:
    short = counted(acknowledged=10**6, busy_s=0.004, delivery_bytes_per_s=5e7, segments=9)
    assert figures("a", 1, [short]).bytes_per_s == 5e7


def test_the_round_trip_is_that_of_the_link_which_moved_most() -> None:
    told = figures(
        "a", 1, [counted(acknowledged=9, rtt_s=0.2), counted(acknowledged=99, rtt_s=0.1)]
    )
    assert told.rtt_s == 0.1 and told.loss == -1


def test_of_many_nodes_everybody_is_told_in_turn(links: Links, meter: LinkMeter) -> None:
    nodes = [f"{i:02}" for i in range(40)]
    told: list[str] = []
    for number in range(1, 6):
        links.sent = dict.fromkeys(nodes, number)
        some = [f.node for f in meter.take()]
        assert len(some) == MAX_LINKS
        told += some
    assert set(told[:48]) == set(nodes)
    assert max(told.count(n) for n in nodes) <= 2
