"""GENESIS: the initial weights are made once, hashed, and never made again.

The weights come from the trainer's program itself, run once in genesis mode in a process of its
own (`farflung.attach` writes layout and weights, then ends), so that a foreign model needs no
second recipe.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from farflung.checkpoint.blob_store import BlobStore
from farflung.checkpoint.snapshot import write_snapshot
from farflung.config.run import (
    ARITHMETIC_VERSION,
    PROTOCOL_VERSION,
    RunSpec,
    spec_bytes,
)
from farflung.disk import Disk
from farflung.errors import UserError
from farflung.outer.layout import Layout
from farflung.peer.outer_state import OuterState
from farflung.swarm.records import JOURNAL_VERSION, Genesis
from farflung.trainers.numpy_trainer import quadratic_genesis

BUILT_IN = (sys.executable, "-m", "farflung.inner.trainer")
GENESIS_S = 1800.0


@dataclass(frozen=True, kw_only=True)
class Material:
    """Blobs that joiners need besides the weights: (hash, length); empty for none."""

    rows: int
    data: bytes = b""
    data_bytes: int = 0
    tokenizer: bytes = b""
    tokenizer_bytes: int = 0


@dataclass(frozen=True)
class Weights:
    layout: Layout
    anchor: npt.NDArray[np.float32]


def trainer_program(spec: RunSpec) -> tuple[str, ...] | None:
    """The command line of the trainer; None: the in-process NumPy trainer."""
    if spec.model.preset == "quadratic":
        return None
    return spec.model.program or BUILT_IN


def make_weights(spec: RunSpec, data_folder: Path | None) -> Weights:
    """Initial weights. UserError with the program's last line when it fails."""
    program = trainer_program(spec)
    if program is None:
        entries, anchor = quadratic_genesis(spec)
        return Weights(Layout.from_entries(entries), anchor)
    with tempfile.TemporaryDirectory(prefix="farflung-genesis-") as folder:
        where = Path(folder)
        (where / "spec.json").write_bytes(spec_bytes(spec))
        _run_program(program, where, data_folder)
        layout = Layout.from_json((where / "layout.json").read_bytes())
        anchor = np.fromfile(where / "anchor.f32", np.float32)
    if anchor.size != layout.size:
        raise UserError(f"the model wrote {anchor.size} weights for {layout.size} in its layout")
    return Weights(layout, anchor)


def _run_program(program: Sequence[str], where: Path, data_folder: Path | None) -> None:
    environment = {
        **os.environ,
        "FARFLUNG_GENESIS_OUT": str(where),
        "FARFLUNG_SPEC": str(where / "spec.json"),
        "FARFLUNG_DATA": str(data_folder or ""),
    }
    try:
        done = subprocess.run(
            list(program), env=environment, capture_output=True, text=True, timeout=GENESIS_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"the trainer program {program[0]!r} did not run: {error}") from None
    if done.returncode != 0 or not (where / "anchor.f32").exists():
        last = (done.stderr.strip().splitlines() or ["it wrote no weights"])[-1]
        raise UserError(f"the trainer program could not make the initial weights: {last}")


def genesis_record(
    *, run: str, run_key: bytes, spec: RunSpec, weights: Weights, material: Material, disk: Disk
) -> Genesis:
    """Store the genesis snapshot on `disk` (the keeper's) and describe it."""
    state = OuterState(weights.layout, spec.outer)
    state.anchor[:] = weights.anchor
    for fragment in range(len(state.fragments)):
        anchor = state.anchor_of(fragment)
        state.put(fragment, -1, anchor, np.zeros_like(anchor))
    pointer = write_snapshot(
        disk,
        BlobStore(disk),
        run,
        0,
        [(-1, state.anchor_of(f), state.momentum_of(f)) for f in range(len(state.fragments))],
    )
    return Genesis(
        version=JOURNAL_VERSION,
        run=run,
        run_key=run_key,
        protocol=PROTOCOL_VERSION,
        arithmetic=ARITHMETIC_VERSION,
        spec=spec_bytes(spec),
        layout=weights.layout.to_json(),
        layout_hash=weights.layout.hash,
        fragment_hashes=tuple(state.hashes),
        snapshot=bytes.fromhex(pointer.manifest),
        snapshot_bytes=pointer.n_bytes,
        data=material.data,
        data_bytes=material.data_bytes,
        rows=material.rows,
        tokenizer=material.tokenizer,
        tokenizer_bytes=material.tokenizer_bytes,
    )


def describe(layout: Layout) -> str:
    """For people: how many parameters in how many tensors."""
    frozen = f", {len(layout.frozen)} frozen besides" if layout.frozen else ""
    return f"{layout.size:,} parameters in {len(layout.entries)} tensors{frozen}"
