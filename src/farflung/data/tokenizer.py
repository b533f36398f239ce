"""Text to token ids and back, with the exact number of UTF-8 bytes behind every token.

Bits per byte compares models whose tokenizers differ, so bytes are counted, never estimated.
`tokenizers` is imported on first use: reading shards needs none of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from farflung.data.corpus import shipped_bpe
from farflung.errors import ConfigError

END_OF_TEXT = "<|endoftext|>"
END_NAMES = (
    END_OF_TEXT,
    "<|end_of_text|>",
    "<|im_end|>",
    "</s>",
    "<eos>",
    "<|eot_id|>",
    "[SEP]",
)
"""Names under which a foreign tokenizer.json may keep its end-of-text token; first found wins."""

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


class JsonTokenizer:
    """Any Hugging Face tokenizer.json. Raises ConfigError when it is none or has no end token."""

    def __init__(self, content: bytes, name: str) -> None:
        self._content = content
        self._engine = _engine(content, name)
        vocabulary = self._engine.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocabulary.values(), default=-1) + 1
        found = [vocabulary[n] for n in END_NAMES if n in vocabulary]
        if not found:
            raise ConfigError(
                f"the tokenizer {name} has no end-of-text token; add one of {', '.join(END_NAMES)}"
            )
        self.eos = found[0]
        self._lengths = _byte_level_lengths(content, vocabulary, self.vocab_size)

    def encode(self, text: str) -> list[int]:
        return list(self._engine.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._engine.decode(list(ids), skip_special_tokens=True))

    def encode_counted(self, texts: Sequence[str]) -> list[Encoded]:
        encodings = self._engine.encode_batch(list(texts), add_special_tokens=False)
        return [self._counted(t, e) for t, e in zip(texts, encodings, strict=True)]

    def json(self) -> bytes:
        return self._content

    def _counted(self, text: str, encoding: Any) -> Encoded:
        ids = np.array(encoding.ids, np.int64)
        if self._lengths is not None:
            n_bytes = self._lengths[ids]
            if int(n_bytes.sum()) == len(text.encode("utf-8")):
                return Encoded(ids, n_bytes)
        return Encoded(ids, _bytes_by_offsets(text, encoding.offsets))


def load_tokenizer(name: str) -> Tokenizer:
    """`bytes`, `bpe-1024`, or the path of a tokenizer.json. Raises ConfigError."""
    if name == "bytes":
        return ByteTokenizer()
    if name == "bpe-1024":
        return JsonTokenizer(shipped_bpe(), name)
    try:
        content = Path(name).expanduser().read_bytes()
    except OSError as error:
        raise ConfigError(
            f"cannot read the tokenizer {name!r}: {error.strerror}; "
            f"give `bytes`, `bpe-1024` or the path of a tokenizer.json"
        ) from None
    return tokenizer_from_bytes(content, name)


def tokenizer_from_bytes(content: bytes, name: str = "tokenizer.json") -> Tokenizer:
    """The tokenizer whose `json()` is `content`. Raises ConfigError."""
    return JsonTokenizer(content, name) if content else ByteTokenizer()


def _engine(content: bytes, name: str) -> Any:
    """A `tokenizers.Tokenizer` (the library carries no types)."""
    from tokenizers import Tokenizer as Engine  # type: ignore[import-untyped]

    try:
        engine = Engine.from_str(content.decode("utf-8"))
    except Exception as error:  # the library raises bare Exception for any malformed content
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"{name} is not a valid tokenizer.json: {reason}") from None
    engine.no_truncation()
    engine.no_padding()
    engine.encode_special_tokens = True  # a text must not be able to forge an end of document
    return engine


def _byte_level_lengths(content: bytes, vocabulary: dict[str, int], size: int) -> Tokens | None:
    """Bytes of every id of a byte-level vocabulary (one character of a name is one byte).

    None when the file does not say that its pre-tokenizer is byte-level.
    """
    parts: dict[str, Any] = msgspec.json.decode(content)
    stages = parts.get("pre_tokenizer") or {}
    kinds = {s.get("type") for s in [stages, *stages.get("pretokenizers", [])]}
    if "ByteLevel" not in kinds:
        return None
    lengths = np.zeros(size, np.int64)
    for token, number in vocabulary.items():
        lengths[number] = len(token)
    return lengths


def _bytes_by_offsets(text: str, offsets: Sequence[tuple[int, int]]) -> Tokens:
    """Bytes per token from character offsets; skipped characters belong to the next token.

    A character that several tokens share belongs to the first. The sum is exact.
    """
    widths = np.array([len(c.encode("utf-8")) for c in text], np.int64)
    before = np.concatenate([[0], np.cumsum(widths)])
    ends = np.array([end for _, end in offsets], np.int64)
    if not len(ends):
        return ends
    ends[-1] = len(text)
    covered = before[np.maximum.accumulate(ends)]
    return np.diff(covered, prepend=0).astype(np.int64)
