"""The commands on a trained model, in this process."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from click.testing import Result
from safetensors import safe_open
from trained_samples import TEXT, Played, llama_spec, play
from typer.testing import CliRunner

from farflung.cli.main import app
from farflung.errors import FarflungError, UserError
from farflung.trained.sources import resolve


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Played:
    return play(tmp_path_factory.mktemp("run"), llama_spec(), 2)


@pytest.fixture(autouse=True)
def peers_home(run: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARFLUNG_HOME", str(run.peer))
    monkeypatch.setenv("FARFLUNG_THREADS", str(torch.get_num_threads()))


def say(*arguments: object, text: str | None = None) -> Result:
    done: Result = CliRunner().invoke(app, [str(a) for a in arguments], input=text)
    if isinstance(done.exception, FarflungError):
        raise done.exception
    assert done.exception is None, done.exception
    return done


def test_generate_goes_on_with_a_prompt_and_repeats_itself() -> None:
    asked = ("generate", "llama", "--tokens", 20, "--seed", 4)
    first = say(*asked, "--prompt", "The quick")
    assert first.stdout.startswith("The quick") and len(first.stdout) > len("The quick") + 3
    assert say(*asked, "--prompt", "-", text="The quick").stdout == first.stdout
    assert say(*asked, text="The quick").stdout == first.stdout
    assert say(*asked, "--prompt", "The quick", "--no-echo").stdout == first.stdout[9:]
    assert say(*asked[:-1], 5, "--prompt", "The quick").stdout != first.stdout


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--tokens", 0, "--tokens 0 must be at least 1"),
        ("--temperature", -1, "temperature=-1.0"),
        ("--top-p", 0, "top_p=0.0"),
    ],
)
@pytest.mark.parametrize("command", ["generate", "chat"])
def test_a_wrong_setting_is_named_before_anything_is_read(
    command: str, option: str, value: int, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        say(command, "no-such-run", option, value, text="x")


def test_chat_takes_turns_until_an_empty_line() -> None:
    done = say(
        "chat", "llama", "--tokens", 8, "--you", "A", "--me", "B", text="hello\nagain\n\nx\n"
    )
    assert done.stdout.count("B:") == 2
    assert "a base model" in done.stderr and "llama after round" in done.stderr


def test_eval_measures_texts_and_questions(run: Played, tmp_path: Path) -> None:
    (tmp_path / "fox.txt").write_text(TEXT[:300], encoding="utf-8")
    done = say("eval", "llama", "--text", tmp_path / "fox.txt", "--json")
    found = json.loads(done.stdout)
    assert found["model"]["state_root"] == run.root and found["model"]["round"] == run.round
    names = [t["name"] for t in found["texts"]]
    assert names == ["held-out rows", str(tmp_path / "fox.txt")]
    assert {s["family"] for s in found["suite"]} > {"words", "facts", "all"}
    shown = say("eval", "llama", "--no-suite").stdout
    assert "bits/byte" in shown and f"{found['texts'][0]['bits_per_byte']:.4f}" in shown


def test_eval_without_the_data_says_what_is_missing(run: Played, tmp_path: Path) -> None:
    say("export", "llama", "--hf", tmp_path / "hf")
    done = say("eval", tmp_path / "hf", "--no-suite", "--json")
    assert json.loads(done.stdout)["texts"] == [] and "--data FOLDER" in done.stderr
    again = say("eval", tmp_path / "hf", "--no-suite", "--json", "--data", run.data)
    whole = say("eval", "llama", "--no-suite", "--json")
    assert json.loads(again.stdout)["texts"] == json.loads(whole.stdout)["texts"]


def test_lm_eval_that_is_not_installed_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lm_eval", "lm_eval.api.model"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"pip install 'farflung\[eval\]'"):
        say("eval", "llama", "--lm-eval", "arc_easy")


def test_export_writes_both_forms(run: Played, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    done = say(
        *("export", "llama", "--hf", tmp_path / "hf", "--gguf", tmp_path / "m.gguf"),
        *("--dtype", "bf16", "--measure"),
    )
    assert done.stdout.count(run.root[:16]) == 2
    assert (tmp_path / "m.gguf").stat().st_size > 400_000
    with safe_open(tmp_path / "hf" / "model.safetensors", "pt") as file:
        weight = file.get_tensor("model.norm.weight")
    assert weight.dtype == torch.bfloat16
    assert resolve(str(tmp_path / "hf")).round == run.round
    card = (tmp_path / "hf" / "README.md").read_text()
    bits = json.loads(say("eval", "llama", "--no-suite", "--json").stdout)["texts"][0]
    assert f"{bits['bits_per_byte']:.4f} bits per byte" in card


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [((), "say what to write"), (("--hf", "x", "--dtype", "fp16"), "must be fp32 or bf16")],
)
def test_an_export_without_sense_is_refused(arguments: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        say("export", "llama", *arguments)
