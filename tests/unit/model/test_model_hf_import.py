"""What of a `config.json` is taken, and what is refused by name."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from farflung.config.run import ModelSpec, ShapeSpec, spec_from_bytes
from farflung.errors import ConfigError
from farflung.model.hf_import import config_from_hf
from farflung.model.hf_names import hf_config
from farflung.model.presets import Llama3Rope, LlamaConfig, config_of_spec, preset, spec_of_config

TABLE: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 128_256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "hidden_act": "silu",
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500_000.0,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
"""Llama 3.2 1B, as its publisher describes it."""


def refusal(**change: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        config_from_hf({**TABLE, **change}, "here")
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.startswith(("here", "model."))
    return sentence


def test_llama_3_2_is_the_preset_with_its_own_frequencies() -> None:
    config = config_from_hf(TABLE, "here")
    assert config.rope == Llama3Rope(32.0, 1.0, 4.0, 8192)
    plain = config_from_hf({**TABLE, "rope_scaling": None}, "here")
    assert plain == preset("1b", seq_len=131_072)


def test_qwen3_has_a_head_size_of_its_own_and_norms() -> None:
    qwen = {**TABLE, "model_type": "qwen3", "head_dim": 128, "rope_scaling": None}
    config = config_from_hf(qwen, "here")
    assert (config.head_dim, config.q_dim, config.qk_norm) == (128, 4096, True)
    del qwen["head_dim"]
    assert config_from_hf(qwen, "here") == config


def test_rotary_settings_of_transformers_5_are_read() -> None:
    rope = {"rope_theta": 7.0, "rope_type": "default"}
    table = {k: v for k, v in TABLE.items() if not k.startswith("rope")}
    assert config_from_hf({**table, "rope_parameters": rope}, "here").rope_theta == 7.0
    scaled = {**TABLE["rope_scaling"], "rope_theta": 5.0}
    config = config_from_hf({**table, "rope_parameters": scaled}, "here")
    assert (config.rope_theta, config.rope) == (5.0, Llama3Rope(32.0, 1.0, 4.0, 8192))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "mistral"}, "model_type 'mistral'; farflung runs llama and qwen3"),
        ({"model_type": None}, "model_type None"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling='yarn'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling='linear'"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "factor=None; it must be a number above 0"),
        ({"attention_bias": True}, "attention_bias=True"),
        ({"mlp_bias": True}, "mlp_bias=True"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"use_sliding_window": True}, "use_sliding_window=True"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "'sliding_attention'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config="),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
        ({"hidden_size": "wide"}, "hidden_size='wide'; it must be a whole number"),
        ({"num_hidden_layers": 0}, "num_hidden_layers=0"),
        ({"rms_norm_eps": -1}, "rms_norm_eps=-1"),
        ({"num_key_value_heads": 5}, "must divide"),
        ({"head_dim": 33}, "must be an even number"),
    ],
)
def test_what_the_model_does_not_have_is_named(change: dict[str, Any], words: str) -> None:
    assert words in refusal(**change)


@pytest.mark.parametrize("missing", ["vocab_size", "max_position_embeddings", "hidden_size"])
def test_a_size_that_is_missing_is_named(missing: str) -> None:
    table = {k: v for k, v in TABLE.items() if k != missing}
    with pytest.raises(ConfigError, match=f"{missing}=None"):
        config_from_hf(table, "here")


SHAPES = {
    "llama 3.2": config_from_hf(TABLE, "here"),
    "wide heads": LlamaConfig(
        vocab=61, dim=48, layers=2, heads=4, kv_heads=2, ff=80, seq_len=40, head_size=16
    ),
    "qwen": preset("demo").__class__(**{**vars(preset("demo")), "qk_norm": True, "tied": False}),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_goes_through_a_spec_and_through_hugging_faces_form(name: str) -> None:
    config = SHAPES[name]
    model = spec_of_config(config)
    again = msgspec.json.decode(msgspec.json.encode(model), type=ModelSpec)
    assert again == model
    assert config_of_spec(again, vocab=None, seq_len=config.seq_len) == config
    assert config_from_hf(hf_config(config), "here") == config


def test_rows_and_tokenizer_must_fit_into_the_shape() -> None:
    model = spec_of_config(SHAPES["wide heads"])
    assert config_of_spec(model, vocab=50, seq_len=8).vocab == 61
    with pytest.raises(ConfigError, match=r"62 ids, the model 61 \(model.shape.vocab\)"):
        config_of_spec(model, vocab=62, seq_len=8)
    with pytest.raises(ConfigError, match=r"data.seq_len=41 is longer than the model's rows of 40"):
        config_of_spec(model, vocab=61, seq_len=41)


def test_a_shape_needs_its_preset_and_the_preset_its_shape() -> None:
    with pytest.raises(ConfigError, match=r"shape belongs to model\.preset='shape'"):
        ModelSpec(preset="shape")
    model = spec_of_config(SHAPES["qwen"])
    with pytest.raises(ConfigError, match=r"shape belongs to model\.preset='shape'"):
        msgspec.structs.replace(model, preset="demo")
    assert isinstance(model.shape, ShapeSpec)
    with pytest.raises(ConfigError, match=r"model\.shape\.dim=0 must be at least 1"):
        spec_from_bytes(
            b'{"model":{"preset":"shape","shape":{"vocab":1,"dim":0,"layers":1,"heads":1,'
            b'"kv_heads":1,"ff":1,"max_len":1}}}'
        )
