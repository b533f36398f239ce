"""Any Hugging Face tokenizer.json, guarded: no text can make it write a special token.

Families differ in how a text could forge one: a BPE may have it as an added token, a Unigram, a
WordLevel or a WordPiece model has it as a piece like any other, and a normalizer may write its
name. So what comes out is judged, not what went in: where a special token appears, the text is
cut inside of that token's characters and encoded again, until none appears.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
from tokenizers import Tokenizer as Engine  # type: ignore[import-untyped]

from farflung.data.tokenizer import Encoded, Tokens
from farflung.data.units import UnitCache, cuts_of
from farflung.errors import ConfigError

END_NAMES = (
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|im_end|>",
    "</s>",
    "<eos>",
    "<|eot_id|>",
    "[SEP]",
)
"""Names under which a foreign tokenizer.json may keep its end-of-text token; first found wins.
Without any, the only special token ends a document."""


class JsonTokenizer:
    """Raises ConfigError when the content is no tokenizer.json or has no usable end token."""

    def __init__(self, content: bytes, name: str, eos: str | int | None = None) -> None:
        self._content = content
        self._engine = _engine(content, name)
        vocabulary: dict[str, int] = self._engine.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocabulary.values(), default=-1) + 1
        parts: dict[str, Any] = msgspec.json.decode(content)
        self._unknown = _unknown_id(parts.get("model") or {}, vocabulary)
        special = {t["id"] for t in parts.get("added_tokens") or [] if t.get("special")}
        special.discard(self._unknown)
        self.eos = _find_end(vocabulary, special, eos, name)
        self._special = np.zeros(self.vocab_size, np.bool_)
        self._special[[*special, self.eos]] = True
        self._lengths = _byte_level_lengths(parts, vocabulary, self.vocab_size)
        self._units = self._unit_cache(parts)
        self._check_end(name)

    def encode(self, text: str) -> list[int]:
        return [int(i) for i in self.encode_counted([text])[0].ids]

    def decode(self, ids: Sequence[int]) -> str:
        plain = [i for i in ids if not (0 <= i < self.vocab_size and self._special[i])]
        return str(self._engine.decode(plain, skip_special_tokens=True))

    def encode_counted(self, texts: Sequence[str]) -> list[Encoded]:
        found = [self._by_units(t) for t in texts]
        slow = [i for i, f in enumerate(found) if f is None]
        encodings = self._encodings([texts[i] for i in slow])
        for i, encoding in zip(slow, encodings, strict=True):
            found[i] = self._counted(texts[i], encoding)
        return [f for f in found if f is not None]

    def json(self) -> bytes:
        return self._content

    def _by_units(self, text: str) -> Encoded | None:
        """The fast way; None when the engine itself must look at the text."""
        ids = None if self._units is None else self._units.encode(text)
        if ids is None or self._lengths is None or self._special[ids].any():
            return None
        n_bytes = self._lengths[ids]
        return Encoded(ids, n_bytes) if int(n_bytes.sum()) == _utf8_bytes(text) else None

    def _encodings(self, texts: list[str]) -> list[Any]:
        return list(self._engine.encode_batch(texts, add_special_tokens=False))

    def _counted(self, text: str, encoding: Any) -> Encoded:
        ids = np.array(encoding.ids, np.int64)
        forged = np.flatnonzero(self._special[ids])
        if len(forged):
            return self._without(text, ids, encoding.offsets, forged)
        if self._lengths is not None:
            n_bytes = self._lengths[ids]
            if int(n_bytes.sum()) == _utf8_bytes(text):
                return Encoded(ids, n_bytes)
        return Encoded(ids, _bytes_by_offsets(text, encoding.offsets))

    def _without(
        self, text: str, ids: Tokens, offsets: Sequence[tuple[int, int]], forged: Tokens
    ) -> Encoded:
        """Encode again, cut inside of every forged token: the spans get shorter each time."""
        spans = [offsets[i] for i in forged]
        cuts = sorted({(a + b) // 2 for a, b in spans if b - a > 1})
        if not cuts:  # single characters that the model writes as a special token
            return self._replaced(text, ids, offsets)
        parts = [text[a:b] for a, b in pairwise([0, *cuts, len(text)])]
        again = [self._counted(t, e) for t, e in zip(parts, self._encodings(parts), strict=True)]
        return Encoded(
            np.concatenate([e.ids for e in again]), np.concatenate([e.n_bytes for e in again])
        )

    def _replaced(self, text: str, ids: Tokens, offsets: Sequence[tuple[int, int]]) -> Encoded:
        """The unknown token instead, or nothing; bytes of what goes belong to the next token."""
        forged = self._special[ids]
        if self._unknown is not None:
            n_bytes = _bytes_by_offsets(text, offsets)
            return Encoded(np.where(forged, self._unknown, ids).astype(np.int64), n_bytes)
        kept = [o for o, bad in zip(offsets, forged, strict=True) if not bad]
        return Encoded(ids[~forged], _bytes_by_offsets(text, kept))

    def _unit_cache(self, parts: dict[str, Any]) -> UnitCache | None:
        cuts = cuts_of(parts)
        if cuts is None:
            return None
        added = [t["content"] for t in parts.get("added_tokens") or [] if not t.get("special")]
        spans_units = re.compile("|".join(map(re.escape, added))) if added else None
        return UnitCache(self._engine, cuts, spans_units, self.vocab_size)

    def _check_end(self, name: str) -> None:
        token = str(self._engine.id_to_token(self.eos))
        if len(token) == 1:
            raise ConfigError(
                f"the end token {token!r} of {name} is a single character, which any text may "
                f"hold; name another one with --eos"
            )


def _engine(content: bytes, name: str) -> Any:
    """A `tokenizers.Tokenizer` (the library carries no types)."""
    try:
        engine = Engine.from_str(content.decode("utf-8"))
    except Exception as error:  # the library raises bare Exception for any malformed content
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"{name} is not a valid tokenizer.json: {reason}") from None
    engine.no_truncation()
    engine.no_padding()
    engine.encode_special_tokens = True  # their names in a text are plain text
    return engine


def _find_end(
    vocabulary: dict[str, int], special: set[int], eos: str | int | None, name: str
) -> int:
    if isinstance(eos, int):
        if eos not in vocabulary.values():
            raise ConfigError(f"{name} has no token number {eos}, which should end a document")
        return eos
    names = END_NAMES if eos is None else (eos,)
    found = [vocabulary[n] for n in names if n in vocabulary]
    if found:
        return found[0]
    if eos is not None:
        raise ConfigError(
            f"{name} has no token {eos!r}; --eos must name one of its own, for example one that "
            f"is listed under added_tokens"
        )
    if len(special) == 1:
        return next(iter(special))
    raise ConfigError(
        f"the tokenizer {name} has no end-of-text token of the names {', '.join(END_NAMES)}; "
        f"name the one that it has with --eos TOKEN"
    )


def _unknown_id(model: dict[str, Any], vocabulary: dict[str, int]) -> int | None:
    """What the model writes for text that it does not know."""
    if isinstance(model.get("unk_id"), int):
        return int(model["unk_id"])
    return vocabulary.get(model.get("unk_token") or "")


def _byte_level_lengths(
    parts: dict[str, Any], vocabulary: dict[str, int], size: int
) -> Tokens | None:
    """Bytes of every id of a byte-level vocabulary (one character of a name is one byte).

    None when the file does not say that its pre-tokenizer is byte-level.
    """
    stages = parts.get("pre_tokenizer") or {}
    kinds = {s.get("type") for s in [stages, *stages.get("pretokenizers", [])]}
    if "ByteLevel" not in kinds:
        return None
    lengths = np.zeros(size, np.int64)
    for token, number in vocabulary.items():
        lengths[number] = len(token)
    return lengths


def _utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8"))


def _bytes_by_offsets(text: str, offsets: Sequence[tuple[int, int]]) -> Tokens:
    """Bytes per token from character offsets; skipped characters belong to the next token.

    A character that several tokens share belongs to the first. The sum is exact.
    """
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    widths = 1 + (points > 0x7F).astype(np.int64) + (points > 0x7FF) + (points > 0xFFFF)
    before = np.concatenate([[0], np.cumsum(widths)])
    ends = np.array([end for _, end in offsets], np.int64)
    if not len(ends):
        return ends
    ends[-1] = len(text)
    covered = before[np.maximum.accumulate(ends)]
    return np.diff(covered, prepend=0).astype(np.int64)
