"""A fast way through a byte-level BPE: units of text that recur, each encoded once.

The pre-tokenizer of a byte-level BPE cuts a text into words before any merge is made. Between some
characters it cuts whatever stands around them: a letter never shares a word with the space after
it. So a text may be cut there first, its units encoded apart and looked up the next time; the
tokens are the same (tests/unit/data/test_data_units.py compares them with the engine's).

The claim is made for the patterns below only. With a letter or digit X, a mark P (ASCII, neither
letter, digit nor space) and any non-space S, each of them has these places of a cut, whatever
comes before: X|space, X|P, P|space, X|newline; and the patterns look at nothing behind them. What
a pattern says of line breaks after P differs: GPT-2's has P|newline, later ones take line breaks
into the word of P.
"""

from __future__ import annotations

import re
from array import array
from typing import Any

import numpy as np

from farflung.data.tokenizer import Tokens

_X = (
    "0-9A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0391-\u03a1\u03a3-\u03c9\u0400-\u0481"
    "\u048a-\u052f\u05d0-\u05ea\u0621-\u063a\u0641-\u064a\u3041-\u3096\u30a1-\u30fa"
    "\u4e00-\u9fa5\uac00-\ud7a3"
)
"""Letters and digits of every Unicode version that an engine may know."""
_P = r"!-/:-@\[-`{-~"
_AFTER_X = r"\x00-&(-/:-@\[-`{-\x7f\u2010-\u2027\u3001-\u3003\uff0c"
"""What ends a word of letters: all ASCII but letters, digits and the apostrophe (`don't` is one
word to some patterns), and dashes, quotation marks and stops."""
_REST = rf".+?(?:(?<=[{_X}])(?=[{_AFTER_X}])|(?<=[!-~])(?= )|\Z)"


_WORDS = rf" ?[{_X}]++(?=[{_AFTER_X}]|\Z)"
_GPT2_CUTS = re.compile(rf"{_WORDS}| ?[{_P}]++(?=[ \n]|\Z)|\n(?=[!-~])|{_REST}", re.DOTALL)
_LATER_CUTS = re.compile(
    rf"{_WORDS}| ?[{_P}]++(?= |\Z)| ?[{_P}]++\n(?=[!-.0-~])|\n(?=[!-.0-~])|{_REST}", re.DOTALL
)

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}"
_LOWER = r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
LATER_PATTERNS = {
    "Llama 3": rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}"
    rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*{_SPACES}",
    "Qwen 2": rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*{_SPACES}",
    "o200k": rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]*[{_LOWER}]+{_CONTRACTIONS}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]+[{_LOWER}]*{_CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*{_SPACES}",
}
"""Patterns of tokenizer.json files, with one of the models that use them."""

KNOWN_UNITS = 400_000
"""Then the cache starts afresh: about 100 MB."""
_ONE_WORD = re.compile(" ?[A-Z]?[a-z]+")
"""To each of the patterns one word: its model can be asked at once, in half of the time."""
LONGEST_KNOWN = 64
"""Characters of a unit that is worth keeping."""


def cuts_of(parts: dict[str, Any]) -> re.Pattern[str] | None:
    """The pattern of the units of a tokenizer.json; None when no claim is made for it."""
    model, normalizer = parts.get("model") or {}, parts.get("normalizer") or {}
    plain = model.get("type") == "BPE" and not model.get("dropout")
    # NFC composes no letter with what follows a cut: ASCII, a dash or a quotation mark.
    if not plain or normalizer.get("type", "NFC") != "NFC":
        return None
    before = parts.get("pre_tokenizer") or {}
    stages = before.get("pretokenizers", [before])
    if not stages or stages[-1].get("type") != "ByteLevel" or stages[-1]["add_prefix_space"]:
        return None
    if stages[-1].get("use_regex", True):
        return _GPT2_CUTS if all(s["type"] == "Digits" for s in stages[:-1]) else None
    if len(stages) != 2 or stages[0].get("type") != "Split":
        return None
    pattern = (stages[0].get("pattern") or {}).get("Regex")
    isolated = stages[0].get("behavior") == "Isolated" and not stages[0].get("invert")
    return _LATER_CUTS if isolated and pattern in LATER_PATTERNS.values() else None


class UnitCache:
    """Encodes texts by their units, each with a real engine once.

    `spans_units` finds what may be one token across a cut: texts that have it are left out.
    """

    def __init__(
        self,
        engine: Any,
        cuts: re.Pattern[str],
        spans_units: re.Pattern[str] | None,
        vocab_size: int,
    ) -> None:
        self._cuts = cuts
        self._spans_units = spans_units
        self._dtype = np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)
        self._known = _KnownUnits(engine, self._dtype)

    def encode(self, text: str) -> Tokens | None:
        """int64 ids; None when the engine must encode the text as a whole."""
        if self._spans_units is not None and self._spans_units.search(text):
            return None
        joined = b"".join(map(self._known.__getitem__, self._cuts.findall(text)))
        if len(self._known) > KNOWN_UNITS:
            self._known.clear()
        return np.frombuffer(joined, self._dtype).astype(np.int64)


class _KnownUnits(dict[str, bytes]):
    """The ids of a unit as raw integers. A lookup that finds nothing asks the engine."""

    def __init__(self, engine: Any, dtype: np.dtype[Any]) -> None:
        super().__init__()
        self._engine = engine
        self._model = engine.model
        self._code = {2: "H", 4: "I"}[dtype.itemsize]

    def __missing__(self, unit: str) -> bytes:
        if _ONE_WORD.fullmatch(unit):
            tokens = self._model.tokenize(unit.replace(" ", "Ġ"))  # a blank's byte, by name
            ids = array(self._code, [t.id for t in tokens]).tobytes()
        else:
            encoding = self._engine.encode_batch_fast([unit], add_special_tokens=False)[0]
            ids = array(self._code, encoding.ids).tobytes()
        if len(unit) <= LONGEST_KNOWN:
            self[unit] = ids
        return ids
