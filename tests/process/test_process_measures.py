"""What real peers tell of their rounds arrives in the host's event log, with values that can be."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from processes import Swarm, assert_one_sentence, quad_spec

from farflung.events import PHASES, LinkMeasured, PeerDescribed, PeerMeasured, RoundCommitted
from farflung.swarm.records import Join

STEPS, STEP_S = 5, 0.04
ROUNDS = 5


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Swarm:
    spec = quad_spec(
        model={"parameters": 400_000, "step_s": STEP_S},
        outer={"inner_steps": STEPS, "rounds": ROUNDS},
    )
    with Swarm(tmp_path_factory.mktemp("measures"), spec) as swarm:
        host = swarm.host()
        peers = [swarm.join("a", "--region", "Frankfurt"), swarm.join("b", "--region", "jfk")]
        assert [p.wait() for p in peers] == [0, 0] and host.wait() == 0
    return swarm


def lines(swarm: Swarm, kind: str) -> list[dict[str, Any]]:
    path: Path = swarm.folder("host") / "events.jsonl"
    found = [json.loads(line) for line in path.read_bytes().splitlines()]
    return [fields for fields in found if fields["kind"] == kind]


def triples(flat: list[float]) -> list[tuple[float, float, float]]:
    return list(zip(flat[::3], flat[1::3], flat[2::3], strict=True))


def test_every_peer_tells_of_every_round_that_it_took_part_in(swarm: Swarm) -> None:
    told = {(e.round, e.name) for e in swarm.events("host", PeerMeasured)}
    assert told >= {(r, n) for r in range(ROUNDS - 1) for n in ("a", "b", "keeper")}


def test_spans_lie_between_opening_and_arrival_on_the_hosts_wall_clock(swarm: Swarm) -> None:
    opened = {f["round"]: f["wall"] for f in lines(swarm, "RoundOpened")}
    for fields in lines(swarm, "PeerMeasured"):
        spans = triples(fields["spans"])
        assert spans
        for index, start_s, stop_s in spans:
            assert 0 <= index < len(PHASES)
            assert opened[fields["round"]] - 0.05 <= start_s <= stop_s <= fields["wall"] + 0.05
        if fields["name"] != "keeper":
            train_s = sum(b - a for i, a, b in spans if PHASES[int(i)] == "train")
            assert train_s >= STEPS * STEP_S - 0.01
            assert fields["device"] == "NumPy" and fields["grad_norm"] > 0
            assert 0 < fields["lr"] <= 1
            assert 0 < fields["tokens_per_s"] <= 4 * 16 / STEP_S * 1.01


def test_links_have_bytes_round_trips_and_no_losses_on_one_machine(swarm: Swarm) -> None:
    joined = [r for r in swarm.records() if isinstance(r, Join)]
    nodes = {r.node for r in joined}
    trainers = [r.node for r in joined if r.role == "trainer"]
    told = swarm.events("host", LinkMeasured)
    assert {(e.source, e.target) for e in told} >= set(itertools.permutations(trainers, 2))
    assert all(e.bytes > 0 and e.source in nodes and e.target in nodes for e in told)
    known = [e for e in told if e.rtt_s]
    assert known, "Linux tells"
    assert all(0 < e.rtt_s < 1 and 0 <= e.loss < 0.5 for e in known)
    assert all(e.bytes_per_s > 1e4 for e in known)


def test_who_they_are_and_where_stands_in_the_log(swarm: Swarm) -> None:
    said = {e.name: e for e in swarm.events("host", PeerDescribed)}
    assert (said["a"].region, said["b"].region, said["keeper"].region) == ("FRA", "JFK", "")
    assert (said["a"].device, said["keeper"].device) == ("NumPy", "")
    assert all(e.software.startswith("farflung ") for e in said.values())


def test_the_run_is_what_it_would_be_without(swarm: Swarm) -> None:
    assert len(swarm.events("host", RoundCommitted)) == ROUNDS
    assert swarm.verify().returncode == 0


def test_a_region_that_nobody_knows_is_one_sentence(swarm: Swarm) -> None:
    done = swarm.run("c", "join", swarm.invite, "--region", "Franfurt")
    assert_one_sentence(done, "region 'Franfurt' is not in the list", "FRA (Frankfurt am Main")
