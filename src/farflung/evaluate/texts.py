"""Bits per byte: of a run's held-out rows, and of any text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from farflung.data.shards import Rows, open_rows
from farflung.data.tokenizer import Tokenizer
from farflung.errors import ConfigError, UserError
from farflung.evaluate.likelihood import Progress, Request, likelihoods
from farflung.inner.loss import bits_per_byte, evaluate
from farflung.model.llama import Llama


@dataclass(frozen=True, kw_only=True)
class TextScore:
    name: str
    tokens: int
    n_bytes: int
    """Of UTF-8, behind the scored tokens."""
    nats_per_token: float
    bits_per_byte: float


def held_out_score(model: Llama, folder: Path, progress: Progress | None = None) -> TextScore:
    """Of all held-out rows of a data folder. Raises UserError when it has none or other tokens."""
    rows = open_rows(folder, verify=False)
    table = rows.held_out
    _check(rows, model, folder)

    def read() -> Iterator[object]:
        for row in range(len(table)):
            if progress is not None:
                progress(row + 1, len(table))
            yield table[row]

    nats, bits = evaluate(model, read(), table.text_bytes)  # type: ignore[arg-type]
    return TextScore(
        name="held-out rows",
        tokens=len(table) * rows.manifest.seq_len,
        n_bytes=table.text_bytes,
        nats_per_token=nats,
        bits_per_byte=bits,
    )


def _check(rows: Rows, model: Llama, folder: Path) -> None:
    if not len(rows.held_out):
        raise UserError(f"{folder} has no held-out rows; prepare it with a held-out fraction")
    manifest, config = rows.manifest, model.config
    if manifest.vocab > config.vocab or manifest.seq_len > config.seq_len:
        raise UserError(
            f"{folder} has rows of {manifest.seq_len} tokens of {manifest.vocab}, the model takes "
            f"{config.seq_len} of {config.vocab}; give the data that it was trained on"
        )


def text_score(
    model: Llama, tokenizer: Tokenizer, text: str, name: str, progress: Progress | None = None
) -> TextScore:
    """Of one document, in consecutive rows as training cuts them: each token sees at most
    `seq_len - 1` before it, the first ones of a row fewer. Raises ConfigError for an empty text."""
    if not text:
        raise ConfigError(f"{name} is empty; give a text with at least one character")
    tokens, T = [tokenizer.eos, *tokenizer.encode(text)], model.config.seq_len
    requests = [
        Request(tokens[at : at + 1], tokens[at + 1 : at + 1 + T])
        for at in range(0, len(tokens) - 1, T)
    ]
    nats = -sum(found.nats for found in likelihoods(model, requests, progress))
    n_bytes = len(text.encode("utf-8"))
    return TextScore(
        name=name,
        tokens=len(tokens) - 1,
        n_bytes=n_bytes,
        nats_per_token=nats / (len(tokens) - 1),
        bits_per_byte=bits_per_byte(nats, n_bytes),
    )


def read_text(path: Path) -> str:
    """UTF-8. UserError when it cannot be read or is none."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}); convert it") from None
