"""A GGUF file is the same model for llama.cpp: read back by gguf's own reader, and run where
llama-cpp-python is installed."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import resource
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trained_samples import SEQ_LEN, made

from farflung.data.json_tokenizer import JsonTokenizer
from farflung.data.tokenizer import load_tokenizer
from farflung.errors import StorageError, UserError
from farflung.export.gguf_file import SPLITS, rope_rows, write_gguf
from farflung.export.tokenizer_json import token_names
from farflung.model.generate import Sampling, stream
from farflung.model.llama import rope_table, rotate
from farflung.model.presets import Llama3Rope

gguf = pytest.importorskip("gguf")

UNCUT = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": False,
}
"""Bytes, and no rule that cuts a text before merging."""

TEXT = "What say you, my lord?\n  naïve ☃ don't 1234 "


def read(path: Path) -> Any:
    return gguf.GGUFReader(path)


def value(reader: Any, key: str) -> Any:
    return reader.get_field(key).contents()


NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "post_attention_layernorm": "ffn_norm",
    "input_layernorm": "attn_norm",
    "model.layers.": "blk.",
}
"""llama.cpp's names, written down here once more on purpose."""


def named(name: str) -> str:
    for ours, theirs in NAMES.items():
        name = name.replace(ours, theirs)
    return name


@pytest.mark.parametrize(
    "shape", [{}, {"tied": False, "heads": 6, "kv_heads": 2}, {"qk_norm": True}]
)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_every_tensor_is_there_in_llama_cpps_order(
    shape: dict[str, Any], dtype: Any, tmp_path: Path
) -> None:
    model = made(**shape)
    config = model.need_config()
    write_gguf(model, tmp_path / "m.gguf", dtype)
    tensors = {t.name: t for t in read(tmp_path / "m.gguf").tensors}
    for name, values in model.tensors():
        tensor = tensors.pop(named(name))
        assert list(tensor.shape) == list(reversed(values.shape))
        expected = values
        if not config.qk_norm and name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config.heads if "q_proj" in name else config.kv_heads
            expected = permuted(values, heads)
        if dtype == "bf16" and values.ndim > 1:
            assert tensor.tensor_type == gguf.GGMLQuantizationType.BF16
            expected = torch.from_numpy(expected.copy()).bfloat16().float().numpy()
        found = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(values.shape)
        assert np.array_equal(found, expected)
    assert not tensors


def permuted(values: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """`LlamaModel.permute` of llama.cpp's convert_hf_to_gguf.py."""
    return (
        values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
        .swapaxes(1, 2)
        .reshape(values.shape)
    )


def test_rotating_neighbours_after_the_permutation_is_rotating_halves_before_it() -> None:
    """Why the rows are permuted: the scores of attention stay what they were."""
    config = made().need_config()
    E = config.head_dim
    x = torch.randn(5, E, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cos, sin = rope_table(config)
    halves = rotate(x[None, :, None], cos[:5].double(), sin[:5].double())[0, :, 0]
    order = rope_rows(np.arange(E, dtype=np.float32)[:, None], 1)[:, 0].astype(int)
    pairs = x[:, order].reshape(5, E // 2, 2)
    c, s = cos[:5, : E // 2].double(), sin[:5, : E // 2].double()
    turned = torch.stack(
        [pairs[..., 0] * c - pairs[..., 1] * s, pairs[..., 0] * s + pairs[..., 1] * c], dim=-1
    ).reshape(5, E)
    torch.testing.assert_close(turned, halves[:, order])


@pytest.mark.parametrize("name", ["bytes", "bpe-1024"])
def test_the_file_describes_model_and_tokenizer(name: str, tmp_path: Path) -> None:
    model = made(name)
    config, tokenizer = model.need_config(), model.need_tokenizer()
    write_gguf(model, tmp_path / "m.gguf", "fp32", "cc0-1.0")
    reader = read(tmp_path / "m.gguf")
    assert value(reader, "general.architecture") == "llama"
    assert value(reader, "general.license") == "cc0-1.0"
    assert model.state_root in value(reader, "general.description")
    expected = {
        "context_length": SEQ_LEN,
        "embedding_length": config.dim,
        "block_count": config.layers,
        "feed_forward_length": config.ff,
        "attention.head_count": config.heads,
        "attention.head_count_kv": config.kv_heads,
        "rope.dimension_count": config.head_dim,
        "vocab_size": config.vocab,
    }
    assert {k: value(reader, f"llama.{k}") for k in expected} == expected
    assert value(reader, "llama.rope.freq_base") == config.rope_theta
    epsilon = value(reader, "llama.attention.layer_norm_rms_epsilon")
    assert epsilon == pytest.approx(config.norm_eps)
    names = token_names(tokenizer)
    assert value(reader, "tokenizer.ggml.tokens") == [names[i] for i in range(config.vocab)]
    kinds = value(reader, "tokenizer.ggml.token_type")
    assert [i for i, k in enumerate(kinds) if k == gguf.TokenType.CONTROL] == [tokenizer.eos]
    assert value(reader, "tokenizer.ggml.eos_token_id") == tokenizer.eos
    assert value(reader, "tokenizer.ggml.add_bos_token") is False
    if name == "bpe-1024":
        assert len(value(reader, "tokenizer.ggml.merges")) == 767


def test_a_file_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"mine")
    with pytest.raises(UserError, match="is there already"):
        write_gguf(made(), tmp_path / "m.gguf", "fp32")
    assert (tmp_path / "m.gguf").read_bytes() == b"mine"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "Lowercase"}},
        {"pre_tokenizer": UNCUT},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {
                        "type": "Split",
                        "pattern": {"Regex": "[a-z]+"},
                        "behavior": "Isolated",
                        "invert": False,
                    },
                    UNCUT,
                ],
            }
        },
    ],
)
def test_a_tokenizer_that_llama_cpp_would_read_otherwise_is_refused(
    change: dict[str, Any], tmp_path: Path
) -> None:
    table = json.loads(load_tokenizer("bpe-1024").json()) | change
    model = made("bpe-1024")
    tokenizer = JsonTokenizer(json.dumps(table).encode(), "changed")
    with pytest.raises(UserError, match="convert_hf_to_gguf"):
        write_gguf(dataclasses.replace(model, tokenizer=tokenizer), tmp_path / "m.gguf", "fp32")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("regex", "kind"), SPLITS.items())
