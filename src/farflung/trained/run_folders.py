"""A run on this machine, from the folders of its nodes to a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from farflung.checkpoint.blob_store import BlobStore
from farflung.config.run import RunSpec
from farflung.data.corpus import shipped_bpe
from farflung.data.manifest import MANIFEST_FILE, decode_manifest
from farflung.data.shards import source_folders
from farflung.data.tokenizer import ByteTokenizer, Tokenizer, tokenizer_from_bytes
from farflung.disk import RealDisk
from farflung.errors import CorruptState, StorageError, UserError
from farflung.hashing import digest
from farflung.run.home import JOURNAL
from farflung.swarm.records import Genesis
from farflung.trained.history import history_of, last_loss
from farflung.trained.model import TrainedModel, config_of
from farflung.trained.run_state import OnBytes, genesis_of_file, newest_state

DATA = "data"
"""Where a node has the run's token shards, inside its folder."""


def read_run(folders: Sequence[Path], on_bytes: OnBytes | None = None) -> TrainedModel:
    """The newest model in the folders of one run's nodes.

    Raises UserError (also: a test function), CorruptState, StorageError.
    """
    found = newest_state(folders, on_bytes)
    spec, state, genesis = found.spec, found.state, found.genesis
    data = data_folder(folders, genesis, spec)
    tokenizer, reason = _tokenizer(folders, genesis, spec, data)
    return TrainedModel(
        name=spec.name,
        source=", ".join(map(str, folders)),
        layout=state.layout,
        weights=state.anchor,
        config=config_of(spec, state.layout),
        tokenizer=tokenizer,
        no_tokenizer=reason,
        spec=spec,
        run=genesis.run,
        round=found.round,
        state_root=state.root.hex(),
        history=history_of(
            found.records,
            state.next_round,
            spec.data.seq_len,
            last_loss(folders, state.next_round),
        ),
        data=data,
        provenance=_provenance(data, spec),
    )


def node_folders(path: Path) -> list[Path]:
    """The nodes' folders of the one run that is at or below `path`; empty when there is none.

    A host's folder has no weights: its keeper's, beside it, belongs to it. Raises UserError when
    there are several runs.
    """
    if (path / JOURNAL).is_file():
        beside = [p.parent for p in sorted(path.parent.glob(f"*/{JOURNAL}")) if p.parent != path]
        mine = genesis_of_file(path / JOURNAL)
        return [path, *(p for p in beside if _run(p) == (mine.run if mine else ""))]
    runs: dict[str, list[Path]] = {}
    names: dict[str, Path] = {}
    for journal in sorted(path.rglob(JOURNAL)):
        run = _run(journal.parent)
        if run:
            runs.setdefault(run, []).append(journal.parent)
            names.setdefault(run, journal.parent)
    if len(runs) > 1:
        choice = ", ".join(str(p) for p in names.values())
        raise UserError(f"{path} holds {len(runs)} runs; name one of their folders: {choice}")
    return next(iter(runs.values()), [])


def _run(folder: Path) -> str:
    try:
        genesis = genesis_of_file(folder / JOURNAL)
    except (CorruptState, StorageError):
        return ""
    return "" if genesis is None else genesis.run


def data_folder(folders: Sequence[Path], genesis: Genesis, spec: RunSpec) -> Path | None:
    """Where the run's token shards are on this machine, those of all its sources; None: nowhere,
    or it has none."""
    wanted = [part.manifest for part in genesis.data]
    for folder in folders if not spec.data.synthetic else ():
        manifests = [f / MANIFEST_FILE for f in source_folders(folder / DATA, spec.data)]
        try:
            if [digest(m.read_bytes()) for m in manifests] == wanted:
                return folder / DATA
        except OSError:
            continue
    return None


def _tokenizer(
    folders: Sequence[Path], genesis: Genesis, spec: RunSpec, data: Path | None
) -> tuple[Tokenizer | None, str]:
    """The run's tokenizer, or why there is none. Raises ConfigError."""
    if spec.data.synthetic:
        return None, "it was trained on synthetic rows, which are not text"
    if not genesis.tokenizer:
        return ByteTokenizer(), ""
    first = None if data is None else source_folders(data, spec.data)[0]
    content = _tokenizer_bytes(folders, genesis, first)
    if content is None:
        return None, (
            "its tokenizer is not on this machine; name the folder of a peer that has the data"
        )
    manifest = _manifest_bytes(folders, genesis, first)
    eos = None if manifest is None else decode_manifest(manifest).eos
    return tokenizer_from_bytes(content, eos=eos), ""


def _manifest_bytes(folders: Sequence[Path], genesis: Genesis, data: Path | None) -> bytes | None:
    """Of the first source; a reader has it as a blob. Sources share their end of text."""
    if data is not None:
        return (data / MANIFEST_FILE).read_bytes()
    return _blob(folders, genesis.data[0].manifest)


def _blob(folders: Sequence[Path], name: bytes) -> bytes | None:
    found = (BlobStore(RealDisk(folder)).get(name) for folder in folders)
    return next((b for b in found if b is not None and digest(b) == name), None)


def _tokenizer_bytes(folders: Sequence[Path], genesis: Genesis, data: Path | None) -> bytes | None:
    candidates = [shipped_bpe()]
    if data is not None and (data / "tokenizer.json").is_file():
        candidates.append((data / "tokenizer.json").read_bytes())
    here = next((c for c in candidates if digest(c) == genesis.tokenizer), None)
    return _blob(folders, genesis.tokenizer) if here is None else here


def _provenance(data: Path | None, spec: RunSpec) -> str:
    if data is None:
        return ""
    manifests = [f / MANIFEST_FILE for f in source_folders(data, spec.data)]
    return "; ".join(decode_manifest(m.read_bytes()).provenance for m in manifests)
