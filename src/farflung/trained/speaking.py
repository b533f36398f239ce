"""A model's text, piece by piece as it is drawn: after a prompt, or turn by turn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from farflung.data.tokenizer import Tokenizer
from farflung.errors import ConfigError

if TYPE_CHECKING:
    from farflung.model.generate import Sampling
    from farflung.model.llama import Llama

BROKEN = "\ufffd"
"""What stands for bytes that are no whole character, perhaps not yet."""
LONGEST_CHARACTER = 4
"""Bytes, and so tokens, that one character may need."""


class TextStream:
    """Tokens to text as they come: a character that several tokens make appears with the last."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._before: list[int] = []
        """Tokens that were shown and still say how the next ones join (spaces between words)."""
        self._new: list[int] = []

    def push(self, token: int) -> str:
        """The text that is complete now; often '' and never a part of a character."""
        self._new.append(token)
        text = self._text()
        if text.endswith(BROKEN) and len(self._new) < LONGEST_CHARACTER:
            return ""
        self._before, self._new = self._new, []
        return text

    def flush(self) -> str:
        """What is left, broken characters replaced."""
        text = self._text()
        self._before, self._new = self._new, []
        return text

    def _text(self) -> str:
        shown = self._tokenizer.decode(self._before)
        whole = self._tokenizer.decode([*self._before, *self._new])
        if whole.startswith(shown):
            return whole[len(shown) :]
        return self._tokenizer.decode(self._new)  # what was shown as broken bytes stays that


def continue_text(
    model: Llama, tokenizer: Tokenizer, prompt: str, n: int, sampling: Sampling
) -> Iterator[str]:
    """At most `n` tokens after the prompt, as text; ends where the model ends the document.

    An empty prompt begins a document. Raises ConfigError for n below 1.
    """
    from farflung.model.generate import stream

    if n < 1:
        raise ConfigError(f"--tokens {n} must be at least 1")
    start = [tokenizer.eos, *tokenizer.encode(prompt)]
    return _text_of(islice(stream(model, start, sampling), n), tokenizer)


def _text_of(tokens: Iterable[int], tokenizer: Tokenizer) -> Iterator[str]:
    text = TextStream(tokenizer)
    for token in tokens:
        if token == tokenizer.eos:
            break
        if piece := text.push(token):
            yield piece
    if rest := text.flush():
        yield rest


def until(pieces: Iterable[str], stops: Sequence[str]) -> Iterator[str]:
    """The text before the first of `stops`; what might begin one is held back."""
    held = ""
    for piece in pieces:
        held += piece
        found = [at for stop in stops if (at := held.find(stop)) >= 0]
        if found:
            if min(found):
                yield held[: min(found)]
            return
        safe = len(held) - max((_overlap(held, stop) for stop in stops), default=0)
        if safe:
            yield held[:safe]
            held = held[safe:]
    if held:
        yield held


def _overlap(text: str, stop: str) -> int:
    """Letters at the end of `text` with which `stop` begins."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)


class Conversation:
    """A transcript of two speakers that a base model goes on with.

    No format that it was taught: farflung's models are base models, which know conversations only
    as far as their text had some.
    """

    def __init__(self, model: Llama, tokenizer: Tokenizer, names: tuple[str, str]) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._you, self._me = names
        self.transcript = ""

    def answer(self, said: str, n: int, sampling: Sampling) -> Iterator[str]:
        """The model's turn, at most `n` tokens; it is part of the transcript from then on."""
        self.transcript += f"{self._you}: {said.strip()}\n{self._me}:"
        pieces = continue_text(self._model, self._tokenizer, self._recent(n), n, sampling)
        reply = ""
        try:
            for piece in until(pieces, [f"\n{self._you}:", f"\n{self._me}:"]):
                reply += piece
                yield piece
        finally:  # also when the listener has heard enough
            self.transcript += f"{reply.rstrip()}\n"

    def _recent(self, n: int) -> str:
        """The end of the transcript that leaves room for the answer, from a line's beginning."""
        room = max(self._model.config.seq_len - n, self._model.config.seq_len // 2)
        lines = self.transcript.splitlines(keepends=True)
        kept = len(lines) - 1
        while kept and len(self._tokenizer.encode("".join(lines[kept - 1 :]))) < room:
            kept -= 1
        return "".join(lines[kept:])
