"""Trains a byte-level BPE: any text becomes tokens, none is lost.

The same texts and settings give the same bytes (with the same version of `tokenizers`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from farflung.data.batches import TextPart, parts_of
from farflung.data.formats import Say
from farflung.data.reading import ReadBatch, Reading, ReadNote, read
from farflung.disk import RealDisk
from farflung.errors import ConfigError

END_OF_TEXT = "<|endoftext|>"
LEAST_VOCAB = 257
"""Every byte and the end of text."""
SAMPLED_CHARS = 1 << 16
"""Longest stretch of text that is taken or left out as a whole."""


def new_engine() -> Any:
    """An untrained `tokenizers.Tokenizer`, in the way of GPT-2."""
    from tokenizers import (  # type: ignore[import-untyped]
        Tokenizer,
        decoders,
        models,
        pre_tokenizers,
    )

    engine = Tokenizer(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    return engine


def trainer(vocab: int, eos: str, *, show_progress: bool = False) -> Any:
    """A `tokenizers.trainers.BpeTrainer` whose first token is `eos`."""
    from tokenizers import pre_tokenizers, trainers

    return trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[eos],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=show_progress,
    )


def check_wish(vocab: int, eos: str) -> None:
    """ConfigError for a vocabulary that no text can give; reads none."""
    if vocab < LEAST_VOCAB:
        raise ConfigError(f"--vocab {vocab} must be at least {LEAST_VOCAB}; try 32768")
    if len(eos) < 2:
        raise ConfigError(f"--eos {eos!r} must have at least two characters; try {END_OF_TEXT!r}")


def train(texts: Iterable[str], vocab: int, eos: str, *, show_progress: bool = False) -> bytes:
    """tokenizer.json. Raises ConfigError when the texts do not yield so many tokens."""
    check_wish(vocab, eos)
    engine = new_engine()
    engine.train_from_iterator(texts, trainer(vocab, eos, show_progress=show_progress))
    found = engine.get_vocab_size()
    if found < vocab:
        raise ConfigError(
            f"the text is enough for {found:,} tokens, not for {vocab:,}; give more text or "
            f"--vocab {found}"
        )
    return f"{engine.to_str()}\n".encode()


def sampled(texts: Iterable[str], limit: int) -> list[str]:
    """Every n-th text, with the least power of two for n that holds `limit` characters.

    Memory holds no more than `limit` characters and one text.
    """
    kept: list[tuple[int, str]] = []
    stride, size = 1, 0
    for number, text in enumerate(texts):
        if number % stride:
            continue
        kept.append((number, text))
        size += len(text)
        while size > limit and len(kept) > 1:
            stride *= 2
            kept = [(n, t) for n, t in kept if n % stride == 0]
            size = sum(len(t) for _, t in kept)
    return [t for _, t in kept]


def stretches(parts: Iterable[TextPart]) -> Iterator[str]:
    """Training text in stretches of at most SAMPLED_CHARS."""
    for part in parts:
        if not part.held_out:
            for start in range(0, len(part.text), SAMPLED_CHARS):
                yield part.text[start : start + SAMPLED_CHARS]


def write(path: Path, content: bytes) -> None:
    """Atomically. Raises StorageError."""
    RealDisk(path.parent).replace(path.name, content)


class TextSample(NamedTuple):
    texts: list[str]
    bad: dict[str, int]

    @property
    def chars(self) -> int:
        return sum(map(len, self.texts))


def read_sample(
    reading: Reading, limit: int, say: Say, progress: Callable[[int, int], None]
) -> TextSample:
    """Training text of the inputs, at most `limit` characters. Raises ConfigError."""
    bad: dict[str, int] = {}
    done = 0

    def texts() -> Iterator[str]:
        nonlocal done
        for event in read(reading):
            if isinstance(event, ReadNote):
                say(event.text)
            elif isinstance(event, ReadBatch):
                done += event.batch.text_bytes
                progress(event.read_bytes, done)
                yield from stretches(parts_of(event.batch))
            else:
                bad.update(event.bad)

    return TextSample(sampled(texts(), limit), bad)
