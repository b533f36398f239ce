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

import msgspec
import numpy as np
import numpy.typing as npt

from farflung.checkpoint.blob_store import BlobStore
from farflung.checkpoint.snapshot import write_snapshot
from farflung.config.run import (
    ARITHMETIC_VERSION,
    PROTOCOL_VERSION,
    DataSpec,
    ModelSpec,
    RunSpec,
    spec_bytes,
)
from farflung.disk import Disk
from farflung.errors import ConfigError, UserError
from farflung.model.hf_names import layout_entries
from farflung.model.presets import config_of_spec
from farflung.outer.layout import Layout
from farflung.peer.outer_state import OuterState
from farflung.swarm.records import JOURNAL_VERSION, Ancestor, DataPart, Genesis
from farflung.trainers.numpy_trainer import quadratic_genesis

BUILT_IN = (sys.executable, "-m", "farflung.inner.trainer")
GENESIS_S = 1800.0


@dataclass(frozen=True, kw_only=True)
class Material:
    """Blobs that joiners need besides the weights: (hash, length); empty for none."""

    data: tuple[DataPart, ...]
    vocab: int | None = None
    """Ids of the tokenizer; None for synthetic rows."""
    tokenizer: bytes = b""
    tokenizer_bytes: int = 0


def synthetic_material(spec: RunSpec) -> Material:
    """Rows that follow from their numbers: nothing to fetch."""
    return Material(
        data=tuple(
            DataPart(name=p.name, rows=p.rows, manifest=b"", manifest_bytes=0)
            for p in spec.data.parts
        )
    )


@dataclass(frozen=True)
class Weights:
    layout: Layout
    anchor: npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Founding:
    """Existing weights that a new run begins with (docs/going-on.md)."""

    source: str
    """For people."""
    weights: Weights
    model: ModelSpec
    """Builds the model that they are of."""
    tokenizer: bytes | None
    """Hash of its tokenizer.json, empty for bytes; None: not known, or trained without text."""
    tokenizer_name: str
    """What `data.tokenizer` is where the new spec leaves it at its default."""
    lineage: tuple[Ancestor, ...]


def founded(spec: RunSpec, founding: Founding) -> RunSpec:
    """The new run's spec with the model, and unless it names one the tokenizer, of the weights.

    Raises ConfigError when it describes another model.
    """
    if spec.model not in (ModelSpec(), founding.model):
        raise ConfigError(
            f"[model] of this spec is not the model of {founding.source}; with --from leave it out"
        )
    data = spec.data
    if data.tokenizer == DataSpec().tokenizer and founding.tokenizer is not None:
        data = msgspec.structs.replace(data, tokenizer=founding.tokenizer_name)
    return msgspec.structs.replace(spec, model=founding.model, data=data)


def same_birth(written: RunSpec, born: RunSpec) -> bool:
    """Whether a spec file is the one of a run that was founded, which filled in the model."""
    model = born.model if written.model == ModelSpec() else written.model
    data = written.data
    if data.tokenizer == DataSpec().tokenizer:
        data = msgspec.structs.replace(data, tokenizer=born.data.tokenizer)
    return msgspec.structs.replace(written, model=model, data=data) == born


def check_founding(spec: RunSpec, founding: Founding, material: Material) -> None:
    """The data go with the weights. Raises UserError, also for weights that are not finite."""
    anchor = founding.weights.anchor
    if not np.isfinite(anchor).all():
        raise UserError(f"the weights of {founding.source} are not finite; take an older state")
    known = founding.tokenizer is not None and not spec.data.synthetic
    if known and material.tokenizer != founding.tokenizer:
        raise UserError(
            f"these data were prepared with another tokenizer ({_named(material.tokenizer)}) than "
            f"the weights of {founding.source} know ({_named(founding.tokenizer or b'')}); prepare "
            f"them with `farflung data prepare --tokenizer {founding.tokenizer_name}`"
        )
    if spec.model.preset in ("quadratic", "custom"):
        return  # of these the trainer says whether they fit
    config = config_of_spec(spec.model, vocab=material.vocab, seq_len=spec.data.seq_len)
    layout = Layout.from_entries(layout_entries(config))
    weights = founding.weights.layout
    if layout.hash != weights.hash:
        raise UserError(
            f"the weights of {founding.source} ({weights.size:,} numbers) are not those of its "
            f"model with these data ({layout.size:,}); prepare the data with its own tokenizer"
        )


def _named(tokenizer: bytes) -> str:
    return tokenizer.hex()[:12] if tokenizer else "bytes"


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
    *,
    run: str,
    run_key: bytes,
    spec: RunSpec,
    weights: Weights,
    material: Material,
    disk: Disk,
    lineage: tuple[Ancestor, ...] = (),
) -> Genesis:
    """Store the genesis snapshot on `disk` (the keeper's) and describe it: zero momentum."""
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
        tokenizer=material.tokenizer,
        tokenizer_bytes=material.tokenizer_bytes,
        lineage=lineage or msgspec.UNSET,
    )


def describe(layout: Layout) -> str:
    """For people: how many parameters in how many tensors."""
    frozen = f", {len(layout.frozen)} frozen besides" if layout.frozen else ""
    return f"{layout.size:,} parameters in {len(layout.entries)} tensors{frozen}"
