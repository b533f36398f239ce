"""Trainers of other libraries in real swarms, and programs that fail: minutes of work."""

from __future__ import annotations

import signal
import sys
from collections import Counter
from pathlib import Path

import pytest
from processes import Swarm

from farflung.config.load import from_table
from farflung.config.run import RunSpec
from farflung.events import RoundCommitted
from farflung.integrations.loader import keyed_order
from farflung.outer.layout import Layout
from farflung.swarm import ranges
from farflung.swarm.records import Commit, Genesis, Join

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
WITNESS = ROOT / "tests" / "unit" / "integrations" / "witness.py"
sys.path.insert(0, str(WITNESS.parent))
from witness import steps_of  # noqa: E402

N_SAMPLES = 1000
TOY = ROOT / "tests" / "unit" / "trainers" / "toy_trainer.py"


def custom(*program: str, rounds: int, steps: int = 4) -> RunSpec:
    return from_table(
        {
            "name": "own",
            "model": {"preset": "custom", "program": [sys.executable, *program]},
            "data": {"source": "synthetic", "seq_len": 10},
            "inner": {"batch_rows": 4, "warmup_steps": 2, "schedule": "constant"},
            "outer": {"rounds": rounds, "inner_steps": steps},
            "swarm": {"start_peers": 2, "grace_s": 1.0},
        }
    )


@pytest.mark.parametrize(
    ("program", "tokens"),
    [
        (ROOT / "examples" / "transformers_loop.py", 16),
        (ROOT / "examples" / "lightning_loop.py", 17),
        (WITNESS.parent / "endless_loop.py", 17),
    ],
    ids=lambda value: getattr(value, "stem", ""),
)
def test_what_is_credited_is_what_was_trained_once_with_a_leave_in_the_middle(
    program: Path, tokens: int, tmp_path: Path
) -> None:
    """Accumulation over two micro-batches and a worker process that prefetches, in both peers; or
    a loop without epochs, whose loader holds a batch over the end of each lease."""
    spec = custom(str(WITNESS), str(program), rounds=12)
    with Swarm(tmp_path, spec) as swarm:
        host = swarm.host()
        leaver, stayer = swarm.join("a"), swarm.join("b")
        swarm.committed(4, 200)
        leaver.signal(signal.SIGINT)
        assert leaver.wait(60) == 0 and "a: left" in leaver.text
        assert host.wait(200) == 0
        assert stayer.wait(60) == 0 and "run own is finished" in stayer.text
        records, order = swarm.records(), keyed_order(spec, N_SAMPLES, shuffle=True)
        names = {r.node: r.name for r in records if isinstance(r, Join)}
        shares = [c for r in records if isinstance(r, Commit) for c in r.contributors]
        everywhere = Counter[int]()
        for peer in ("a", "b"):
            credited = [
                order(position)
                for c in shares
                if names[c.node] == peer
                for start, stop in c.credited
                for position in range(start, stop)
            ]
            log = (swarm.folder(peer) / "trainer.log").read_text()
            steps = steps_of(log)
            seen = Counter(row for step in steps for row in step)
            assert {len(step) for step in steps} == {4}
            assert [row for row in credited if seen[row] != 1] == [] and len(credited) >= 16
            # What it trained beyond that was under way when it left, or when the run ended: a
            # lease, and what its loader still held.
            assert seen.total() - len(credited) <= 4 * 4 + 2 * 4
            everywhere.update(credited)
        assert set(everywhere.values()) == {1}
        assert [c.reported for c in shares] == [tokens * ranges.count(c.credited) for c in shares]
        committed = swarm.events("host", RoundCommitted)
        assert committed[-1].total_tokens == tokens * everywhere.total()
        assert committed[-1].loss < committed[0].loss
        assert swarm.verify().returncode == 0


def test_a_loop_that_takes_two_batches_is_told_and_never_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = custom(str(TOY), rounds=4)
    with Swarm(tmp_path, spec) as swarm:
        swarm.host()
        monkeypatch.setenv("TOY_ACCUMULATES", "1")  # a trainer inherits it
        peers = [swarm.join("a"), swarm.join("b")]
        for peer in peers:
            assert peer.wait(120) == 2
            last = peer.text.strip().splitlines()[-1]
            assert last.startswith("farflung: the trainer ended (exit code 1): a second batch was")
            assert f"(log: {swarm.folder(peer.name) / 'trainer.log'})" in last
            assert "finished" not in peer.text
        assert swarm.commits() == []


def test_a_program_that_fails_in_the_last_round_has_not_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = custom(str(TOY), rounds=4)
    with Swarm(tmp_path, spec) as swarm:
        host = swarm.host()
        monkeypatch.setenv("TOY_FAILS_AFTER", "2")
        failing = swarm.join("a")
        monkeypatch.delenv("TOY_FAILS_AFTER")
        good = swarm.join("b")
        assert host.wait(120) == 0 and good.wait(60) == 0 and "run own is finished" in good.text
        assert failing.wait(60) == 2
        last = failing.text.strip().splitlines()[-1]
        assert (
            "RuntimeError: the toy is broken (log: " in last
            and "run own is finished" not in failing.text
        )


def test_frozen_parameters_are_compared_and_never_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_FROZEN", "1")
    with Swarm(tmp_path, custom(str(TOY), rounds=4)) as swarm:
        host = swarm.host()
        monkeypatch.setenv("TOY_SEED", "1")
        other = swarm.join("other")
        assert other.wait(120) == 2
        last = other.text.strip().splitlines()[-1]
        assert "the frozen parameter '1.weight' has other values (hash " in last
        monkeypatch.delenv("TOY_SEED")
        peers = [swarm.join("a"), swarm.join("b")]
        assert host.wait(120) == 0 and [peer.wait(60) for peer in peers] == [0, 0]
        genesis = swarm.records()[0]
        assert isinstance(genesis, Genesis)
        layout = Layout.from_json(genesis.layout)
        assert [entry.name for entry in layout.entries] == ["0.weight", "0.bias"]
        assert [name for name, _, _ in layout.frozen] == ["1.weight"] and layout.size == 16
        assert swarm.verify().returncode == 0
