"""Claims about preparing with several processes, and again after a kill: the bytes are the same."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import farflung
from farflung.data import batches as batches_module
from farflung.data import prepare as prepare_module
from farflung.data.manifest import DataManifest
from farflung.data.prepare import PrepareStep, prepare_inputs
from farflung.data.reading import FileList, HfSplit, ReadEnd, Reading
from farflung.data.spool import SPOOL_FOLDER
from farflung.data.tokenizer import Encoded, load_tokenizer
from farflung.errors import ConfigError, StorageError


def corpus(folder: Path, documents: int = 3000) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "texts.jsonl"
    with path.open("w") as file:
        for i in range(documents):
            file.write(json.dumps({"text": f"Document {i} of naïve text.\n" * (1 + i % 40)}) + "\n")
    return path


def reading(*paths: Path, **settings: Any) -> Reading:
    return Reading(inputs=[FileList([str(p) for p in paths])], **settings)


def run(
    source: Reading, out: Path, jobs: int = 1, seq_len: int = 64, **settings: Any
) -> tuple[DataManifest, ReadEnd]:
    settings = {"tokenizer": load_tokenizer("bpe-1024"), "shard_rows": 3000, **settings}
    settings = {"say": lambda _: None, "progress": lambda _: None, **settings}
    return prepare_inputs(source, seq_len=seq_len, out=out, jobs=jobs, **settings)


def content(folder: Path) -> dict[str, str]:
    assert not (folder / SPOOL_FOLDER).exists()
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


class CountingTokenizer:
    """A real one that counts the texts that it was given."""

    def __init__(self) -> None:
        self._real = load_tokenizer("bpe-1024")
        self.vocab_size = self._real.vocab_size
        self.eos = self._real.eos
        self.texts = 0

    def encode(self, text: str) -> list[int]:
        return self._real.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self._real.decode(ids)

    def encode_counted(self, texts: Sequence[str]) -> list[Encoded]:
        self.texts += len(texts)
        return self._real.encode_counted(texts)

    def json(self) -> bytes:
        return self._real.json()


def test_the_bytes_do_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    source = reading(corpus(tmp_path / "in"), corpus(tmp_path / "more", 500))
    steps: list[PrepareStep] = []
    manifest, _ = run(source, tmp_path / "one", progress=steps.append)
    assert len(manifest.train) > 1
    assert steps == sorted(steps)
    assert steps[-1].read_bytes == source.total_bytes
    for jobs in (2, 3):
        run(source, tmp_path / str(jobs), jobs=jobs)
        assert content(tmp_path / str(jobs)) == content(tmp_path / "one")


def test_bad_records_are_told_from_another_process(tmp_path: Path) -> None:
    path = corpus(tmp_path / "in", 50)
    with path.open("a") as file:
        file.write('{"no": 1}\n')
    with pytest.raises(ConfigError, match=r"texts\.jsonl line 51"):
        run(reading(path), tmp_path / "out", jobs=2)
    said: list[str] = []
    _, end = run(reading(path, skip_bad=True), tmp_path / "out", jobs=2, say=said.append)
    assert end == ReadEnd({str(path): 1})
    assert len(said) == 1 and "line 51" in said[0]


class _Stopped(Exception):
    pass


def _stop_at(text_bytes: int) -> Any:
    def progress(step: PrepareStep) -> None:
        if step.text_bytes >= text_bytes:
            raise _Stopped

    return progress


def test_after_a_stop_nothing_is_encoded_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches_module, "BATCH_CHARS", 100_000)
    source = reading(corpus(tmp_path / "in"))
    whole = CountingTokenizer()
    run(source, tmp_path / "whole", tokenizer=whole)
    out = tmp_path / "out"
    first, second = CountingTokenizer(), CountingTokenizer()
    with pytest.raises(_Stopped):
        run(source, out, tokenizer=first, progress=_stop_at(1_000_000))
    assert 0 < first.texts < whole.texts
    kept = sorted((out / SPOOL_FOLDER).glob("*.tok"))
    kept[2].write_bytes(kept[2].read_bytes()[:-1])  # torn: written, never synced
    (out / ".train-00000.bin.tmp").write_bytes(b"half a shard")
    run(source, out, tokenizer=second)
    assert content(out) == content(tmp_path / "whole")
    again = first.texts + second.texts - whole.texts
    assert 0 < again < whole.texts / len(kept)


def test_other_settings_after_a_stop_give_what_they_give_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches_module, "BATCH_CHARS", 100_000)
    source, out = reading(corpus(tmp_path / "in")), tmp_path / "out"
    with pytest.raises(_Stopped):
        run(source, out, shard_rows=500, progress=_stop_at(1_500_000))
    assert len(list(out.glob("train-*.bin"))) > 3
    changed: dict[str, Any] = {"tokenizer": load_tokenizer("bytes"), "seq_len": 128}
    run(source, out, **changed)
    run(source, tmp_path / "alone", **changed)
    assert content(out) == content(tmp_path / "alone")


def test_two_cannot_write_to_one_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / SPOOL_FOLDER).mkdir(parents=True)
    with (out / SPOOL_FOLDER / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another process prepares data"):
            run(reading(corpus(tmp_path / "in", 50)), out)
    run(reading(corpus(tmp_path / "in", 50)), out)


def test_a_process_that_is_killed_is_told_and_costs_nothing(tmp_path: Path) -> None:
    source, out = reading(corpus(tmp_path / "in", 15_000)), tmp_path / "out"
    run(source, tmp_path / "whole")

    def kill_one(_: PrepareStep) -> None:
        here = [p for p in Path("/proc").iterdir() if p.name.isdigit()]
        for process in here:
            words = _command_line(process)
            if b"farflung.data.worker" in words and _parent(process) == os.getpid():
                os.kill(int(process.name), signal.SIGKILL)

    with pytest.raises(StorageError, match=r"code -9.*it goes on from here"):
        run(source, out, jobs=2, progress=kill_one)
    run(source, out, jobs=2)
    assert content(out) == content(tmp_path / "whole")


def _command_line(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def test_rows_are_written_while_text_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory holds one shard, not the corpus."""
    monkeypatch.setattr(batches_module, "BATCH_CHARS", 50_000)
    monkeypatch.setattr(prepare_module, "SHARD_BYTES", 200_000)
    seen: list[int] = []

    def look(_: PrepareStep) -> None:
        seen.append(len(list((tmp_path / "out").glob("train-*.bin"))))

    source = reading(corpus(tmp_path / "in"))
    manifest, _ = run(source, tmp_path / "out", shard_rows=None, progress=look)
    assert len(manifest.train) > 2
    assert seen == sorted(seen)
    assert seen[len(seen) // 2] > 0


def test_a_local_dataset_gives_the_rows_of_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = corpus(tmp_path / "in", 200)
    run(reading(path), tmp_path / "files")
    given = Reading(inputs=[HfSplit(str(path.parent), None, "train")])
    assert given.total_bytes is None
    manifest, _ = run(given, tmp_path / "hf")
    assert manifest.provenance == f"hf:{path.parent}"
    mine, theirs = content(tmp_path / "hf"), content(tmp_path / "files")
    del mine["manifest.json"], theirs["manifest.json"]  # its provenance differs
    assert mine == theirs
    for wrong, rule in (
        ({"split": "nope"}, "cannot load hf:"),
        ({"name": str(tmp_path / "nothing")}, "cannot load hf:"),
    ):
        source = HfSplit(**{"name": str(path.parent), "config": None, "split": "train", **wrong})
        with pytest.raises(ConfigError, match=rule):
            run(Reading(inputs=[source]), tmp_path / "wrong")
    with pytest.raises(ConfigError, match=r"no column 'body'; name one of 'text'"):
        run(Reading(inputs=given.inputs, text_field="body"), tmp_path / "wrong")


def test_a_saved_dataset_is_read_as_well(tmp_path: Path) -> None:
    import datasets

    texts = [f"Document {i}.\n" * 9 for i in range(99)]
    datasets.Dataset.from_dict({"text": [*texts, None]}).save_to_disk(str(tmp_path / "saved"))
    given = Reading(inputs=[HfSplit(str(tmp_path / "saved"), None, "train")], skip_bad=True)
    manifest, end = run(given, tmp_path / "out")
    assert manifest.train_rows > 0
    assert end.bad == {f"hf:{tmp_path / 'saved'}": 1}


def _command(path: Path, out: Path, jobs: int) -> list[str]:
    words = ["data", "prepare", str(path), "--out", str(out), "--jobs", str(jobs)]
    return [sys.executable, "-m", "farflung", *words, "--seq-len", "64"]


@pytest.mark.slow
def test_a_killed_command_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    path = corpus(tmp_path / "in", 60_000)
    assert path.stat().st_size > 30 << 20  # else one process does it all
    environment = {**os.environ, "PYTHONPATH": str(Path(farflung.__file__).parents[1])}
    subprocess.run(
        _command(path, tmp_path / "whole", 1), check=True, env=environment, capture_output=True
    )
    out = tmp_path / "out"
    for round_ in (1, 2, 3):
        process = subprocess.Popen(
            _command(path, out, 2),
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while len(list(out.glob(f"{SPOOL_FOLDER}/*.tok"))) < 4 * round_:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL if round_ < 3 else signal.SIGINT)
        assert process.wait(30) == (-9 if round_ < 3 else 130)
        kept = {p.name: p.stat().st_mtime_ns for p in out.glob(f"{SPOOL_FOLDER}/*.tok")}
    done = subprocess.run(
        _command(path, out, 2), env=environment, capture_output=True, text=True, check=True
    )
    assert "training rows" in done.stdout
    assert len(kept) >= 12
    assert content(out) == content(tmp_path / "whole")
