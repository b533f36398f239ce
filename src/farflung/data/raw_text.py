"""The answer to a run whose source is text that nobody has prepared."""

from __future__ import annotations

import shlex
from pathlib import Path

from farflung.data.manifest import MANIFEST_FILE
from farflung.errors import ConfigError


def refuse_raw_text(source: str, tokenizer: str, seq_len: int) -> None:
    """ConfigError with the command that prepares it, for what exists and is no data folder."""
    path = Path(source).expanduser()
    if not path.exists() or (path / MANIFEST_FILE).exists():
        return
    out = f"{path.stem if path.is_file() else path.resolve().name}-data"
    raise ConfigError(
        f"data.source={source!r} is no prepared data; run `farflung data prepare "
        f"{shlex.quote(source)} --out {shlex.quote(out)} --tokenizer {shlex.quote(tokenizer)} "
        f'--seq-len {seq_len}` and set source = "{out}"'
    )
