"""Text as it is drawn: whole characters, stop words, turns."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Engine
from tokenizers import decoders, models, pre_tokenizers
from trained_samples import SEQ_LEN, made

from farflung.data.tokenizer import ByteTokenizer, load_tokenizer, tokenizer_from_bytes
from farflung.errors import ConfigError
from farflung.model.generate import Sampling
from farflung.model.llama import Llama
from farflung.trained.speaking import Conversation, TextStream, continue_text, until

BPE = load_tokenizer("bpe-1024")
GREEDY = Sampling(temperature=0)


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=60), bpe=st.booleans())
def test_pieces_are_whole_characters_and_join_to_the_text(text: str, bpe: bool) -> None:
    tokenizer = BPE if bpe else ByteTokenizer()
    stream = TextStream(tokenizer)
    pieces = [stream.push(token) for token in tokenizer.encode(text)]
    assert "".join(pieces) == text and stream.flush() == ""
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


def test_every_character_comes_as_soon_as_its_last_byte() -> None:
    stream = TextStream(ByteTokenizer())
    assert [stream.push(b) for b in "a☃b".encode()] == ["a", "", "", "☃", "b"]


@settings(max_examples=100, deadline=None)
@given(tokens=st.lists(st.integers(0, 255), max_size=30))
@example(tokens=[128, 128, 128, 194, 128, 128, 128, 128])
def test_broken_bytes_hold_nothing_back_for_long(tokens: list[int]) -> None:
    stream = TextStream(ByteTokenizer())
    silent = 0
    for token in tokens:
        silent = 0 if stream.push(token) else silent + 1
        assert silent < 4
    stream.flush()
    assert stream.flush() == ""


def test_words_keep_the_spaces_that_a_decoder_puts_between_them() -> None:
    engine = Engine(models.WordLevel({"to": 0, "be": 1, "or": 2, "</s>": 3}, unk_token="or"))
    engine.pre_tokenizer = pre_tokenizers.Metaspace()
    engine.decoder = decoders.WordPiece(prefix="##")
    tokenizer = tokenizer_from_bytes(engine.to_str().encode())
    stream = TextStream(tokenizer)
    assert "".join(stream.push(t) for t in [0, 1, 2, 0, 1]) == tokenizer.decode([0, 1, 2, 0, 1])
    assert tokenizer.decode([0, 1]) == "to be"


def pieces(text: str, cut: int) -> Iterator[str]:
    return (text[i : i + cut] for i in range(0, len(text), cut))


@pytest.mark.parametrize("cut", [1, 2, 3, 100])
@pytest.mark.parametrize(
    ("text", "stops", "shown"),
    [
        ("hello\nUser: and more", ["\nUser:"], "hello"),
        ("hello\nUse it", ["\nUser:"], "hello\nUse it"),
        ("\nUser: at once", ["\nUser:"], ""),
        ("a\n\nb. c", ["\n\n", ". "], "a"),
        ("aab", ["ab"], "a"),
        ("no stops at all", [], "no stops at all"),
    ],
)
def test_the_text_before_a_stop_word_however_it_comes(
    text: str, stops: list[str], shown: str, cut: int
) -> None:
    assert "".join(until(pieces(text, cut), stops)) == shown


def test_what_cannot_begin_a_stop_word_is_not_held_back() -> None:
    assert list(until(iter(["ab", "\nU", "nix"]), ["\nUser:"])) == ["ab", "\nUnix"]


class Scripted(Llama):
    """A model that says a given text whatever it is asked."""

    def __init__(self, said: str) -> None:
        super().__init__(made().need_config())
        self._script = iter(said.encode())

    def forward(self, tokens_BT: torch.Tensor, *_: object) -> torch.Tensor:  # type: ignore[override]
        self.asked = (
            bytes(int(t) for t in tokens_BT[0] if t < 256)
            if tokens_BT.shape[1] > 1
            else (self.asked)
        )
        logits = torch.zeros(1, 1, 257)
        logits[0, 0, next(self._script, 256)] = 1.0
        return logits


def test_a_document_ends_where_the_model_ends_it() -> None:
    model = Scripted("a short one")
    assert "".join(continue_text(model, ByteTokenizer(), "x", 100, GREEDY)) == "a short one"
    model = Scripted("a long one")
    assert "".join(continue_text(model, ByteTokenizer(), "x", 6, GREEDY)) == "a long"


def test_an_empty_prompt_begins_a_document() -> None:
    model = made(scale=8.0).llama()
    text = "".join(continue_text(model, ByteTokenizer(), "", 20, GREEDY))
    assert text == "".join(continue_text(model, ByteTokenizer(), "", 20, GREEDY))
    with pytest.raises(ConfigError, match="--tokens 0"):
        continue_text(model, ByteTokenizer(), "", 0, GREEDY)


def test_a_turn_ends_where_the_model_speaks_for_somebody_else() -> None:
    model = Scripted(" Well met.\nYou: indeed")
    talk = Conversation(model, ByteTokenizer(), ("You", "Me"))
    assert "".join(talk.answer("  hello ", 40, GREEDY)) == " Well met."
    assert talk.transcript == "You: hello\nMe: Well met.\n"
    assert model.asked == b"You: hello\nMe:"


def test_a_turn_that_is_cut_short_stays_in_the_transcript() -> None:
    talk = Conversation(Scripted(" one two three"), ByteTokenizer(), ("You", "Me"))
    answer = talk.answer("count", 40, GREEDY)
    heard = "".join(next(answer) for _ in range(4))
    answer.close()  # type: ignore[attr-defined]
    assert talk.transcript == f"You: count\nMe:{heard}\n"


def test_a_long_transcript_is_cut_at_a_line() -> None:
    talk = Conversation(Scripted("x"), ByteTokenizer(), ("You", "Me"))
    talk.transcript = "".join(f"You: line {i}\nMe: so it is\n" for i in range(50))
    model = talk._model
    list(talk.answer("now", 10, GREEDY))
    assert isinstance(model, Scripted)
    assert len(model.asked) <= SEQ_LEN - 10
    assert model.asked.startswith((b"You: ", b"Me: ")) and model.asked.endswith(b"You: now\nMe:")
    assert len(model.asked) > SEQ_LEN // 2