def test_a_known_rule_for_cutting_text_has_llama_cpps_name(
    regex: str, kind: str, tmp_path: Path
) -> None:
    table = json.loads(load_tokenizer("bpe-1024").json())
    split = {
        "type": "Split",
        "pattern": {"Regex": regex},
        "behavior": "Isolated",
        "invert": False,
    }
    level = {**table["pre_tokenizer"], "use_regex": False}
    table["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, level]}
    tokenizer = JsonTokenizer(json.dumps(table).encode(), "changed")
    model = dataclasses.replace(made("bpe-1024"), tokenizer=tokenizer)
    write_gguf(model, tmp_path / "m.gguf", "fp32")
    assert value(read(tmp_path / "m.gguf"), "tokenizer.ggml.pre") == kind


def test_without_the_package_one_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError, match=r"pip install 'farflung\[gguf\]'"):
        write_gguf(made(), tmp_path / "m.gguf", "fp32")


LLAMA_CPP = """
import itertools, json, sys
from llama_cpp import Llama
path, text, n_ctx = sys.argv[1], sys.argv[2], int(sys.argv[3])
model = Llama(path, n_ctx=n_ctx, n_threads=1, verbose=False)
ids = model.tokenize(text.encode(), add_bos=False, special=False)
back = model.detokenize(ids).decode()
greedy = model.generate(ids[:20], temp=0.0, repeat_penalty=1.0)
print(json.dumps([ids, back, list(itertools.islice(greedy, 20))]))
sys.stdout.flush()
__import__("os")._exit(0)
"""


@pytest.mark.skipif(importlib.util.find_spec("llama_cpp") is None, reason="no llama-cpp-python")
@pytest.mark.parametrize("name", ["bytes", "bpe-1024"])
def test_llama_cpp_reads_the_same_tokens_and_writes_the_same_text(
    name: str, tmp_path: Path
) -> None:
    model = made(name, scale=8.0)
    write_gguf(model, tmp_path / "m.gguf", "fp32")
    done = subprocess.run(
        [sys.executable, "-c", LLAMA_CPP, str(tmp_path / "m.gguf"), TEXT, str(SEQ_LEN)],
        capture_output=True,
        text=True,
        check=True,
    )
    theirs, back, greedy = json.loads(done.stdout.splitlines()[-1])
    ids = model.need_tokenizer().encode(TEXT)
    assert (theirs, back) == (ids, TEXT)
    ours = list(islice(stream(model.llama(), ids[:20], Sampling(temperature=0)), 20))
    assert greedy == ours
    assert len(set(ours)) > 3


def test_stretched_frequencies_are_refused(tmp_path: Path) -> None:
    model = made("bytes", rope=Llama3Rope(8.0, 1.0, 4.0, 32))
    with pytest.raises(UserError, match="write --hf and convert that with llama"):
        write_gguf(model, tmp_path / "model.gguf", "fp32")
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full_is_one_sentence(tmp_path: Path) -> None:
    """Closing the writer writes again, and fails again. A limit of the process does for a disk."""
    target = tmp_path / "m.gguf"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(StorageError, match=r"m\.gguf"):
            write_gguf(made(), target, "fp32")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
