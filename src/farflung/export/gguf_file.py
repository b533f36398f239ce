"""`farflung export --gguf`: one file for llama.cpp and what is built on it, with the tokenizer.

llama.cpp rotates neighbouring elements of a Llama's query and key heads where Hugging Face rotates
element i with i + E/2: the rows of q_proj and k_proj are put into its order. (Qwen3 is rotated as
Hugging Face does.) Source: llama.cpp's convert_hf_to_gguf.py, `LlamaModel.permute`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from farflung.data.tokenizer import Tokenizer
from farflung.disk import storage_errors
from farflung.errors import UserError
from farflung.export.hf import Dtype
from farflung.export.output import new_file
from farflung.export.tokenizer_json import token_names, tokenizer_json
from farflung.model.hf_names import layout_entries
from farflung.model.presets import LlamaConfig
from farflung.trained.model import Float32, TrainedModel

if TYPE_CHECKING:
    from gguf import GGUFWriter

SPLITS = {
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": "llama-bpe",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": "qwen2",
}
"""Regular expressions of byte-level tokenizers that llama.cpp has built in, and its names."""

NO_MERGE = "<|endoftext|> <|endoftext|>"
"""The file needs one merge at least; no text is ever split into these two."""


def write_gguf(
    model: TrainedModel,
    path: Path,
    dtype: Dtype,
    licence: str = "unknown",
    on_bytes: Callable[[int, int], None] | None = None,
) -> None:
    """Raises UserError (no `gguf` installed, the file is there, a model or tokenizer that
    llama.cpp does not have), StorageError. The file appears whole or not at all."""
    gguf = _library()
    config, tokenizer = model.need_config(), model.need_tokenizer()
    if config.rope is not None:
        raise UserError(
            f"--gguf has no way for the stretched rotary frequencies of {model.name} (Llama 3.1 "
            f"and later); write --hf and convert that with llama.cpp"
        )
    kind = _kind_of_split(tokenizer)
    with new_file(path) as part, storage_errors(path):  # closing it writes too
        writer = gguf.GGUFWriter(part, "qwen3" if config.qk_norm else "llama")
        try:
            _describe(writer, model, config, dtype, licence)
            _add_tokenizer(writer, tokenizer, config, kind)
            _add_tensors(writer, model, config, dtype)
            _write(writer, model, config, dtype, on_bytes)
        finally:
            writer.close()


def _library() -> Any:
    try:
        import gguf
    except ImportError:
        raise UserError(
            "--gguf needs the gguf package; install it with: pip install 'farflung[gguf]'"
        ) from None
    return gguf


# ---- what the file says --------------------------------------------------------------------


def _describe(
    writer: GGUFWriter, model: TrainedModel, config: LlamaConfig, dtype: Dtype, licence: str
) -> None:
    from gguf import LlamaFileType

    writer.add_name(model.name)
    writer.add_description(
        f"farflung run {model.run}, round {model.round}, state {model.state_root}"
    )
    writer.add_license(licence)
    writer.add_vocab_size(config.vocab)
    writer.add_context_length(config.seq_len)
    writer.add_embedding_length(config.dim)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.ff)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    kinds = {"fp32": LlamaFileType.ALL_F32, "bf16": LlamaFileType.MOSTLY_BF16}
    writer.add_file_type(kinds[dtype])


def _kind_of_split(tokenizer: Tokenizer) -> str:
    """llama.cpp's name of the rule that cuts text before merging. UserError for a foreign one."""
    table = json.loads(tokenizer_json(tokenizer))
    stage = table.get("pre_tokenizer") or {}
    stages = [stage, *stage.get("pretokenizers", [])]
    plain = table["model"]["type"] == "BPE" and not table.get("normalizer")
    levels = [s for s in stages if s["type"] == "ByteLevel"]
    splits = [s["pattern"].get("Regex") for s in stages if s["type"] == "Split"]
    others = {s["type"] for s in stages} - {"ByteLevel", "Split", "Sequence"}
    if plain and levels and not others:
        if len(splits) == 1 and splits[0] in SPLITS:
            return SPLITS[splits[0]]
        whole = not levels[0].get("use_regex", True) and not table["model"]["merges"]
        if not splits and (whole or levels[0].get("use_regex", True)):
            return "gpt-2"
    raise UserError(
        "the GGUF file would need a tokenizer that farflung cannot describe (it knows byte-level "
        "BPE as GPT-2, Llama 3 and Qwen 2 have it); export with --hf and use llama.cpp's "
        "convert_hf_to_gguf.py"
    )


