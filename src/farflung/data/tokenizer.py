"""Text to token ids and back, with the exact number of UTF-8 bytes behind every token.

Bits per byte compares models whose tokenizers differ, so bytes are counted, never estimated.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from farflung.data.corpus import shipped_bpe
from farflung.errors import ConfigError

Tokens = npt.NDArray[np.int64]


class Encoded(NamedTuple):
    ids: Tokens
    """int64 [n]"""
    n_bytes: Tokens
    """int64 [n]: UTF-8 bytes of the text behind each token; they sum to the text's."""


class Tokenizer(Protocol):
    """`vocab_size` is the largest id + 1; `eos` ends every document."""

    vocab_size: int
    eos: int

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; names of special tokens inside it are plain text too."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out, broken UTF-8 replaced."""

    def encode_counted(self, texts: Sequence[str]) -> list[Encoded]:
        """Ids with their bytes, for each text."""

    def json(self) -> bytes:
        """What `tokenizer_from_bytes` rebuilds it from; empty for bytes."""


class ByteTokenizer:
    """Ids 0..255 are bytes, 256 ends a document."""

    vocab_size = 257
    eos = 256

    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8"))

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(i for i in ids if i < 256).decode("utf-8", errors="replace")

    def encode_counted(self, texts: Sequence[str]) -> list[Encoded]:
        rows = [np.frombuffer(t.encode("utf-8"), np.uint8).astype(np.int64) for t in texts]
        return [Encoded(ids, np.ones_like(ids)) for ids in rows]

    def json(self) -> bytes:
        return b""


def load_tokenizer(name: str, eos: str | None = None) -> Tokenizer:
    """`bytes`, `bpe-1024`, or the path of a tokenizer.json, whose token `eos` ends a document.

    Without `eos` it is the first of END_NAMES that the file has. Raises ConfigError.
    """
    if name in ("bytes", "bpe-1024") and eos is not None:
        raise ConfigError(f"--eos {eos!r} is for a tokenizer.json; {name} has its own end of text")
    if name == "bytes":
        return ByteTokenizer()
    if name == "bpe-1024":
        return _from_json(shipped_bpe(), name)
    try:
        content = Path(name).expanduser().read_bytes()
    except OSError as error:
        raise ConfigError(
            f"cannot read the tokenizer {name!r}: {error.strerror}; "
            f"give `bytes`, `bpe-1024` or the path of a tokenizer.json"
        ) from None
    if not content:
        raise ConfigError(f"{name} is empty; give the path of a tokenizer.json")
    return tokenizer_from_bytes(content, name, eos)


def tokenizer_from_bytes(
    content: bytes, name: str = "tokenizer.json", eos: str | int | None = None
) -> Tokenizer:
    """The tokenizer whose `json()` is `content`; `eos` by name or by id (a manifest has the id).

    Raises ConfigError.
    """
    return _from_json(content, name, eos) if content else ByteTokenizer()


def _from_json(content: bytes, name: str, eos: str | int | None = None) -> Tokenizer:
    from farflung.data.json_tokenizer import JsonTokenizer  # `tokenizers` is slow to import

    return JsonTokenizer(content, name, eos)
