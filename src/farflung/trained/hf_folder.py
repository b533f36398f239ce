"""Reads a model from a folder in Hugging Face's form: one that `farflung export` wrote, or another
Llama of the plain kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from farflung.config.run import spec_from_bytes
from farflung.data.tokenizer import Tokenizer, tokenizer_from_bytes
from farflung.errors import ConfigError, CorruptState
from farflung.model.hf_import import config_from_hf
from farflung.model.hf_names import layout_entries
from farflung.outer.layout import Layout
from farflung.trained.history import TrainingHistory
from farflung.trained.model import TrainedModel
from farflung.trained.run_state import OnBytes

CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
ORIGIN_FILE = "farflung.json"


class ExportOrigin(msgspec.Struct, frozen=True, kw_only=True):
    """`farflung.json` of an exported folder: what config.json has no field for."""

    version: int = 1
    run: str
    name: str
    round: int
    state_root: str
    spec: str
    """Canonical JSON of the run spec; empty: unknown."""
    provenance: str = ""
    history: TrainingHistory


def is_hf_folder(path: Path) -> bool:
    return (path / CONFIG_FILE).is_file() and any(path.glob("*.safetensors"))


def read_hf(folder: Path, on_bytes: OnBytes | None = None) -> TrainedModel:
    """Raises ConfigError when the folder holds another kind of model, CorruptState."""
    config = config_from_hf(_json(folder / CONFIG_FILE), str(folder / CONFIG_FILE))
    layout = Layout.from_entries(layout_entries(config))
    weights = np.empty(layout.size, np.float32)
    _read_weights(folder, layout, weights, on_bytes)
    origin = _origin(folder)
    tokenizer, reason = _tokenizer(folder)
    known = {} if origin is None else _known(origin)
    return TrainedModel(
        **{"name": folder.resolve().name, **known},
        source=str(folder),
        layout=layout,
        weights=weights,
        config=config,
        tokenizer=tokenizer,
        no_tokenizer=reason,
    )


def _read_weights(
    folder: Path, layout: Layout, weights: np.ndarray[Any, Any], on_bytes: OnBytes | None
) -> None:
    from safetensors import SafetensorError, safe_open

    places = {e.name: e for e in layout.entries}
    done = 0
    for path in _weight_files(folder):
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118 (it is no mapping)
                    entry = places.pop(name, None)
                    if entry is None:
                        _check_spare(path, name)
                        continue
                    tensor = file.get_tensor(name)
                    if tuple(tensor.shape) != entry.shape:
                        raise ConfigError(
                            f"{path} has {name} of shape {tuple(tensor.shape)}; config.json says "
                            f"{entry.shape}"
                        )
                    part = weights[entry.offset : entry.offset + entry.size]
                    part[:] = tensor.float().reshape(-1).numpy()
                    done += part.nbytes
                    if on_bytes is not None:
                        on_bytes(done, weights.nbytes)
        except (OSError, SafetensorError) as error:
            raise CorruptState(f"cannot read {path}: {error}") from None
    if places:
        raise CorruptState(f"{folder} lacks the tensor {next(iter(places))}; copy it again")


def _check_spare(path: Path, name: str) -> None:
    """ConfigError when a tensor that the layout lacks would change what the model computes."""
    if name != "lm_head.weight" and not name.endswith("rotary_emb.inv_freq"):
        raise ConfigError(f"{path} has the tensor {name}, which farflung's model does not have")


def _weight_files(folder: Path) -> list[Path]:
    if not (folder / INDEX_FILE).is_file():
        return sorted(folder.glob("*.safetensors"))
    names = set(_json(folder / INDEX_FILE)["weight_map"].values())
    if any("/" in n or n.startswith(".") for n in names):
        raise CorruptState(f"{folder / INDEX_FILE} names a file outside its folder")
    return [folder / n for n in sorted(names)]


def _json(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CorruptState(f"cannot read {path}: {error}") from None
    if not isinstance(table, dict):
        raise CorruptState(f"{path} must hold a JSON object")
    return table


def _origin(folder: Path) -> ExportOrigin | None:
    path = folder / ORIGIN_FILE
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=ExportOrigin)
    except msgspec.DecodeError as error:
        raise CorruptState(f"{path} is malformed: {error}") from None


def _known(origin: ExportOrigin) -> dict[str, Any]:
    where = f"the spec in {ORIGIN_FILE}"
    spec = spec_from_bytes(origin.spec.encode(), where) if origin.spec else None
    return {
        "name": origin.name,
        "run": origin.run,
        "round": origin.round,
        "state_root": origin.state_root,
        "spec": spec,
        "provenance": origin.provenance,
        "history": origin.history,
    }


def _tokenizer(folder: Path) -> tuple[Tokenizer | None, str]:
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        return None, f"{folder} has no {TOKENIZER_FILE}"
    return tokenizer_from_bytes(path.read_bytes(), str(path), _end_of_text(folder)), ""


def _end_of_text(folder: Path) -> str | None:
    """The name of what ends a document, where the tokenizer's own configuration says it. The id in
    config.json is often a default that is none. Raises CorruptState."""
    if not (folder / TOKENIZER_CONFIG_FILE).is_file():
        return None
    named = _json(folder / TOKENIZER_CONFIG_FILE).get("eos_token")
    named = named.get("content") if isinstance(named, dict) else named
    return named if isinstance(named, str) and named else None
