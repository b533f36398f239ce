"""Documents of a Hugging Face dataset, streamed: `datasets` finds, fetches and decodes it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from farflung.data.byte_streams import needs_extra
from farflung.data.records import BadRecords, checked_text, one_document
from farflung.data.split import Document
from farflung.errors import ConfigError

PREFIX = "hf:"


def hf_documents(
    name: str, config: str | None, split: str, field: str, bad: BadRecords
) -> Iterator[Document]:
    """Rows of one split, in the dataset's order. `name`: of the hub, or a local folder.

    Raises ConfigError when it cannot be loaded or has no such field.
    """
    label = f"{PREFIX}{name}"
    rows = _load(name, config, split, label)
    columns = rows.column_names
    if columns is not None and field not in columns:
        raise ConfigError(
            f"{label} has no column {field!r}; name one of {', '.join(map(repr, columns))} with "
            f"--text-field"
        )
    if columns is not None:
        rows = rows.select_columns([field])
    for number, row in enumerate(rows, 1):
        text = row.get(field)
        found = checked_text(text) if isinstance(text, str) else None
        if isinstance(found, str):
            yield from one_document(f"{label}:{number}", found)
        else:
            reason = found.reason if found is not None else f"has no text in {field!r}"
            bad.found(label, f"row {number}", reason)


def _load(name: str, config: str | None, split: str, label: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise needs_extra("datasets", label, "hf") from None

    # It tells each try with all of its stack; one sentence comes at the end.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    saved = Path(name) / "state.json"
    try:
        if saved.exists() or (Path(name) / "dataset_dict.json").exists():
            found = datasets.load_from_disk(name)
            return found if saved.exists() else found[split]
        return datasets.load_dataset(name, config, split=split, streaming=True)
    except Exception as error:  # of the library, of its file systems, of the network
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"cannot load {label} (split {split!r}): {reason}; see --hf-config and --hf-split"
        ) from None
