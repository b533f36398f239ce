"""The process that measures a model beside a trainer: real weights and rows, nothing left over."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import numpy as np
import pytest

from farflung.checkpoint.blob_store import BlobStore
from farflung.checkpoint.snapshot import decode_manifest, newest, write_snapshot
from farflung.clock import ThreadWorkers
from farflung.config.load import from_table
from farflung.config.run import RunSpec
from farflung.data.prepare import prepare
from farflung.data.split import Document
from farflung.data.tokenizer import ByteTokenizer
from farflung.disk import RealDisk
from farflung.model.hf_names import layout_entries
from farflung.model.presets import config_of_spec
from farflung.outer.fragments import gather, make_fragments, size
from farflung.outer.layout import Layout
from farflung.peer.evaluations import Scores, Subject
from farflung.run.evaluator import FOLDER, EvaluationDied, ProcessEvaluator

RUN = "0123456789abcdef"
SHAPE = {"vocab": 257, "dim": 16, "layers": 1, "heads": 2, "kv_heads": 1, "ff": 32, "max_len": 32}
SEQ_LEN = 32


def mixture() -> RunSpec:
    return from_table(
        {
            "name": "measured",
            "model": {"preset": "shape", "shape": SHAPE},
            "data": {
                "tokenizer": "bytes",
                "seq_len": SEQ_LEN,
                "sources": [
                    {"name": "near", "source": "here"},
                    {"name": "far", "source": "https://data.example/far"},
                ],
            },
            "outer": {"fragments": 2},
            "evaluation": {"rows": 0, "prompts": ["", "a fox"], "sample_tokens": 8},
        }
    )


def subject_in(folder: Path, spec: RunSpec) -> Subject:
    """A snapshot of random weights."""
    config = config_of_spec(spec.model, vocab=257, seq_len=SEQ_LEN)
    layout = Layout.from_entries(layout_entries(config))
    anchor = np.random.default_rng(1).normal(0, 0.02, layout.size).astype(np.float32)
    parts = [gather(anchor, r, np.empty(size(r), np.float32)) for r in make_fragments(layout, 2)]
    disk = RealDisk(folder)
    blobs = BlobStore(disk)
    write_snapshot(disk, blobs, RUN, 3, [(i, p, np.zeros_like(p)) for i, p in enumerate(parts)])
    pointer = newest(disk)
    assert pointer is not None
    manifest = decode_manifest(blobs.get(bytes.fromhex(pointer.manifest)) or b"", RUN)
    return Subject(spec=spec, layout=layout, manifest=manifest, blobs=blobs)


def prepared(data: Path) -> int:
    """Both sources, of which the far one has its training rows elsewhere; rows held out."""
    rows = 0
    for name, text in (("near", "the fox jumps over the dog "), ("far", "to be or not to be ")):
        made = prepare(
            [Document("text", text * 100)], ByteTokenizer(), SEQ_LEN, data / name,
            held_out_fraction=0.1, provenance="a fox",
        )  # fmt: skip
        rows += sum(shard.rows for shard in made.held_out)
    for path in (data / "far").glob("train-*.bin"):
        path.unlink()
    return rows


def children(folder: Path) -> list[str]:
    """Processes whose command line names the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(folder).encode() in path.read_bytes():
                found.append(path.parent.name)
    return found


async def begun(work: Path) -> None:
    for _ in range(6000):
        if children(work):
            return
        await asyncio.sleep(0.01)
    raise TimeoutError


def test_a_mixture_is_measured_and_a_cancelled_evaluation_leaves_nothing(tmp_path: Path) -> None:
    held_out = prepared(tmp_path / "data")
    subject = subject_in(tmp_path / "node", mixture())
    work = tmp_path / "node" / FOLDER

    async def main() -> Scores:
        workers = ThreadWorkers(1)
        evaluator = ProcessEvaluator(tmp_path / "node", tmp_path / "data", workers)
        assert evaluator.can_measure(subject.spec)
        first = asyncio.create_task(evaluator.evaluate(subject))
        await begun(work)
        first.cancel()
        second = asyncio.create_task(evaluator.evaluate(subject))  # before the first has cleared
        with pytest.raises(asyncio.CancelledError):
            await first
        scores = await second
        assert not work.exists() and not children(work)
        third = asyncio.create_task(evaluator.evaluate(subject))
        await begun(work)
        third.cancel()
        with pytest.raises(asyncio.CancelledError):
            await third
        assert not work.exists() and not children(work)
        workers.close()
        return scores

    scores = asyncio.run(main())
    assert scores.tokens == held_out * SEQ_LEN
    assert abs(scores.nats_per_token - np.log(257)) < 0.1  # random weights know nothing
    assert scores.bits_per_byte == pytest.approx(scores.nats_per_token / np.log(2), rel=0.1)
    assert [s.prompt for s in scores.samples] == ["", "a fox"]


def test_data_that_is_not_here_is_a_reason(tmp_path: Path) -> None:
    subject = subject_in(tmp_path / "node", mixture())
    data = tmp_path / "data"

    async def main() -> None:
        workers = ThreadWorkers(1)
        evaluator = ProcessEvaluator(tmp_path / "node", data, workers)
        with pytest.raises(EvaluationDied, match=rf"^{data / 'near'} has no manifest.json; "):
            await evaluator.evaluate(subject)
        prepared(data)
        for path in data.glob("*/heldout-*.bin"):  # still being fetched
            path.unlink()
        with pytest.raises(EvaluationDied, match=r"heldout-00000.bin is not on this machine"):
            await evaluator.evaluate(subject)
        workers.close()

    asyncio.run(main())
    assert not (tmp_path / "node" / FOLDER).exists()


def test_what_has_no_text_or_no_known_model_is_not_measured(tmp_path: Path) -> None:
    evaluator = ProcessEvaluator(tmp_path, tmp_path, ThreadWorkers(1))
    sources = [{"name": n, "source": "synthetic"} for n in ("a", "b")]
    for table in (
        {"data": {"source": "synthetic"}},
        {"data": {"sources": sources}},
        {"model": {"preset": "quadratic"}},
        {"model": {"preset": "custom", "program": ["python", "mine.py"]}},
    ):
        assert not evaluator.can_measure(from_table({"name": "other", **table}))
