"""The same documents as files of every kind that is read."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable, Sequence

import pyarrow as pa
import zstandard
from pyarrow import parquet

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor().compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}
ENCODINGS = {
    "utf-8": "utf-8",
    "utf-8 with a mark": "utf-8-sig",
    "utf-16": "utf-16",  # these two write a byte-order mark
    "utf-32": "utf-32",
    "utf-16 big": "utf-16-be",
}


def json_lines(texts: Sequence[str], field: str = "text") -> str:
    return "".join(json.dumps({"id": 1, field: t}, ensure_ascii=False) + "\n" for t in texts)


def json_array(texts: Sequence[str], field: str = "text") -> str:
    return json.dumps([{"id": 1, field: t} for t in texts], indent=2, ensure_ascii=False) + "\n"


def csv_text(texts: Sequence[str], field: str = "text") -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["id", field])
    writer.writerows(["1", t] for t in texts)
    return out.getvalue()


def parquet_bytes(texts: Sequence[str | None], field: str = "text") -> bytes:
    out = io.BytesIO()
    table = pa.table({"id": pa.array([1] * len(texts)), field: pa.array(texts, pa.string())})
    parquet.write_table(table, out, row_group_size=2)
    return out.getvalue()


TEXTUAL: dict[str, Callable[[Sequence[str]], str]] = {
    ".txt": "".join,
    ".md": "".join,
    ".jsonl": json_lines,
    ".ndjson": json_lines,
    ".json": json_array,
    ".csv": csv_text,
}


def encoded(text: str, encoding: str, newline: str) -> bytes:
    """With the mark that goes with the encoding, and every line break as `newline`."""
    mark = "\ufeff" if encoding.endswith("-be") else ""
    return (mark + text.replace("\n", newline)).encode(encoding)
