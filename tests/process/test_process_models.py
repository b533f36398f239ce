"""Models out of real runs: read beside running nodes, by invite, and through the commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from processes import ENDLESS, Swarm, assert_one_sentence, command, quad_spec
from tokenizers import Tokenizer as Engine
from tokenizers import decoders, models, pre_tokenizers, trainers

from farflung.config.load import from_table
from farflung.config.run import RunSpec
from farflung.errors import FarflungError
from farflung.swarm.records import Commit, Gen, Join
from farflung.trained.reader import folder_of_invite
from farflung.trained.run_state import newest_state

pytestmark = pytest.mark.slow

READS = 40


def test_reading_beside_running_nodes_never_fails_nor_disturbs(tmp_path: Path) -> None:
    """A snapshot every round and a log of two: what is read is often gone a moment later."""
    spec = quad_spec(
        outer={"rounds": 1_000_000, "fragments": 3, "window": 2, "inner_steps": 3},
        swarm={"snapshot_every": 1, "keep_rounds": 2},
    )
    with Swarm(tmp_path, spec) as swarm:
        swarm.host()
        swarm.join("a")
        swarm.join("b")
        swarm.committed(5)
        rounds, refused = set(), []
        for number in range(READS):
            name = ("keeper", "a", "b")[number % 3]
            try:
                found = newest_state([swarm.folder(name)])
            except FarflungError as error:
                refused.append(str(error))
                continue
            roots = {c.round: c.state_root for c in swarm.commits()}
            if found.round >= 0 and max(found.state.rounds) >= 0:
                assert found.state.root == roots[max(found.state.rounds)]
            rounds.add(found.round)
        assert len(rounds) > READS // 4
        assert not refused, refused
        swarm.more(3)
        assert all(r.process.poll() is None for r in swarm.started)


def test_an_invite_is_enough_to_read_and_takes_no_part(tmp_path: Path) -> None:
    with Swarm(tmp_path, quad_spec(**ENDLESS)) as swarm:
        swarm.host()
        swarm.join("a")
        swarm.join("b")
        swarm.committed(3)
        folder = folder_of_invite(swarm.invite, tmp_path / "reader")
        first = newest_state([folder])
        roots = {c.round: c.state_root for c in swarm.commits()}
        assert first.round >= 2
        assert first.state.root == roots[max(first.state.rounds)]
        swarm.more(3)
        again = newest_state([folder_of_invite(swarm.invite, tmp_path / "reader")])
        assert again.round > first.round
        joins = {r.name: r.node for r in swarm.records() if isinstance(r, Join)}
        assert set(joins) == {"keeper", "a", "b", "reader"}  # one key, read twice
        assert joins["reader"] not in {r.node for r in swarm.records() if isinstance(r, Gen)}
        contributors = {
            c.node for r in swarm.records() if isinstance(r, Commit) for c in r.contributors
        }
        assert contributors == {joins["a"], joins["b"]}
        assert folder_of_invite(swarm.invite, swarm.home("a")) == swarm.folder("a")
        invite = swarm.invite
    assert newest_state([folder]).round == again.round
    done = command(tmp_path / "stranger", "generate", invite, "--prompt", "x")
    assert_one_sentence(done, "127.0.0.1")


def journey_spec(**data: str) -> RunSpec:
    table = {
        "name": "mine",
        "model": {"preset": "demo"},
        "data": {"seq_len": 32, **data},
        "inner": {"batch_rows": 4},
        "outer": {"rounds": 2, "inner_steps": 5},
    }
    return from_table(table)


def own_tokenizer(text: str) -> str:
    """A byte-level BPE of 300 ids that nobody ships."""
    engine = Engine(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<pad>", "<fin>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    engine.train_from_iterator([text], trainer)
    return str(engine.to_str())


def test_own_text_becomes_a_model_that_speaks(tmp_path: Path) -> None:
    """data prepare, host, join, export, generate: five commands."""
    text = tmp_path / "text.txt"
    text.write_text("The same procedure as last year? The same procedure as every year.\n" * 400)
    tokenizer, data = tmp_path / "mine.json", tmp_path / "data"
    tokenizer.write_text(own_tokenizer(text.read_text()))
    how = ("--seq-len", "32", "--tokenizer", str(tokenizer), "--eos", "<fin>", "--held-out", "0.1")
    prepared = command(tmp_path, "data", "prepare", str(text), "--out", str(data), *how)
    assert prepared.returncode == 0, prepared.stderr
    spec = journey_spec(source=str(data), tokenizer=str(tokenizer))
    asking = ("--prompt", "The same", "--tokens", "12", "--temperature", "0")
    with Swarm(tmp_path / "run", spec) as swarm:
        host = swarm.host()
        early = command(tmp_path / "stranger", "generate", swarm.invite, *asking, timeout_s=120)
        assert early.returncode == 0, early.stderr
        assert early.stdout.startswith("The same")
        peer = swarm.join("a")
        assert peer.wait(120) == 0
        assert host.wait(60) == 0
        home = swarm.home("a")  # the peer's machine: the host may be gone
    model = tmp_path / "model"
    exported = command(home, "export", "mine", "--hf", str(model), "--measure", timeout_s=120)
    assert exported.returncode == 0, exported.stderr
    assert "after round 1" in exported.stdout
    assert "bits per byte" in (model / "README.md").read_text()
    assert json.loads((model / "tokenizer.json").read_text()) == json.loads(tokenizer.read_text())
    spoken = [command(home, "generate", what, *asking) for what in ("mine", str(model))]
    assert [s.returncode for s in spoken] == [0, 0], spoken[0].stderr
    assert spoken[0].stdout == spoken[1].stdout != early.stdout
    assert spoken[0].stdout.startswith("The same") and len(spoken[0].stdout) > len("The same") + 3
    figures = command(home, "eval", "mine", "--text", str(text), "--json", timeout_s=120)
    assert figures.returncode == 0, figures.stderr
    found = json.loads(figures.stdout)
    assert [t["name"] for t in found["texts"]] == ["held-out rows", str(text)]
    assert all(0 < t["bits_per_byte"] < 9 for t in found["texts"])
    assert found["suite"][-1]["questions"] == sum(s["questions"] for s in found["suite"][:-1])
    assert_one_sentence(command(home, "export", "mine"), "--hf DIR")
    assert_one_sentence(command(home, "eval", "nobody"), "runs there: mine")


def test_the_commands_are_quick_to_ask(tmp_path: Path) -> None:
    """`--help` loads no torch."""
    for name in ("export", "generate", "chat", "eval"):
        patch = "import sys, atexit\natexit.register(lambda: print('torch' in sys.modules))"
        done = command(tmp_path, name, "--help", patch=patch)
        assert done.returncode == 0 and "Examples" in done.stdout
        assert done.stdout.strip().endswith("False")
