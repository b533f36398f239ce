"""`farflung host --extend` with real processes: a host that runs, and a run that is over."""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import Swarm, assert_one_sentence, listing, quad_spec

from farflung.swarm.records import Amend, Mix

pytestmark = pytest.mark.slow


def test_a_run_is_extended_while_it_runs_and_after_its_end(tmp_path: Path) -> None:
    spec = quad_spec(outer={"rounds": 30}, model={"step_s": 0.005})
    with Swarm(tmp_path, spec) as swarm:
        host = swarm.host()
        peers = [swarm.join("a"), swarm.join("b")]
        swarm.committed(3)
        done = swarm.run("host", "host", "--extend", "rounds=+10", "--extend", "grace_s=2")
        assert (done.returncode, done.stdout) == (
            0,
            "amended: rounds=+10, grace_s=2; the run now ends after 40 rounds\n",
        ), done.stderr
        refused = swarm.run("host", "host", "--extend", "rounds=2")
        assert_one_sentence(refused, "outer.rounds=2 must be at least")
        assert "round" in swarm.run("host", "status").stdout
        assert [p.wait() for p in peers] == [0, 0]
        assert host.wait() == 0
        assert "amended from round" in host.text and "complete: 40 rounds" in host.text
        assert len(swarm.commits()) == 40

        before = listing(swarm.folder("host"))
        assert_one_sentence(swarm.run("host", "host", "--extend", "min_peers=1", "--extend", "x=1"))
        assert_one_sentence(
            swarm.run("host", "host", "--extend", "grace_s=1"), "open it again with rounds=+N"
        )
        after = listing(swarm.folder("host"))
        assert {k: v for k, v in after.items() if k.startswith("journal")} == {
            k: v for k, v in before.items() if k.startswith("journal")
        }

        host = swarm.again("--run", spec.name, "--extend", "rounds=+10")
        peers = [swarm.join_again("a"), swarm.join_again("b"), swarm.join("c")]
        assert [p.wait() for p in peers] == [0, 0, 0]
        assert host.wait() == 0
        assert len(swarm.commits()) == 50
        assert [r.committed for r in swarm.records() if isinstance(r, Amend)][1] == 40
        verified = swarm.verify()
        assert verified.returncode == 0, verified.stdout + verified.stderr
        assert "50 of 50 recomputed bit by bit: ok" in verified.stdout
        assert "amended 2 times, each in its place: ok" in verified.stdout


def test_a_run_that_is_not_there_is_not_extended(tmp_path: Path) -> None:
    with Swarm(tmp_path, quad_spec()) as swarm:
        done = swarm.run("host", *swarm.hosting, "--extend", "rounds=+1")
        assert_one_sentence(done, "--extend changes a run that is there", "holds none")
        assert not swarm.folder("host").exists()


def test_the_mixture_of_a_run_is_changed_while_it_runs(tmp_path: Path) -> None:
    web = {"name": "web", "source": "synthetic", "rows": 100_000, "weight": 9}
    notes = {"name": "notes", "source": "synthetic", "rows": 100, "weight": 1}
    spec = quad_spec(
        outer={"rounds": 80},
        model={"step_s": 0.005},
        data={"sources": [web, notes], "source": "shakespeare"},
    )
    with Swarm(tmp_path, spec) as swarm:
        host = swarm.host()
        peers = [swarm.join("a"), swarm.join("b")]
        swarm.committed(3)
        wish = "weights=web:1,notes:4"
        done = swarm.run("host", "host", "--extend", wish)
        said = f"amended: {wish}; the run now ends after 80 rounds\n"
        assert (done.returncode, done.stdout) == (0, said), done.stderr
        again = swarm.run("host", "host", "--extend", wish)
        assert again.returncode == 0 and "nothing to change" in again.stdout
        for nonsense, words in {
            "weights=web:1": "leaves out notes",
            "weights=a:1": "no source",
        }.items():
            assert_one_sentence(swarm.run("host", "host", "--extend", nonsense), words)
        shown = swarm.run("host", "status").stdout
        assert "web · 20 % · " in shown and "notes · 80 % · " in shown
        assert [p.wait() for p in peers] == [0, 0]
        assert host.wait() == 0
        assert "amended from round" in host.text and wish in host.text

        assert_one_sentence(
            swarm.run("host", "host", "--extend", "weights=web:1,notes:1"),
            "open it again with rounds=+N",
        )
        host = swarm.again(
            "--run", spec.name, "--extend", "rounds=+5", "--extend", "weights=web:1,notes:1"
        )
        peers = [swarm.join_again("a"), swarm.join_again("b")]
        assert [p.wait() for p in peers] == [0, 0]
        assert host.wait() == 0
        mixes = [r.weights for r in swarm.records() if isinstance(r, Mix)]
        assert mixes == [(1, 4), (1, 1)]
        assert "web · 50 % · " in swarm.run("host", "status").stdout, "from the journal"
        verified = swarm.verify("--data")
        assert verified.returncode == 0, verified.stdout + verified.stderr
        assert "notes: " in verified.stdout and "duplicated 0, lost 0" in verified.stdout
