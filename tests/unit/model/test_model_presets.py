from __future__ import annotations

import subprocess
import sys
from math import prod

import pytest

from farflung.errors import ConfigError
from farflung.model.hf_names import hf_config, layout_entries
from farflung.model.presets import (
    PRESETS,
    LlamaConfig,
    flops_per_token,
    parameter_count,
    preset,
)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("demo", 0.394),
        ("tiny", 2.165),
        ("35m", 35.8),
        ("90m", 88.9),
        ("150m", 150.5),
        ("1b", 1235.8),
        ("10b", 10211.4),
        ("70b", 70553.7),
    ],
)
def test_each_preset_has_the_parameters_its_name_promises(name: str, millions: float) -> None:
    assert parameter_count(preset(name)) / 1e6 == pytest.approx(millions, rel=2e-3)


def test_10b_is_intellect_1() -> None:
    c = preset("10b")
    shape = (c.layers, c.dim, c.heads, c.kv_heads, c.vocab, c.seq_len)
    assert shape == (42, 4096, 32, 8, 128_256, 8192)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("qk_norm", [False, True])
def test_the_layout_holds_every_parameter_once(name: str, qk_norm: bool) -> None:
    config = LlamaConfig(**{**vars(preset(name)), "qk_norm": qk_norm})
    entries = layout_entries(config)
    assert sum(prod(shape) for _, shape in entries) == parameter_count(config)
    assert len({name for name, _ in entries}) == len(entries)


def test_the_tokenizer_and_the_run_set_vocabulary_and_row_length() -> None:
    config = preset("demo", vocab=256, seq_len=64)
    assert (config.vocab, config.seq_len, config.dim) == (256, 64, 96)


@pytest.mark.parametrize(
    ("name", "sentence"), [("dmeo", "did you mean 'demo'"), ("zzz", "known are: demo, tiny")]
)
def test_an_unknown_preset_is_answered_with_the_nearest_name(name: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        preset(name)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"dim": 97}, "try 96"),
        ({"kv_heads": 2}, "must divide"),
        ({"layers": 0}, "at least 1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change: dict[str, int], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        LlamaConfig(**{**vars(preset("demo")), **change})


def test_flops_follow_6nd_plus_attention() -> None:
    c = preset("150m")
    attention = 12 * c.layers * c.dim * c.seq_len
    norms = (2 * c.layers + 1) * c.dim
    assert flops_per_token(c) == 6 * (parameter_count(c) - norms) + attention
    assert flops_per_token(c) - flops_per_token(c, causal=True) == attention / 2


def test_an_untied_model_multiplies_no_more_weights_than_a_tied_one() -> None:
    tied = preset("demo")
    untied = LlamaConfig(**{**vars(tied), "tied": False})
    assert flops_per_token(tied) == flops_per_token(untied)


def test_the_hugging_face_config_names_its_family() -> None:
    assert hf_config(preset("demo"))["model_type"] == "llama"
    normed = LlamaConfig(**{**vars(preset("demo")), "qk_norm": True})
    assert hf_config(normed)["model_type"] == "qwen3"


def test_presets_and_names_need_no_torch() -> None:
    code = (
        "import sys, farflung.model.hf_names, farflung.inner.schedule; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
