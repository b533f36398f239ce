"""What a new run begins with when it is founded from existing weights (`farflung host --from`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from blake3 import blake3

from farflung.errors import UserError
from farflung.hashing import digest
from farflung.model.presets import spec_of_config
from farflung.run.genesis import Founding, Weights
from farflung.run.home import home_folder
from farflung.swarm.records import Ancestor
from farflung.trained.hf_folder import CONFIG_FILE, TOKENIZER_FILE, is_hf_folder, read_hf
from farflung.trained.model import TrainedModel
from farflung.trained.run_folders import node_folders
from farflung.trained.run_state import OnBytes, newest_state

_LICENCE = re.compile(r"^licen[sc]e:\s*['\"]?([^'\"\n]+)", re.MULTILINE)
_FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)


def found_from(what: str, on_bytes: OnBytes | None = None) -> Founding:
    """From a run's name in FARFLUNG_HOME, a node's folder, or a Hugging Face checkpoint's folder.

    Raises UserError (ConfigError for a model of another kind), CorruptState, StorageError.
    """
    path = Path(what).expanduser()
    if is_hf_folder(path):
        return _checkpoint(path, on_bytes)
    for place in (path, home_folder() / what):
        folders = node_folders(place) if place.is_dir() else []
        if folders:
            return _run(folders, on_bytes)
    if path.is_dir():
        raise UserError(
            f"{path} holds neither a run (journal.bin) nor a checkpoint (config.json and "
            f"safetensors); --from takes one of them, or a run's name"
        )
    raise UserError(
        f"--from {what!r} is neither a folder nor a run in {home_folder()}; give a run's name, the "
        f"folder of a host, keeper or peer, or a checkpoint's folder"
    )


def _run(folders: Sequence[Path], on_bytes: OnBytes | None) -> Founding:
    """The newest state in the folders, whatever trains it: a program of somebody's own too."""
    found = newest_state(_with_keepers(folders), on_bytes)
    spec, genesis = found.spec, found.genesis
    earlier = genesis.ancestors
    parent = Ancestor(
        name=spec.name,
        run=genesis.run,
        round=found.round,
        state=found.state.root,
        licence=earlier[0].licence if earlier else "",
    )
    text = any(part.manifest for part in genesis.data)
    return Founding(
        source=f"run {spec.name}",
        weights=Weights(found.state.layout, found.state.anchor),
        model=spec.model,
        tokenizer=genesis.tokenizer if text else None,
        tokenizer_name=spec.data.tokenizer,
        lineage=(parent, *earlier),
    )


def _with_keepers(folders: Sequence[Path]) -> list[Path]:
    """A run that was born and has not started yet: its keeper has weights, and no journal."""
    beside = [folder.parent / "keeper" for folder in folders if folder.name == "host"]
    return [*folders, *(k for k in beside if k.is_dir() and k not in folders)]


def _checkpoint(folder: Path, on_bytes: OnBytes | None) -> Founding:
    model = read_hf(folder, on_bytes)
    file = folder / TOKENIZER_FILE
    return Founding(
        source=f"checkpoint {folder}",
        weights=Weights(model.layout, model.weights),
        model=spec_of_config(model.need_config()),
        tokenizer=_tokenizer(model, file),
        tokenizer_name=str(file.resolve()) if file.is_file() else "bytes",
        lineage=(
            Ancestor(
                name=model.name,
                run=model.run,
                round=model.round,
                state=bytes.fromhex(model.state_root),
                files=files_hash(folder),
                licence=licence_of(folder),
            ),
        ),
    )


def _tokenizer(model: TrainedModel, file: Path) -> bytes | None:
    """Hash of the checkpoint's tokenizer.json; None when it has none and does not say bytes."""
    if file.is_file():
        return digest(file.read_bytes())
    bytes_only = model.spec is not None and model.spec.data.tokenizer == "bytes"
    return b"" if bytes_only else None


def files_hash(folder: Path) -> bytes:
    """BLAKE3 over names and hashes of config.json and the weight files: what the model is."""
    files = [folder / CONFIG_FILE, *sorted(folder.glob("*.safetensors"))]
    whole = blake3()
    for path in files:
        content = blake3(max_threads=blake3.AUTO).update_mmap(path).digest()
        whole.update(len(path.name).to_bytes(2, "little") + path.name.encode() + content)
    return whole.digest()


def licence_of(folder: Path) -> str:
    """`license:` in the head of the model card; empty when it says none."""
    card = folder / "README.md"
    if not card.is_file():
        return ""
    head = _FRONT_MATTER.match(card.read_text(encoding="utf-8", errors="replace"))
    found = None if head is None else _LICENCE.search(head[1])
    return "" if found is None else found[1].strip()[:64]
