"""`farflung export --hf`: a folder that transformers and everything built on it can read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from farflung.config.run import spec_bytes
from farflung.errors import UserError
from farflung.export.card import model_card
from farflung.export.output import new_folder, write_bytes
from farflung.export.tokenizer_json import tokenizer_config, tokenizer_json
from farflung.model.hf_names import hf_config
from farflung.trained.hf_folder import (
    CONFIG_FILE,
    INDEX_FILE,
    ORIGIN_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    ExportOrigin,
)
from farflung.trained.model import TrainedModel

if TYPE_CHECKING:
    from torch import Tensor

Dtype = Literal["fp32", "bf16"]
SHARD_BYTES = 5_000_000_000
"""As transformers cuts; a model below it is one file without an index."""

OnTensors = Callable[[int, int], None]
"""(bytes written, bytes in all)."""


@dataclass(frozen=True, kw_only=True)
class HfOptions:
    dtype: Dtype = "fp32"
    licence: str = "unknown"
    """For the card: an identifier of Hugging Face's list."""
    bits_per_byte: float | None = None
    """Measured on held-out text, for the card."""
    shard_bytes: int = SHARD_BYTES


def write_hf(
    model: TrainedModel, folder: Path, options: HfOptions, on_bytes: OnTensors | None = None
) -> list[Path]:
    """The files written. Raises UserError when the folder holds something, StorageError.

    The folder appears whole or not at all. A custom program's model has tensors and card only.
    """
    with new_folder(folder) as made:
        _write_json(made / ORIGIN_FILE, _origin(model))
        _write_weights(model, made, options, on_bytes)
        if model.config is not None:
            _write_json(made / CONFIG_FILE, _config(model, options.dtype))
            _write_json(made / "generation_config.json", _generation(model))
        if model.tokenizer is not None:
            _write_tokenizer(model, made)
        card = model_card(model, options.dtype, options.licence, options.bits_per_byte)
        write_bytes(made / "README.md", card.encode())
    return sorted(folder.iterdir())


# ---- configuration -------------------------------------------------------------------------


def _config(model: TrainedModel, dtype: Dtype) -> dict[str, Any]:
    kinds = {"fp32": "float32", "bf16": "bfloat16"}
    ends = {} if model.tokenizer is None else _ends(model.tokenizer.eos)
    return {**hf_config(model.need_config()), "torch_dtype": kinds[dtype], **_NO_ENDS, **ends}


_NO_ENDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
"""transformers' own defaults would be ids 1 and 2, which are letters here."""


def _ends(eos: int) -> dict[str, int]:
    return {"bos_token_id": eos, "eos_token_id": eos}


def _generation(model: TrainedModel) -> dict[str, Any]:
    ends = {} if model.tokenizer is None else _ends(model.tokenizer.eos)
    return {**ends, "do_sample": True, "temperature": 0.8, "top_p": 0.95}


def _write_tokenizer(model: TrainedModel, made: Path) -> None:
    tokenizer = model.need_tokenizer()
    table = tokenizer_config(tokenizer, model.seq_len)
    write_bytes(made / TOKENIZER_FILE, tokenizer_json(tokenizer))
    _write_json(made / TOKENIZER_CONFIG_FILE, table)
    special = {name: table[name] for name in ("bos_token", "eos_token")}
    _write_json(made / "special_tokens_map.json", special)


def _origin(model: TrainedModel) -> Any:
    return msgspec.to_builtins(
        ExportOrigin(
            run=model.run,
            name=model.name,
            round=model.round,
            state_root=model.state_root,
            spec="" if model.spec is None else spec_bytes(model.spec).decode(),
            provenance=model.provenance,
            history=model.history,
        )
    )


def _write_json(path: Path, table: Any) -> None:
    write_bytes(path, (json.dumps(table, indent=2, ensure_ascii=False) + "\n").encode())


# ---- weights -------------------------------------------------------------------------------


def _write_weights(
    model: TrainedModel, made: Path, options: HfOptions, on_bytes: OnTensors | None
) -> None:
    from safetensors.torch import save_file

    item = {"fp32": 4, "bf16": 2}[options.dtype]
    groups = list(_groups(model, item, options.shard_bytes))
    total = model.layout.size * item
    where: dict[str, str] = {}
    done = 0
    for number, names in enumerate(groups, 1):
        file = _shard_name(number, len(groups))
        shard = _tensors(model, names, options.dtype)
        try:
            save_file(shard, made / file, metadata={"format": "pt"})
        except (OSError, RuntimeError) as error:  # safetensors' own error is a RuntimeError here
            raise UserError(f"cannot write {made / file}: {error}; free some space") from None
        (made / file).chmod((made / ORIGIN_FILE).stat().st_mode)  # safetensors makes it private
        where |= dict.fromkeys(names, file)
        done += sum(t.numel() * item for t in shard.values())
        if on_bytes is not None:
            on_bytes(done, total)
    if len(groups) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": where}
        _write_json(made / INDEX_FILE, index)


def _groups(model: TrainedModel, item: int, limit: int) -> Iterator[list[str]]:
    """Names of each shard, in the layout's order; a larger tensor has one to itself."""
    names: list[str] = []
    n_bytes = 0
    for entry in model.layout.entries:
        if names and n_bytes + entry.size * item > limit:
            yield names
            names, n_bytes = [], 0
        names.append(entry.name)
        n_bytes += entry.size * item
    yield names


def _shard_name(number: int, count: int) -> str:
    return WEIGHTS_FILE if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"


def _tensors(model: TrainedModel, names: list[str], dtype: Dtype) -> dict[str, Tensor]:
    """bf16 is rounded to nearest even."""
    import torch

    wanted = set(names)
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    return {
        name: torch.from_numpy(values).to(kind)
        for name, values in model.tensors()
        if name in wanted
    }
