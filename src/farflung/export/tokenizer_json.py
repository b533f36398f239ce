"""Any of our tokenizers as the files that transformers reads."""

from __future__ import annotations

import json
from typing import Any

from farflung.data.tokenizer import Tokenizer
from farflung.data.train_tokenizer import END_OF_TEXT


def tokenizer_json(tokenizer: Tokenizer) -> bytes:
    """The content of `tokenizer.json`, which gives the ids that the run was trained on.

    Bytes become a byte-level BPE that merges nothing. What a foreign file would add around a text,
    or cut from it, is left out: farflung trains without it.
    """
    content = tokenizer.json()
    if not content:
        return _byte_tokenizer_json()
    table: dict[str, Any] = json.loads(content)
    plain = {"truncation": None, "padding": None}
    if _adds_tokens(table.get("post_processor")):
        plain["post_processor"] = None
    if all(table.get(name) is None for name in plain):
        return content
    return json.dumps({**table, **plain}, ensure_ascii=False).encode()


def _adds_tokens(processor: dict[str, Any] | None) -> bool:
    stages = [] if processor is None else [processor, *processor.get("processors", [])]
    return any(s["type"] not in ("ByteLevel", "Sequence") for s in stages)


def tokenizer_config(tokenizer: Tokenizer, seq_len: int) -> dict[str, Any]:
    """The content of `tokenizer_config.json`. The end of a document is also what stands before the
    first one: that is how rows were packed."""
    end = token_names(tokenizer)[tokenizer.eos]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": end,
        "eos_token": end,
        "add_bos_token": False,
        # Without it transformers gives `generate` the token types of BERT, which it then refuses.
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": seq_len,
        "clean_up_tokenization_spaces": False,
    }


def token_names(tokenizer: Tokenizer) -> dict[int, str]:
    """Every id's name, as tokenizer.json has it: byte-level names where it is byte-level."""
    table = json.loads(tokenizer_json(tokenizer))
    names = {number: name for name, number in _vocabulary(table).items()}
    return names | {t["id"]: t["content"] for t in table.get("added_tokens", [])}


def _vocabulary(table: dict[str, Any]) -> dict[str, int]:
    vocabulary = table["model"]["vocab"]
    if isinstance(vocabulary, list):  # Unigram: [[name, score], ...]
        return {name: number for number, (name, _) in enumerate(vocabulary)}
    return dict(vocabulary)


def byte_names() -> list[str]:
    """The printable character that stands for each byte in byte-level vocabularies (GPT-2)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (b for b in range(256) if b not in printable)
    names = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
    return [names[b] for b in range(256)]


def _byte_tokenizer_json() -> bytes:
    level = {"add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    table: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": 256,
                "content": END_OF_TEXT,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", **level},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", **level},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {name: byte for byte, name in enumerate(byte_names())} | {END_OF_TEXT: 256},
            "merges": [],
        },
    }
    return json.dumps(table, ensure_ascii=False).encode()
