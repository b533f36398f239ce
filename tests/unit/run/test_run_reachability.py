"""The host finds out whether a peer can be dialled, and blames nobody for its own trouble."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from farflung.errors import LinkDown, ProtocolError
from farflung.events import Event, PeerUnreachable
from farflung.ids import NodeId, Role
from farflung.run import reachability
from farflung.run.reachability import Prober
from farflung.sim.loop import run_virtual
from farflung.swarm.state import Link, Node


def node(name: str, *endpoints: str, **changes: Any) -> Node:
    values = {"role": Role.TRAINER, "link": Link.ACTIVE, **changes}
    return Node(
        node=name, name=name, region="", public_key=b"", endpoints=endpoints, **values
    )  # fmt: skip


class Network:
    """Where somebody answers; every dial is counted."""

    def __init__(self, **answers: str) -> None:
        self.answers = answers
        self.dialled: list[str] = []

    async def dial(self, endpoint: str, *, expect: NodeId | None, deadline_s: float) -> object:
        self.dialled.append(endpoint)
        await asyncio.sleep(deadline_s / 10)
        if endpoint not in self.answers:
            raise LinkDown(f"cannot reach {endpoint}")
        if self.answers[endpoint] != expect:
            raise ProtocolError("somebody else answers there")
        return SimpleNamespace(close=lambda: None)


def probe(network: Network, *nodes: Node, then: dict[str, Node] | None = None) -> list[Event]:
    """What the host tells within five minutes; `then`: what becomes of the nodes after 6 s."""
    told: list[Event] = []
    state = SimpleNamespace(nodes={n.node: n for n in nodes})

    async def main() -> None:
        prober = Prober(SimpleNamespace(state=state), network, told.append)  # type: ignore[arg-type]
        running = asyncio.get_running_loop().create_task(prober.run())
        await asyncio.sleep(6.0)
        state.nodes |= then or {}
        await asyncio.sleep(300.0)
        running.cancel()

    run_virtual(main())
    return told


def test_a_peer_that_nobody_can_dial_is_told_once_with_the_reasons() -> None:
    network = Network(**{"good:1": "a", "other:1": "x"})
    told = probe(network, node("a", "bad:1", "good:1"), node("b", "bad:1", "other:1"))
    (event,) = told
    assert isinstance(event, PeerUnreachable) and event.name == "b"
    assert "cannot reach bad:1" in event.reason and "somebody else answers" in event.reason
    assert network.dialled.count("good:1") == 1, "one that answers is left alone"
    assert network.dialled.count("other:1") == 3


@pytest.mark.parametrize(
    "quiet",
    [
        node("a"),
        node("a", "bad:1", role=Role.KEEPER),
        node("a", "bad:1", link=Link.GONE),
    ],
)
def test_who_listens_nowhere_or_is_not_here_is_not_dialled(quiet: Node) -> None:
    network = Network()
    assert probe(network, quiet) == [] and network.dialled == []


def test_a_peer_that_leaves_meanwhile_is_not_blamed_and_one_with_another_address_is_tried() -> None:
    bad = node("a", "bad:1")
    assert probe(Network(), bad, then={"a": node("a", "bad:1", link=Link.GONE)}) == []
    network = Network(**{"good:1": "a"})
    assert probe(network, bad, then={"a": node("a", "good:1")}) == []
    assert network.dialled[-1] == "good:1"


def test_a_host_without_descriptors_blames_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError("too many open files")

    monkeypatch.setattr(reachability, "socket", SimpleNamespace(socket=refuse))
    assert probe(Network(), node("a", "bad:1")) == []
