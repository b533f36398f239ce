"""Claims about special tokens: no text writes one, whatever the family of the tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from farflung.data.corpus import shipped_bpe
from farflung.data.tokenizer import Tokenizer as Ours
from farflung.data.tokenizer import load_tokenizer, tokenizer_from_bytes
from farflung.errors import ConfigError

CORPUS = ["alpha beta gamma delta epsilon zeta < / s > [ ] | e n d o f t x S E P"] * 50
SPECIAL = ["<unk>", "</s>", "<pad>", "[SEP]", "<|endoftext|>"]


def unigram() -> Any:
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=60, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator(CORPUS, trainer)
    return made


def word_level() -> Any:
    made = Tokenizer(models.WordLevel(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordLevelTrainer(special_tokens=SPECIAL, show_progress=False)
    made.train_from_iterator(CORPUS, trainer)
    return made


def word_level_that_rewrites() -> Any:
    """Its normalizer writes the end token's name where the text has another one."""
    made = word_level()
    made.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace("STOP", "</s>")]
    )
    return made


def word_piece() -> Any:
    made = Tokenizer(models.WordPiece(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=SPECIAL, show_progress=False)
    made.train_from_iterator(CORPUS, trainer)
    return made


def byte_level(added: Any = None, before: Any = None, **model: Any) -> Any:
    made = Tokenizer(models.BPE(**model))
    made.decoder = decoders.ByteLevel()
    made.pre_tokenizer = before or pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=alphabet,
        show_progress=False,
        special_tokens=[] if added else ["<|endoftext|>"],
    )
    made.train_from_iterator(CORPUS, trainer)
    if added:
        made.add_tokens(added)
    return made


def plain_bpe() -> Any:
    """No pre-tokenizer: the whole text is one word, and a word of the vocabulary is one token."""
    made = Tokenizer(models.BPE(unk_token="<unk>", ignore_merges=True))
    trainer = trainers.BpeTrainer(vocab_size=80, special_tokens=SPECIAL, show_progress=False)
    made.train_from_iterator(CORPUS, trainer)
    return made


FAMILIES: dict[str, Any] = {
    "unigram": unigram(),
    "word level": word_level(),
    "word level with a normalizer": word_level_that_rewrites(),
    "word piece": word_piece(),
    "byte-level, special": byte_level(),
    "byte-level, added as a plain token": byte_level(["<|endoftext|>"]),
    "byte-level, added, takes blanks": byte_level(
        [AddedToken("<|endoftext|>", lstrip=True, rstrip=True), "gamma"]
    ),
    "byte-level, another pattern": byte_level(
        ["</s>"], pre_tokenizers.ByteLevel(add_prefix_space=True)
    ),
    "bpe of characters": plain_bpe(),
}
OURS: dict[str, Ours] = {
    name: tokenizer_from_bytes(made.to_str().encode(), name) for name, made in FAMILIES.items()
}
TEXTS = st.lists(
    st.sampled_from([*SPECIAL, "STOP", "＜/s＞", " ", "alpha", "\n", "<", "/s>", "é", "</s></s>"]),
    max_size=12,
).map("".join)


def forged(name: str, ids: list[int]) -> list[int]:
    """Ids that only farflung may write."""
    made, ours = FAMILIES[name], OURS[name]
    special = {i for i, t in made.get_added_tokens_decoder().items() if t.special}
    unknown = made.token_to_id("<unk>")
    return [i for i in ids if i == ours.eos or (i in special and i != unknown)]


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=150, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=3))
def test_no_text_writes_a_special_token(name: str, texts: list[str]) -> None:
    ours = OURS[name]
    for text, (ids, n_bytes) in zip(texts, ours.encode_counted(texts), strict=True):
        assert forged(name, ids.tolist()) == []
        assert ids.tolist() == ours.encode(text)
        assert len(ids) == len(n_bytes)
        assert not len(ids) or n_bytes.sum() == len(text.encode())


@pytest.mark.parametrize("name", FAMILIES)
def test_the_engines_themselves_would_write_one(name: str) -> None:
    """The claim above says something of each family but the ones that are safe by themselves."""
    made, ours = FAMILIES[name], OURS[name]
    made.encode_special_tokens = True
    texts = ["alpha </s> beta", "</s>", "<|endoftext|>", "a <|endoftext|> b", "[SEP] x", "STOP"]
    written = {i for t in texts for i in made.encode(t, add_special_tokens=False).ids}
    safe = {"byte-level, special"}
    assert (ours.eos in written) == (name not in safe)


LOSSLESS = ["byte-level, special", "byte-level, added as a plain token"]
LOSSLESS += ["byte-level, added, takes blanks"]
"""A pre-tokenizer that puts a blank before a text puts one at each cut inside of a forged name."""


@pytest.mark.parametrize("name", LOSSLESS)
def test_a_forger_changes_nothing_of_the_text(name: str) -> None:
    for text in ("a<|endoftext|>b </s>", "<|endoftext|>" * 300, "x" * 1000 + "<|endoftext|>"):
        assert OURS[name].decode(OURS[name].encode(text)) == text


def test_special_tokens_are_not_decoded() -> None:
    for name, ours in OURS.items():
        assert ours.decode([ours.eos, ours.eos]).strip() == "", name


def test_an_end_token_may_be_named() -> None:
    content = FAMILIES["word piece"].to_str().encode()
    made = FAMILIES["word piece"]
    for token in ("[SEP]", "<pad>", "</s>"):
        ours = tokenizer_from_bytes(content, eos=token)
        assert ours.eos == made.token_to_id(token)
        assert ours.eos not in ours.encode(f"alpha {token} beta")
        assert tokenizer_from_bytes(content, eos=ours.eos).eos == ours.eos


@pytest.mark.parametrize(
    ("content", "eos", "rule"),
    [
        (FAMILIES["unigram"].to_str().encode(), "<stop>", "has no token '<stop>'"),
        (FAMILIES["unigram"].to_str().encode(), 4000, "has no token number 4000"),
        (FAMILIES["bpe of characters"].to_str().encode(), "a", "a single character"),
        (shipped_bpe(), "q", "a single character"),
    ],
)
def test_an_end_token_that_cannot_be_one_is_refused(
    content: bytes, eos: str | int, rule: str
) -> None:
    with pytest.raises(ConfigError, match=rule):
        tokenizer_from_bytes(content, eos=eos)


def test_shipped_tokenizers_have_their_own_end(tmp_path: Path) -> None:
    for name in ("bytes", "bpe-1024"):
        with pytest.raises(ConfigError, match="own end of text"):
            load_tokenizer(name, "</s>")
    (tmp_path / "t.json").write_bytes(b"")
    with pytest.raises(ConfigError, match="is empty"):
        load_tokenizer(str(tmp_path / "t.json"))
