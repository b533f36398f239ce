"""Claims about `farflung data train-tokenizer`, `inspect`, `verify` and their sentences."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import farflung
from farflung.cli.data import app
from farflung.cli.data_progress import ReadProgress
from farflung.data.corpus import documents
from farflung.data.raw_text import refuse_raw_text
from farflung.data.shards import open_rows
from farflung.data.split import Document
from farflung.data.split import split as split_text
from farflung.data.tokenizer import load_tokenizer
from farflung.data.train_tokenizer import sampled
from farflung.errors import ConfigError


def call(*words: Any, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(w) for w in words])
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def refused(*words: Any) -> str:
    result = CliRunner().invoke(app, [str(w) for w in words])
    assert isinstance(result.exception, ConfigError)
    return str(result.exception)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for i, document in enumerate(documents()[:4]):
        (folder / f"{i}.txt").write_text(document.text[:60_000])
    return folder


def test_a_trained_tokenizer_prepares_text(texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "sub" / "tokenizer.json"
    said = call("train-tokenizer", texts, "--vocab", 600, "--eos", "<end>", "--out", out)
    assert "600 tokens, '<end>' ends a document" in said
    tokenizer = load_tokenizer(str(out), "<end>")
    assert tokenizer.vocab_size == 600
    assert tokenizer.eos == 0
    text = "naïve 🦉 <end>\n\n\tx"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    data = tmp_path / "data"
    call("prepare", texts, "--out", data, "--tokenizer", out)  # its only special token
    assert open_rows(data).manifest.eos == 0
    assert "<end>" not in call("inspect", data)


def test_the_same_text_gives_the_same_tokenizer(texts: Path, tmp_path: Path) -> None:
    """In other processes, under other hash seeds."""
    here = str(Path(farflung.__file__).parents[1])
    for seed in ("1", "2"):
        subprocess.run(
            [
                *(sys.executable, "-m", "farflung", "data", "train-tokenizer", str(texts)),
                *("--vocab", "500", "--out", str(tmp_path / f"{seed}.json")),
            ],
            env={**os.environ, "PYTHONPATH": here, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        )
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()


def test_held_out_text_does_not_reach_the_tokenizer(tmp_path: Path) -> None:
    """A letter that stands in held-out text only: no merge knows it."""
    text = "".join(f"line {i} of the text\n" for i in range(2000))
    held = next(p.text for p in split_text([Document("d", text)], 0.1) if p.held_out)
    marked = text.replace(held, held.replace("line", "qqqq"))
    assert len(marked) == len(text)
    (tmp_path / "a.txt").write_text(marked)
    words = ["train-tokenizer", tmp_path / "a.txt", "--vocab", 270, "--held-out"]
    call(*words, "0.1", "--out", tmp_path / "a.json")
    call(*words, "0", "--out", tmp_path / "b.json")
    merges = {n: (tmp_path / n).read_text().count("qq") for n in ("a.json", "b.json")}
    assert merges["a.json"] == 0
    assert merges["b.json"] > 0


def test_mistakes_of_a_training_are_one_sentence(texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "t.json"
    words = ["train-tokenizer", texts, "--out", out]
    assert "--vocab 100 must be at least 257" in refused(*words, "--vocab", 100)
    said = refused(*words, "--vocab", 500_000)
    assert "the text is enough for" in said and "not for 500,000" in said
    assert "at least two characters" in refused(*words, "--eos", "x")
    assert not out.exists()
    out.write_text("mine")
    assert "exists; remove it" in refused(*words, "--vocab", 300)
    assert out.read_text() == "mine"


@given(
    sizes=st.lists(st.integers(1, 9), max_size=60),
    limit=st.integers(1, 100),
)
def test_a_sample_is_spread_evenly_and_bounded(sizes: list[int], limit: int) -> None:
    texts = [f"{i:03d}" + "x" * size for i, size in enumerate(sizes)]
    taken = sampled(iter(texts), limit)
    numbers = [int(t[:3]) for t in taken]
    assert sum(map(len, taken)) <= max(limit, 12)
    steps = {b - a for a, b in pairwise(numbers)}
    assert len(steps) <= 1
    assert not texts or numbers[0] == 0
    if sum(map(len, texts)) <= limit:
        assert taken == texts


def test_inspect_shows_figures_and_first_documents(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    texts = [f"Document {i} is naïve.\n" * 3 for i in range(60)]
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    for tokenizer in ("bytes", "bpe-1024"):
        data = tmp_path / tokenizer
        call("prepare", path, "--out", data, "--tokenizer", tokenizer, "--seq-len", 32)
        manifest = open_rows(data).manifest
        said = call("inspect", data, "--documents", 2, "--chars", 29)
        for part in (
            "prepared from a.jsonl",
            f"{manifest.train_rows:,} rows",
            f"{manifest.train_rows * 32:,} tokens",
            "bytes per token",
            f"vocabulary {manifest.vocab:,}",
            f"end token  {manifest.eos}",
        ):
            assert part in said
        assert "--- document 1\nDocument 0 is naïve.\nDocument ..." in said
        assert "--- document 2\nDocument 1 is" in said
        assert "document 3" not in said
    assert "farflung data prepare" in refused("inspect", tmp_path)


def test_verify_names_what_is_not_whole(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("A line of text.\n" * 2000)
    data = tmp_path / "data"
    call("prepare", tmp_path / "a.txt", "--out", data, "--seq-len", 16)
    files = open_rows(data).manifest.files
    assert f"all {len(files)} files are whole" in call("verify", data)
    damaged, cut, gone = (data / f.file for f in files[1:4])
    damaged.write_bytes(bytes([damaged.read_bytes()[0] ^ 1]) + damaged.read_bytes()[1:])
    cut.write_bytes(cut.read_bytes()[:-1])
    gone.unlink()
    said = call("verify", data, code=1)
    assert f"{damaged}: damaged: hash" in said
    assert f"{cut}: damaged: {cut.stat().st_size:,} bytes" in said
    assert f"{gone}: missing" in said
    assert f"3 of {len(files)} files are not whole" in said
    assert str(data / files[0].file) not in said


def test_the_name_of_a_file_decides_in_any_case(tmp_path: Path) -> None:
    content = "".join(
        json.dumps({"text": f"document {i} says hello " * 4}) + "\n" for i in range(40)
    )
    hashes = set()
    for name in ("docs.jsonl", "DOCS.JSONL", "docs.ndjson", "Docs.Jsonl.GZ"):
        raw = content.encode()
        (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith("GZ") else raw)
        out = tmp_path / f"out-{name}"
        call("prepare", tmp_path / name, "--out", out, "--tokenizer", "bytes", "--seq-len", 32)
        hashes.add((out / "train-00000.bin").read_bytes())
    assert len(hashes) == 1


def test_raw_text_as_a_source_is_answered_with_the_command(texts: Path, tmp_path: Path) -> None:
    for source in (str(texts), str(texts / "0.txt")):
        with pytest.raises(ConfigError) as error:
            refuse_raw_text(source, "bytes", 256)
        prepared = f"{Path(source).stem}-data"
        assert (
            f"farflung data prepare {source} --out {prepared} --tokenizer bytes --seq-len 256"
            in str(error.value)
        )
        assert f'source = "{prepared}"' in str(error.value)
    refuse_raw_text(str(tmp_path / "nothing"), "bytes", 256)  # another sentence's matter
    call("prepare", texts, "--out", tmp_path / "data")
    refuse_raw_text(str(tmp_path / "data"), "bytes", 256)


def test_progress_does_not_flood(capsys: pytest.CaptureFixture[str]) -> None:
    now_s = 0.0
    with ReadProgress("preparing", 1_000_000_000, lambda: now_s) as bar:
        for step in range(1000):
            now_s = step * 0.5
            bar.update(step * 1_000_000, step * 2_000_000)
        bar.say("a note")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 9
    assert lines[0] == "preparing: 240 MB of text, 4.0 MB/s, 12%, 440 s left"
    assert lines[-1] == "a note"
