"""The canonical order of all parameters, under their Hugging Face names. No torch.

The run's layout comes from this table, never from a wrapped module (compile and checkpoint
wrappers change names). Buffers (the rotary table) are outside; tied weights appear once.
"""

from __future__ import annotations

from typing import Any

from farflung.model.presets import LlamaConfig

Entry = tuple[str, tuple[int, ...]]
"""(name, shape) of one fp32 parameter."""


def layout_entries(config: LlamaConfig) -> list[Entry]:
    """Embedding, layers in order, final norm, head if untied: names and shapes [out, in]."""
    entries: list[Entry] = [("model.embed_tokens.weight", (config.vocab, config.dim))]
    for layer in range(config.layers):
        entries += [(f"model.layers.{layer}.{name}", shape) for name, shape in _layer(config)]
    entries.append(("model.norm.weight", (config.dim,)))
    if not config.tied:
        entries.append(("lm_head.weight", (config.vocab, config.dim)))
    return entries


def _layer(config: LlamaConfig) -> list[Entry]:
    d, q, kv, ff, head = config.dim, config.q_dim, config.kv_dim, config.ff, config.head_dim
    head_norms: list[Entry] = [
        ("self_attn.q_norm.weight", (head,)),
        ("self_attn.k_norm.weight", (head,)),
    ]
    return [
        ("self_attn.q_proj.weight", (q, d)),
        ("self_attn.k_proj.weight", (kv, d)),
        ("self_attn.v_proj.weight", (kv, d)),
        ("self_attn.o_proj.weight", (d, q)),
        *(head_norms if config.qk_norm else []),
        ("mlp.gate_proj.weight", (ff, d)),
        ("mlp.up_proj.weight", (ff, d)),
        ("mlp.down_proj.weight", (d, ff)),
        ("input_layernorm.weight", (d,)),
        ("post_attention_layernorm.weight", (d,)),
    ]


def hf_config(config: LlamaConfig) -> dict[str, Any]:
    """The `config.json` that transformers needs: Llama, or Qwen3 when queries are normalised."""
    family = ("Qwen3ForCausalLM", "qwen3") if config.qk_norm else ("LlamaForCausalLM", "llama")
    return {
        "architectures": [family[0]],
        "model_type": family[1],
        "vocab_size": config.vocab,
        "hidden_size": config.dim,
        "intermediate_size": config.ff,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.seq_len,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": _rope_scaling(config),
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": config.tied,
        "torch_dtype": "float32",
        "use_cache": True,
    } | ({} if config.qk_norm else {"mlp_bias": False})


def _rope_scaling(config: LlamaConfig) -> dict[str, Any] | None:
    if config.rope is None:
        return None
    return {
        "rope_type": "llama3",
        "factor": config.rope.factor,
        "low_freq_factor": config.rope.low_freq_factor,
        "high_freq_factor": config.rope.high_freq_factor,
        "original_max_position_embeddings": config.rope.original_len,
    }
