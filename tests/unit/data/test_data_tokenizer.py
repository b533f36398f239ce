"""Claims about the shipped corpus, the tokenizers and their byte counts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Engine
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from farflung.data.corpus import documents
from farflung.data.split import BLOCK_CHARS, Document, split
from farflung.data.tokenizer import ByteTokenizer, load_tokenizer, tokenizer_from_bytes
from farflung.errors import ConfigError

TEXTS = st.text(max_size=200)
BPE = load_tokenizer("bpe-1024")


def _foreign(end: str = "</s>") -> bytes:
    """A word-level tokenizer as others make them: lower-casing, whitespace dropped, BOS added."""
    engine = Engine(models.WordLevel(unk_token="<unk>"))
    engine.normalizer = normalizers.Lowercase()
    engine.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(special_tokens=["<unk>", end], show_progress=False)
    engine.train_from_iterator(["to be or not to be", "that is the question"], trainer)
    engine.post_processor = processors.TemplateProcessing(
        single=f"{end} $A", special_tokens=[(end, 1)]
    )
    engine.enable_truncation(4)
    return engine.to_str().encode()


def test_corpus_is_47_works_without_distributors_text() -> None:
    works = documents()
    assert len(works) == len({w.name for w in works}) == 47
    assert sum(len(w.text.encode()) for w in works) == 6_076_973
    for work in works:
        assert not re.search(r"gutenberg|\betexts?\b|ebook|http|@", work.text.lower())
        assert "transcriber" not in work.text.lower()
        assert work.text.endswith("\n")
        assert "\r" not in work.text


def test_shipped_tokenizer_has_1024_tokens_and_one_special() -> None:
    assert BPE.vocab_size == 1024
    assert BPE.decode([BPE.eos]) == ""
    assert BPE.eos == 0


@settings(max_examples=50, deadline=None)
@given(text=TEXTS)
def test_shipped_tokenizers_are_lossless(text: str) -> None:
    for tokenizer in (ByteTokenizer(), BPE):
        assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=50, deadline=None)
@given(text=TEXTS)
def test_byte_counts_sum_to_the_text(text: str) -> None:
    size = len(text.encode("utf-8"))
    for tokenizer in (ByteTokenizer(), BPE, tokenizer_from_bytes(_foreign())):
        ids, n_bytes = tokenizer.encode_counted([text])[0]
        assert ids.tolist() == tokenizer.encode(text)
        assert len(n_bytes) == len(ids)
        if len(ids):
            assert n_bytes.sum() == size
            assert n_bytes.min() >= 0


def test_byte_level_tokens_know_their_own_bytes() -> None:
    text = "Enter the ghost — naïve 🦉\n"
    ids, n_bytes = BPE.encode_counted([text])[0]
    encoded = text.encode()
    position = 0
    for token, size in zip(ids.tolist(), n_bytes.tolist(), strict=True):
        piece = BPE.decode([token]).encode()
        if "�" not in piece.decode():
            assert encoded[position : position + size] == piece
        position += size
    assert position == len(encoded)


def test_a_text_cannot_forge_the_end_of_a_document() -> None:
    text = "a<|endoftext|>b"
    assert BPE.eos not in BPE.encode(text)
    assert BPE.decode(BPE.encode(text)) == text


def test_foreign_tokenizers_work_without_their_extras(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(_foreign())
    tokenizer = load_tokenizer(str(path))
    ids = tokenizer.encode("To be or not  to be")
    assert len(ids) == 6  # neither truncated to 4 nor with a begin token
    assert tokenizer.eos not in ids
    _, n_bytes = tokenizer.encode_counted(["To be or not  to be "])[0]
    assert n_bytes.tolist() == [2, 3, 3, 4, 4, 4]  # skipped blanks belong to the next token
    assert tokenizer.json() == _foreign()


def test_the_content_rebuilds_the_tokenizer() -> None:
    assert isinstance(tokenizer_from_bytes(ByteTokenizer().json()), ByteTokenizer)
    again = tokenizer_from_bytes(BPE.json())
    assert again.encode("To be, or not to be") == BPE.encode("To be, or not to be")


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"\xff\xfe", "not a valid tokenizer.json"),
        (b"{}", "not a valid tokenizer.json"),
        (_foreign(end="[stop]").replace(b":true", b":false"), "no end-of-text token"),
    ],
)
def test_unreadable_tokenizers_are_one_sentence(content: bytes, rule: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rule) as error:
        load_tokenizer(str(path))
    assert "\n" not in str(error.value)


def test_a_missing_tokenizer_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the tokenizer"):
        load_tokenizer(str(tmp_path / "none.json"))
    with pytest.raises(ConfigError, match="cannot read the tokenizer"):
        load_tokenizer(str(tmp_path))


@settings(max_examples=50, deadline=None)
@given(
    texts=st.lists(st.text(alphabet="ab \n", max_size=3000), max_size=8),
    fraction=st.sampled_from([0.0, 0.02, 0.1, 0.5]),
)
def test_pieces_join_to_the_input(texts: list[str], fraction: float) -> None:
    pieces = list(split([Document("d", t) for t in texts], fraction))
    assert "".join(p.text for p in pieces) == "".join(texts)
    assert all(p.text for p in pieces)
    assert fraction or not any(p.held_out for p in pieces)


def test_held_out_text_is_spread_through_the_corpus() -> None:
    pieces = list(split(documents(), 0.02))
    total = sum(len(p.text) for p in pieces)
    position, middles, held = 0, [], 0
    for piece in pieces:
        if piece.held_out:
            middles.append(position + len(piece.text) // 2)
            held += len(piece.text)
            assert len(piece.text) < BLOCK_CHARS + 600
        position += len(piece.text)
    assert abs(held / total - 0.02) < 0.001
    assert {m * 10 // total for m in middles} == set(range(10))


def test_held_out_blocks_begin_and_end_at_line_breaks() -> None:
    before = "\n"
    for piece in split(documents(), 0.02):
        if piece.held_out:
            assert before.endswith("\n")
            assert piece.text.endswith("\n")
        before = piece.text


def test_short_inputs_hold_out_their_share() -> None:
    text = "".join(f"line {i}\n" for i in range(1000))
    pieces = list(split([Document("d", text)], 0.1))
    held = sum(len(p.text) for p in pieces if p.held_out)
    assert abs(held / len(text) - 0.1) < 0.01


def test_many_tiny_documents_are_split_in_blocks() -> None:
    many = [Document(str(i), f"tiny document {i}\n") for i in range(30_000)]
    pieces = list(split(many, 0.02))
    held = sum(len(p.text) for p in pieces if p.held_out)
    assert abs(held / sum(len(p.text) for p in pieces) - 0.02) < 0.01


@pytest.mark.parametrize("fraction", [-0.1, 0.6, float("nan")])
def test_a_bad_fraction_is_refused(fraction: float) -> None:
    with pytest.raises(ConfigError, match="--held-out"):
        list(split([], fraction))
