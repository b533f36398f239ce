"""Runs of real processes from start to end."""

from __future__ import annotations

import json
from pathlib import Path

from processes import ENDLESS, Swarm, number, quad_spec

from farflung.events import Applied, RoundCommitted, Trained


def test_host_and_two_joins_finish_and_verify(tmp_path: Path) -> None:
    with Swarm(tmp_path, quad_spec()) as swarm:
        host = swarm.host()
        peers = [swarm.join("a"), swarm.join("b")]
        assert [p.wait() for p in peers] == [0, 0]
        assert host.wait() == 0
        assert "run finished" in host.text
        assert "abandoned" not in host.text
        assert len(swarm.commits()) == 20
        assert all("finished" in p.text for p in peers)
        done = swarm.verify()
        assert done.returncode == 0, done.stdout + done.stderr
        assert "4 copies agree" in done.stdout
        assert "20 of 20 recomputed bit by bit: ok" in done.stdout
        assert "duplicated 0, lost 0" in done.stdout
        assert "reductions   not checked" in done.stdout
        for peer in ("a", "b"):
            roots = [e.state_root for e in swarm.events(peer, Applied)]
            assert roots == [c.state_root.hex() for c in swarm.commits()]


def test_recorded_contributions_let_verify_recompute_every_reduction(tmp_path: Path) -> None:
    with Swarm(tmp_path, quad_spec(record="all", outer={"rounds": 6})) as swarm:
        host = swarm.host()
        swarm.join("a")
        swarm.join("b")
        assert host.wait() == 0
        for each in swarm.started:
            assert each.wait() == 0
        done = swarm.verify()
        assert done.returncode == 0, done.stdout + done.stderr
        slices = sum(len(c.slices) for c in swarm.commits())
        assert number(r"reductions +([\d,]+) slices recomputed", done.stdout) == slices


def test_status_answers_on_host_and_peer_while_it_runs(tmp_path: Path) -> None:
    with Swarm(tmp_path, quad_spec(**ENDLESS)) as swarm:
        swarm.host()
        swarm.join("a")
        swarm.join("b")
        swarm.committed(3)
        for name in ("host", "a"):
            done = swarm.run(name, "status", "--json")
            assert done.returncode == 0, done.stderr
            picture = json.loads(done.stdout)
            assert picture["head"]["rounds"] >= 3
            assert {p["name"] for p in picture["peers"]} >= {"a", "b", "keeper"}
            assert picture["running"] is True and picture["head"]["tokens_per_s"] > 0
            assert picture["head"]["eta_s"] > 0 and picture["rounds"]["loss"][0] is not None
            assert any(t["spans"] for t in picture["timelines"][-2]["peers"])
            assert picture["lines"][0]["at"] > 1e9 and picture["links"]["nodes"]
        plain = swarm.run("a", "status")
        assert plain.returncode == 0
        assert "running" in plain.stdout and "keeper" in plain.stdout
        assert "eta" in plain.stdout.lower() and "tok/s" in plain.stdout
        live = swarm.run("a", "watch", "--once")
        assert live.returncode == 0 and "tok/s" in live.stdout and "round " in live.stdout


def test_three_outbound_only_peers_finish_through_the_keeper(tmp_path: Path) -> None:
    spec = quad_spec(outer={"rounds": 10}, swarm={"start_peers": 3})
    with Swarm(tmp_path, spec) as swarm:
        host = swarm.host()
        peers = [swarm.join(name, "--outbound-only") for name in "abc"]
        assert [p.wait() for p in peers] == [0, 0, 0]
        assert host.wait() == 0
        assert all(len(c.contributors) == 3 for c in swarm.commits()[:3])
        assert len({s.owner for c in swarm.commits() for s in c.slices}) == 1
        assert swarm.verify().returncode == 0


def test_one_peer_with_the_keeper_is_replicated(tmp_path: Path) -> None:
    spec = quad_spec(outer={"rounds": 5}, swarm={"start_peers": 1})
    with Swarm(tmp_path, spec) as swarm:
        host = swarm.host()
        assert swarm.join("a").wait() == 0
        assert host.wait() == 0
        committed = swarm.events("host", RoundCommitted)
        assert [e.replicated for e in committed] == [True] * 5
        assert "not replicated" not in host.text
        assert_landed_before_trained(swarm, "a")
        assert swarm.verify().returncode == 0


def test_one_peer_without_a_keeper_says_not_replicated(tmp_path: Path) -> None:
    spec = quad_spec(outer={"rounds": 5}, swarm={"start_peers": 1})
    with Swarm(tmp_path, spec) as swarm:
        host = swarm.host("--no-keeper")
        assert swarm.join("a").wait() == 0
        assert host.wait() == 0
        committed = swarm.events("host", RoundCommitted)
        assert [(e.holders, e.replicated) for e in committed] == [(1, False)] * 5
        assert host.text.count("not replicated") == 5
        assert swarm.verify().returncode == 0


def assert_landed_before_trained(swarm: Swarm, name: str) -> None:
    """With a window of 1 no round is trained before the one before it is applied."""
    applied = -1
    for event in swarm.events(name):
        if isinstance(event, Applied):
            applied = event.round
        elif isinstance(event, Trained):
            assert event.round == applied + 1
