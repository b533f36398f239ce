"""Claims about the fast way through a byte-level BPE: its tokens are the engine's."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from farflung.data import units
from farflung.data.corpus import shipped_bpe
from farflung.data.units import LATER_PATTERNS, UnitCache, cuts_of

NASTY = [
    *("  ", "\n\n", "\r\n", "\r", "\t", "\x0b", "\x1c", "\x85", "\u00a0", "\u2003", "\u2028"),
    *("'s", "'LL", "'", "’", "—", "...", "//", "/", "_", "-", "<|", "|>", "#", ",", ". "),
    *("é", "e\u0301", "\u0301", "ж", "слово", "中文", "，", "。", "한", "\u1100\u1161", "ǅ", "ª"),
    *(
        "²",
        "½",
        "Ⅷ",
        "7",
        "42",
        "1990",
        "🦉",
        "\u200b",
        "\ufeff",
        "the",
        " and",
        "X",
        "foo",
        "Foo",
        " Bar",
        "ABCd",
        " iPhone",
    ),
]
TRAINED_ON = [f"{a}{b} {c}" for a in NASTY for b in NASTY for c in NASTY[::3]]
TEXTS = st.lists(st.sampled_from([*NASTY, " ", "\n", "a"]), max_size=40).map("".join)


def engine(before: Any, normalizer: Any = None) -> Any:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = before
    if normalizer is not None:
        made.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TRAINED_ON,
        trainers.BpeTrainer(vocab_size=1200, initial_alphabet=alphabet, show_progress=False),
    )
    return made


def byte_level(use_regex: bool) -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


def split_first(pattern: str) -> Any:
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level(False)]
    )


ENGINES = {
    "GPT-2": engine(byte_level(True)),
    "GPT-2 and NFC": engine(byte_level(True), normalizers.NFC()),
    "digits apart": engine(
        pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level(True)])
    ),
    **{name: engine(split_first(pattern)) for name, pattern in LATER_PATTERNS.items()},
}


@pytest.mark.parametrize("name", ENGINES)
@settings(max_examples=400, deadline=None)
@given(texts=st.lists(TEXTS | st.text(max_size=20), min_size=1, max_size=5))
def test_units_give_the_tokens_of_the_whole(name: str, texts: list[str]) -> None:
    made = ENGINES[name]
    cuts = cuts_of(msgspec.json.decode(made.to_str()))
    assert cuts is not None
    cache = UnitCache(made, cuts, None, 1200)
    for text in [*texts, *texts]:  # the second time from the cache
        ids = cache.encode(text)
        assert ids is not None
        assert ids.tolist() == made.encode(text).ids


def test_the_cache_starts_afresh_when_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "KNOWN_UNITS", 3)
    made = ENGINES["GPT-2"]
    cuts = cuts_of(msgspec.json.decode(made.to_str()))
    assert cuts is not None
    cache = UnitCache(made, cuts, None, 1200)
    for text in ["one two three four five", "x" * 500, "six seven", "one two"]:
        ids = cache.encode(text)
        assert ids is not None
        assert ids.tolist() == made.encode(text).ids


def _changed(**parts: Any) -> dict[str, Any]:
    return {**msgspec.json.decode(shipped_bpe()), **parts}


def _byte_level(**settings_: Any) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True, **settings_}


@pytest.mark.parametrize(
    "parts",
    [
        _changed(model={"type": "Unigram"}),
        _changed(model={"type": "BPE", "dropout": 0.1}),
        _changed(normalizer={"type": "NFKC"}),
        _changed(normalizer={"type": "Sequence", "normalizers": []}),
        _changed(pre_tokenizer=None),
        _changed(pre_tokenizer={"type": "Metaspace"}),
        _changed(pre_tokenizer=_byte_level(add_prefix_space=True)),
        _changed(pre_tokenizer=_byte_level(use_regex=False)),
        _changed(
            pre_tokenizer={
                "type": "Sequence",
                "pretokenizers": [
                    {
                        "type": "Split",
                        "pattern": {"Regex": "foreign"},
                        "behavior": "Isolated",
                        "invert": False,
                    },
                    _byte_level(use_regex=False),
                ],
            }
        ),
    ],
)
def test_no_claim_is_made_for_another_tokenizer(parts: dict[str, Any]) -> None:
    assert cuts_of(_changed()) is not None
    assert cuts_of(parts) is None
