"""The shipped corpus as a data folder, made once per (tokenizer, seq_len) and kept in a cache."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from farflung.config.run import DataSpec
from farflung.data.corpus import PROVENANCE, corpus_hash, documents
from farflung.data.manifest import MANIFEST_FILE, MANIFEST_VERSION
from farflung.data.prepare import prepare
from farflung.data.tokenizer import load_tokenizer
from farflung.errors import StorageError
from farflung.hashing import digest

HELD_OUT_FRACTION = 0.02


def shipped_folder(spec_data: DataSpec, cache: Path) -> Path:
    """A complete folder under `cache`; a second call finds it. Safe with several processes.

    Raises ConfigError for a tokenizer that cannot be read, StorageError from the disk.
    """
    tokenizer = load_tokenizer(spec_data.tokenizer)
    identity = f"{MANIFEST_VERSION}/{corpus_hash()}/{digest(tokenizer.json()).hex()}"
    key = digest(f"{identity}/{spec_data.seq_len}/{HELD_OUT_FRACTION}".encode()).hex()[:16]
    final = cache / f"shakespeare-{key}"
    if (final / MANIFEST_FILE).exists():
        return final
    try:
        cache.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=cache))
    except OSError as error:
        raise StorageError(f"{cache}: {error.strerror}") from None
    try:
        prepare(
            documents(),
            tokenizer,
            spec_data.seq_len,
            made,
            held_out_fraction=HELD_OUT_FRACTION,
            provenance=PROVENANCE,
        )
        _publish(made, final)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return final


def _publish(made: Path, final: Path) -> None:
    try:
        made.rename(final)
    except OSError as error:
        if not (final / MANIFEST_FILE).exists():  # else another process was first: same bytes
            raise StorageError(f"{final}: {error.strerror}") from None
