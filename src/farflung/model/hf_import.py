"""The shape of a Hugging Face checkpoint, from its `config.json`. No torch.

What farflung's model computes bit for bit as transformers does is taken; all else is refused by
name, before a weight is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from farflung.errors import ConfigError
from farflung.model.presets import Llama3Rope, LlamaConfig

FAMILIES = {"llama": False, "qwen3": True}
"""model_type -> whether queries and keys are normalised."""
PLAIN: Mapping[str, tuple[object, ...]] = {
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "hidden_act": ("silu",),
    "use_sliding_window": (False,),
    "partial_rotary_factor": (1.0,),
    "quantization_config": (),
}
"""Settings that may be absent, null, or one of these."""
_SIZES = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"),
    *("intermediate_size", "max_position_embeddings"),
)


def config_from_hf(table: Mapping[str, Any], where: str) -> LlamaConfig:
    """The shape that a `config.json` describes; `where` begins the sentence of a refusal.

    Raises ConfigError that names what this model does not have, or what is missing.
    """
    kind = table.get("model_type")
    if kind not in FAMILIES:
        raise ConfigError(f"{where} is of model_type {kind!r}; farflung runs llama and qwen3")
    for name, plain in PLAIN.items():
        if table.get(name) is not None and table[name] not in plain:
            raise _lacks(where, name, table[name])
    other = next((t for t in table.get("layer_types") or () if t != "full_attention"), None)
    if other is not None:
        raise _lacks(where, "layer_types", other)
    sizes = {name: _whole(table, name, where) for name in _SIZES}
    heads = sizes["num_attention_heads"]
    kv_heads = heads if table.get("num_key_value_heads") is None else _kv_heads(table, where)
    return LlamaConfig(
        vocab=sizes["vocab_size"],
        dim=sizes["hidden_size"],
        layers=sizes["num_hidden_layers"],
        heads=heads,
        kv_heads=kv_heads,
        ff=sizes["intermediate_size"],
        seq_len=sizes["max_position_embeddings"],
        rope_theta=_number(_rotary(table), "rope_theta", where, 10_000.0),
        norm_eps=_number(table, "rms_norm_eps", where, 1e-6),
        tied=bool(table.get("tie_word_embeddings", False)),
        qk_norm=FAMILIES[kind],
        head_size=_head_size(table, kind, sizes["hidden_size"], heads, where),
        rope=_rope(table, where),
    )


def _lacks(where: str, name: str, value: object) -> ConfigError:
    return ConfigError(
        f"{where} has {name}={value!r}, which farflung's model does not have; use transformers for "
        f"this one"
    )


def _kv_heads(table: Mapping[str, Any], where: str) -> int:
    return _whole(table, "num_key_value_heads", where)


def _head_size(table: Mapping[str, Any], kind: str, dim: int, heads: int, where: str) -> int:
    """0 where it follows from the width; transformers' Qwen3 has 128 unless the file says."""
    if table.get("head_dim") is None:
        return 128 if kind == "qwen3" and dim != 128 * heads else 0
    head = _whole(table, "head_dim", where)
    return 0 if head * heads == dim else head


def _rotary(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """Where the rotary settings are: transformers 5 keeps them in a table of their own."""
    own = table.get("rope_parameters")
    return own if isinstance(own, dict) else table


def _rope(table: Mapping[str, Any], where: str) -> Llama3Rope | None:
    scaling = table.get("rope_scaling") or table.get("rope_parameters") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise _lacks(where, "rope_scaling", kind)
    return Llama3Rope(
        factor=_number(scaling, "factor", where),
        low_freq_factor=_number(scaling, "low_freq_factor", where),
        high_freq_factor=_number(scaling, "high_freq_factor", where),
        original_len=_whole(scaling, "original_max_position_embeddings", where),
    )


def _whole(table: Mapping[str, Any], name: str, where: str) -> int:
    value = table.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{where} has {name}={value!r}; it must be a whole number of at least 1")
    return value


def _number(table: Mapping[str, Any], name: str, where: str, default: float | None = None) -> float:
    value = table.get(name, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
        raise ConfigError(f"{where} has {name}={value!r}; it must be a number above 0")
    return float(value)