def _add_tokenizer(
    writer: GGUFWriter, tokenizer: Tokenizer, config: LlamaConfig, kind: str
) -> None:
    from gguf import TokenType

    table = json.loads(tokenizer_json(tokenizer))
    names, rows = token_names(tokenizer), range(config.vocab)
    kinds = dict.fromkeys(names, TokenType.NORMAL)
    for added in table.get("added_tokens", []):
        kinds[added["id"]] = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
    merges = [m if isinstance(m, str) else " ".join(m) for m in table["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(kind)
    writer.add_token_list([names.get(i, f"[PAD{i}]") for i in rows])
    writer.add_token_types([kinds.get(i, TokenType.UNUSED) for i in rows])
    writer.add_token_merges(merges or [NO_MERGE])
    writer.add_bos_token_id(tokenizer.eos)
    writer.add_eos_token_id(tokenizer.eos)
    writer.add_add_bos_token(False)


# ---- tensors -------------------------------------------------------------------------------


def rope_rows(weight: Float32, heads: int) -> Float32:
    """Rows [heads * E, D] of a query or key projection in llama.cpp's order: 0, E/2, 1, ..."""
    E = weight.shape[0] // heads
    halves = weight.reshape(heads, 2, E // 2, *weight.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


def _add_tensors(
    writer: GGUFWriter, model: TrainedModel, config: LlamaConfig, dtype: Dtype
) -> None:
    """Names, shapes and types; the values follow one by one."""
    import gguf

    names = _names(config)
    for name, values in model.tensors():
        narrow = _is_narrow(values, dtype)
        kind = gguf.GGMLQuantizationType.BF16 if narrow else gguf.GGMLQuantizationType.F32
        n_bytes = values.size * (2 if narrow else 4)
        writer.add_tensor_info(names[name], values.shape, np.dtype(np.float32), n_bytes, kind)


def _write(
    writer: GGUFWriter,
    model: TrainedModel,
    config: LlamaConfig,
    dtype: Dtype,
    on_bytes: Callable[[int, int], None] | None,
) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    done = 0
    for name, values in model.tensors():
        writer.write_tensor_data(_encoded(_ordered(name, values, config), dtype))
        done += values.nbytes
        if on_bytes is not None:
            on_bytes(done, model.weights.nbytes)


def _ordered(name: str, values: Float32, config: LlamaConfig) -> Float32:
    if not config.qk_norm:
        if name.endswith("q_proj.weight"):
            return rope_rows(values, config.heads)
        if name.endswith("k_proj.weight"):
            return rope_rows(values, config.kv_heads)
    return values


def _is_narrow(values: Float32, dtype: Dtype) -> bool:
    """Norms stay fp32: llama.cpp wants it, and they are few."""
    return dtype == "bf16" and values.ndim > 1


def _encoded(values: Float32, dtype: Dtype) -> npt.NDArray[Any]:
    if not _is_narrow(values, dtype):
        return np.ascontiguousarray(values)
    import torch

    return torch.from_numpy(values).to(torch.bfloat16).view(torch.uint8).numpy()


def _names(config: LlamaConfig) -> dict[str, str]:
    """Hugging Face's name -> GGUF's, by the library's own table."""
    import gguf

    kind = gguf.MODEL_ARCH.QWEN3 if config.qk_norm else gguf.MODEL_ARCH.LLAMA
    table = gguf.get_tensor_name_map(kind, config.layers)
    found = {}
    for name, _ in layout_entries(config):
        known = table.get_name(name, try_suffixes=(".weight",))
        assert known is not None, name
        found[name] = known
    return found
