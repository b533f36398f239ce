"""What the commands on a trained model share: finding it, and saying how far they are."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from farflung.model.llama import Llama
    from farflung.trained.model import TrainedModel

Source = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="A run's name in FARFLUNG_HOME, the folder of a host, keeper or peer, a demo's --out "
        "folder, an exported model, or an invite.",
    ),
]
_OBEYED = {c: " " for c in (*range(0x20), *range(0x7F, 0xA0)) if chr(c) not in "\n\t"}
FIRST_S = 1.0
"""Work that is done sooner shows nothing."""
EVERY_S = 0.5


def harmless(text: str) -> str:
    """A text for a terminal, whole but for what that would obey: control characters."""
    return text.translate(_OBEYED)


class ProgressLine:
    """One line on the terminal's stderr that is written over: share, rate, time left. Where the
    count begins anew, so does the work."""

    def __init__(self, what: str, *, in_bytes: bool = False) -> None:
        self._what = what
        self._in_bytes = in_bytes
        self._began_s = self._shown_s = time.monotonic()
        self._written = False
        self._done = 0

    def __call__(self, done: int, total: int) -> None:
        now_s = time.monotonic()
        if done < self._done:
            self._began_s = now_s
        self._done = done
        if done >= total:
            self.clear()
        elif (
            sys.stderr.isatty()
            and now_s - self._began_s > FIRST_S
            and now_s - self._shown_s > EVERY_S
        ):
            self._shown_s = now_s
            rate = max(done, 1) / (now_s - self._began_s)
            speed = f"{rate / 1e6:,.1f} MB/s, " if self._in_bytes else ""
            left_s = (total - done) / rate
            line = f"{self._what} {100 * done / total:.0f} %, {speed}{left_s:,.0f} s left"
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()
            self._written = True

    def clear(self) -> None:
        if self._written:
            sys.stderr.write("\r\x1b[K")
            self._written = False


def load(source: str) -> TrainedModel:
    """Find and read it. Raises UserError, CorruptState, StorageError."""
    from farflung.trained.sources import resolve

    progress = ProgressLine("reading the weights", in_bytes=True)
    try:
        return resolve(source, progress)
    finally:
        progress.clear()


def ready(model: TrainedModel) -> Llama:
    """The model in torch, on as many threads as FARFLUNG_THREADS says (default: torch's own).

    Raises UserError for a program of somebody's own, ConfigError for a wrong number of threads.
    """
    import torch

    from farflung.inner.built_in import use_threads

    use_threads(default=torch.get_num_threads())
    return model.llama()


def described(model: TrainedModel) -> str:
    """One line for people."""
    when = f"after round {model.round}" if model.round >= 0 else "before its first round"
    state = f", state {model.state_root[:16]}" if model.state_root else ""
    return f"{model.name} {when}, {model.layout.size:,} parameters{state}"
