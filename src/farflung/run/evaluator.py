"""`Evaluator` of real nodes: a process of its own, with the lowest priority, reads the weights."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
from pathlib import Path

import msgspec
import numpy as np

from farflung.checkpoint.blob_store import BlobStore
from farflung.checkpoint.snapshot import SnapshotManifest, assemble
from farflung.clock import Workers
from farflung.config.run import RunSpec, spec_bytes
from farflung.disk import storage_errors
from farflung.errors import FarflungError, StorageError
from farflung.network.messages import DrawnText
from farflung.outer.fragments import make_fragments, scatter
from farflung.outer.layout import Layout
from farflung.peer.disk_budget import show_size
from farflung.peer.evaluations import Scores, Subject
from farflung.swarm.evaluating import MAX_TEXT
from farflung.tasks import to_the_end
from farflung.trainers.process import last_words

MODULE = "farflung.inner.evaluation"
FOLDER = "evaluation"
LEFT_FREE = 256 << 20
"""Bytes of the disk that an evaluation does not touch."""
LOWEST_PRIORITY = 19


class EvaluationDied(FarflungError):
    """The process ended without figures."""


class _Outcome(msgspec.Struct, frozen=True, kw_only=True):
    nats_per_token: float
    bits_per_byte: float
    tokens: int
    samples: tuple[DrawnText, ...]


class ProcessEvaluator:
    """Works in `folder`/evaluation, which it empties afterwards."""

    def __init__(self, folder: Path, data_dir: Path, workers: Workers) -> None:
        self._folder = folder / FOLDER
        self._data_dir = data_dir
        self._workers = workers
        self._alone = asyncio.Lock()
        """One that was cancelled still clears the folder when the next one comes."""

    def can_measure(self, spec: RunSpec) -> bool:
        """A program of the user's own, a model without torch and row numbers have nothing that it
        could read."""
        built_in = spec.model.preset not in ("custom", "quadratic")
        return built_in and not spec.data.synthetic

    async def evaluate(self, subject: Subject) -> Scores:
        """Raises EvaluationDied, StorageError, CorruptState."""
        async with self._alone:
            try:
                await self._workers.run(lambda: self._prepare(subject))
                return await self._measure()
            finally:
                await to_the_end(self._workers.run(self._clear))

    def _clear(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _prepare(self, subject: Subject) -> None:
        with storage_errors(self._folder):
            self._clear()
            self._folder.mkdir(parents=True, mode=0o700)
            needed, free = 4 * subject.layout.size, shutil.disk_usage(self._folder).free
            if free < needed + LEFT_FREE:
                raise StorageError(
                    f"the weights take {show_size(needed)} of disk while they are measured, and "
                    f"{show_size(LEFT_FREE)} are left free; {show_size(free)} are there"
                )
            (self._folder / "spec.json").write_bytes(spec_bytes(subject.spec))
            anchor = self._folder / "anchor.f32"
            write_anchor(subject.layout, subject.manifest, subject.blobs, anchor)

    async def _measure(self) -> Scores:
        out, log = self._folder / "scores.json", self._folder / "log"
        weights = self._folder / "anchor.f32"
        arguments = ("--spec", self._folder / "spec.json", "--data", self._data_dir)
        results = ("--weights", weights, "--out", out)
        with log.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", MODULE, *map(str, (*arguments, *results))),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                env={"OMP_NUM_THREADS": "1", **os.environ},
                start_new_session=True,  # Ctrl-C is the agent's to handle
            )
        try:
            with contextlib.suppress(OSError):  # it may be over already
                os.setpriority(os.PRIO_PROCESS, process.pid, LOWEST_PRIORITY)
            code = await process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if code != 0:
            said = last_words(log.read_text(errors="replace")).removeprefix("farflung: ")
            raise EvaluationDied(said or f"its process ended with exit code {code}")
        return _scores(out.read_bytes())


def write_anchor(layout: Layout, manifest: SnapshotManifest, blobs: BlobStore, path: Path) -> None:
    """A snapshot's anchor as raw fp32 [N], a fragment at a time in memory.

    Raises CorruptState, StorageError.
    """
    versions = manifest.fragments
    anchor_N = np.memmap(path, np.float32, "w+", shape=(layout.size,))
    for ranges, version in zip(make_fragments(layout, len(versions)), versions, strict=True):
        scatter(assemble(version, blobs.get)[0], anchor_N, ranges)
    anchor_N.flush()


def _scores(data: bytes) -> Scores:
    try:
        found = msgspec.json.decode(data, type=_Outcome)
    except msgspec.DecodeError as error:
        raise EvaluationDied(f"its figures are malformed: {error}") from None
    samples = tuple(
        DrawnText(prompt=s.prompt, text=s.text[: MAX_TEXT - len(s.prompt)]) for s in found.samples
    )
    return Scores(
        nats_per_token=found.nats_per_token,
        bits_per_byte=found.bits_per_byte,
        tokens=found.tokens,
        samples=samples,
    )
