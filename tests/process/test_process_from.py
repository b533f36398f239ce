"""`farflung host --from` with real processes: the next run begins where another one ended."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from processes import Swarm, assert_one_sentence, command, quad_spec

from farflung.config.load import from_table
from farflung.config.run import RunSpec, spec_bytes
from farflung.data.corpus import shipped_bpe
from farflung.events import RoundCommitted
from farflung.swarm.records import Genesis

pytestmark = pytest.mark.slow

SEQ_LEN = 32


class Next(Swarm):
    """A second run in the home of a first one's host."""

    def __init__(self, root: Path, spec: RunSpec, found: str) -> None:
        super().__init__(root, spec)
        self._spec_file = root / f"{spec.name}.json"
        self._spec_file.write_bytes(spec_bytes(spec))
        self._found = found

    @property
    def hosting(self) -> tuple[str, ...]:
        return (*super().hosting, "--from", self._found)


def played(swarm: Swarm, *names: str) -> None:
    host = swarm.host()
    peers = [swarm.join(name) for name in names]
    assert [p.wait(120.0) for p in peers] == [0] * len(names)
    assert host.wait() == 0


def losses(swarm: Swarm) -> list[float]:
    return [e.loss for e in swarm.events("host", RoundCommitted)]


def test_a_second_run_begins_at_the_loss_of_the_first(tmp_path: Path) -> None:
    quick: dict[str, Any] = {"inner": {"warmup_steps": 0, "lr": 0.05}, "outer": {"rounds": 12}}
    with Swarm(tmp_path, quad_spec(**quick)) as first:
        played(first, "a", "b")
    spec = quad_spec(**quick, name="second", model={"preset": "demo", "parameters": 4096})
    with Next(tmp_path, spec, "quad") as second:
        played(second, "c", "d")
        begun, ended = losses(first)[0], losses(first)[-1]
        assert losses(second)[0] < ended + 0.05 * (begun - ended)
        genesis = second.records()[0]
        assert isinstance(genesis, Genesis)
        (ancestor,) = genesis.ancestors
        assert (ancestor.name, ancestor.round) == ("quad", 11)
        assert ancestor.state == first.commits()[-1].state_root
        again = second.spawn(
            "host", "host", "--spec-json", str(second._spec_file), "--from", "quad"
        )
        assert again.wait() == 2 and "holds a run already" in again.text
        done = command(second.home("host"), "status", "--run", "second")
        assert "from quad (" in done.stdout and "after round 11, state " in done.stdout
        verified = command(tmp_path, "verify", str(second.home("host") / "second"))
        assert verified.returncode == 0, verified.stdout + verified.stderr
        assert "12 of 12 recomputed bit by bit: ok" in verified.stdout
        assert "weights      from quad (" in verified.stdout


def checkpoint(folder: Path) -> Path:
    """A tiny random Qwen3 of transformers with the shipped tokenizer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        import transformers

        torch.manual_seed(4)
        config = transformers.AutoConfig.for_model(
            "qwen3",
            vocab_size=1024,
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=64,
            tie_word_embeddings=True,
        )
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(shipped_bpe())
    return folder


def test_a_checkpoint_is_trained_on_and_the_run_can_be_taken_out_again(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "small-qwen")
    spec = from_table(
        {
            "name": "tuned",
            "data": {"seq_len": SEQ_LEN},
            "inner": {"batch_rows": 4, "warmup_steps": 2},
            "outer": {"inner_steps": 6, "rounds": 4},
            "swarm": {"start_peers": 2},
        }
    )
    with Next(tmp_path, spec, str(source)) as swarm:
        refused = swarm.run("host", *swarm.hosting[:-2], "--from", str(tmp_path))
        assert_one_sentence(refused, "holds neither a run (journal.bin) nor a checkpoint")
        played(swarm, "a", "b")
        assert len(swarm.commits()) == 4
        assert losses(swarm)[-1] < losses(swarm)[0]
        verified = command(tmp_path, "verify", str(swarm.home("host") / "tuned"))
        assert verified.returncode == 0, verified.stdout + verified.stderr
        assert "weights      from small-qwen, files " in verified.stdout
        out = tmp_path / "out"
        done = swarm.run("host", "export", "tuned", "--hf", str(out))
        assert done.returncode == 0, done.stderr
        before, after = (json.loads((f / "config.json").read_text()) for f in (source, out))
        for name in ("model_type", "head_dim", "num_key_value_heads", "vocab_size"):
            assert before[name] == after[name], name
    third = renamed(spec, "third")
    with Next(tmp_path, third, str(out)) as swarm:
        host = swarm.host()
        genesis = swarm.records()[0]
        assert isinstance(genesis, Genesis)
        assert genesis.ancestors[0].run and genesis.ancestors[0].round == 3
        host.kill()


def renamed(spec: RunSpec, name: str) -> RunSpec:
    return from_table({**json.loads(spec_bytes(spec)), "name": name})
