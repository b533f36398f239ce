"""Texts out of files: plain text in parts of any size, records of the other kinds one by one.

What is alike for all kinds is done here once: byte-order marks go, CRLF becomes LF, a record
beyond RECORD_BYTES or without text is bad, and a bad one is named by file and number.
"""

from __future__ import annotations

import codecs
import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import msgspec

from farflung.data.byte_streams import (
    RawFile,
    Unreadable,
    decoded,
    decompressed,
    lines,
    needs_extra,
    seekable,
    utf8_chunks,
)
from farflung.data.formats import Say, named_format
from farflung.data.split import Document
from farflung.errors import ConfigError

RECORD_BYTES = 64 << 20
"""Longest record, in bytes of its file; plain text has no limit."""
BAD_SHOWN = 10
"""Bad records that are named one by one; all are counted."""
_PARQUET_ROWS = 256
_JSON_CHARS = 1 << 20


class BadRecords:
    """Refuses the first bad record, or counts them all and names some."""

    def __init__(self, *, skip: bool, say: Say) -> None:
        self._skip = skip
        self._say = say
        self.counts: Counter[str] = Counter()
        """Per file."""

    def found(self, file: str, place: str, reason: str) -> None:
        """Raises ConfigError unless bad records are skipped."""
        where = f"{file} {place}".strip()
        if not self._skip:
            raise ConfigError(f"{where} {reason} (--skip-bad leaves out what is bad)")
        self.counts[file] += 1
        if self.counts.total() <= BAD_SHOWN:
            self._say(f"left out {where}: {reason}")

    @property
    def skip(self) -> bool:
        return self._skip


class FileDocuments:
    """The documents of files, in their order."""

    def __init__(self, paths: list[Path], field: str, bad: BadRecords) -> None:
        self._paths = paths
        self._field = field
        self._bad = bad
        self._done = 0
        self._raw: RawFile | None = None

    @property
    def read_bytes(self) -> int:
        """Of the files on disk, so far."""
        return self._done + (self._raw.tell() if self._raw is not None else 0)

    def __iter__(self) -> Iterator[Document]:
        for path in self._paths:
            try:
                raw = self._raw = RawFile(path)
                try:
                    yield from self._file(path, raw)
                finally:
                    self._raw = None
                    raw.close()
                self._done += raw.size
            except Unreadable as error:
                self._bad.found(str(path), "", str(error))
            except OSError as error:
                raise ConfigError(f"cannot read {path}: {error.strerror or error}") from None

    def _file(self, path: Path, raw: RawFile) -> Iterator[Document]:
        content, compression = named_format(path)
        if content == "parquet":
            with seekable(raw, compression) as file:
                yield from self._texts(path, _parquet(file, self._field))
            return
        if content == "text" and self._bad.skip:  # a file is left out whole or not at all
            check = RawFile(path)
            try:
                for _ in decoded(utf8_chunks(decompressed(check, compression))):
                    pass
            finally:
                check.close()
        chunks = utf8_chunks(decompressed(raw, compression))
        if content == "text":
            yield from in_parts(path.name, decoded(chunks))
        elif content == "json lines":
            yield from self._texts(path, _json_lines(chunks, self._field))
        elif content == "json":
            yield from self._texts(path, _json(decoded(chunks), self._field))
        else:
            yield from self._texts(path, _csv(chunks, self._field))

    def _texts(self, path: Path, found: Iterable[tuple[str, str | Bad]]) -> Iterator[Document]:
        for place, text in found:
            if isinstance(text, Bad):
                self._bad.found(str(path), place, text.reason)
            else:
                yield from one_document(f"{path.name}:{place}", text)


class Bad(msgspec.Struct, frozen=True):
    """In the place of a record's text."""

    reason: str


def one_document(name: str, text: str) -> Iterator[Document]:
    """Nothing for an empty text."""
    if text.startswith("\ufeff"):
        text = text[1:]
    if "\r\n" in text:
        text = text.replace("\r\n", "\n")
    if text:
        yield Document(name, text)


def in_parts(name: str, chunks: Iterable[str]) -> Iterator[Document]:
    """One document of chunks; nothing when they are empty. CRLF may lie across two chunks."""
    ready = ""
    for chunk in chunks:
        text, held = ready + chunk, ""
        if text.endswith("\r"):
            text, held = text[:-1], "\r"
        text = text.replace("\r\n", "\n")
        # One character stays back, so that the last part is not empty.
        if len(text) > 1:
            yield Document(name, text[:-1], more=True)
            text = text[-1:]
        ready = text + held
    if ready:
        yield Document(name, ready)


# ---- kinds of records: (place, text or what is wrong with it) -------------------------------


def _json_lines(chunks: Iterable[bytes], field: str) -> Iterator[tuple[str, str | Bad]]:
    kind = msgspec.defstruct("Line", [("text", str)], rename={"text": field})
    decoder = msgspec.json.Decoder(kind)
    for number, line in lines(chunks, RECORD_BYTES):
        place = f"line {number}"
        if line is None:
            yield place, _too_long()
        elif line and not line.isspace():
            try:
                yield place, decoder.decode(line).text  # type: ignore[attr-defined]
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                yield place, Bad(f"is no JSON object with a {field!r} string: {error}")


def _json(chunks: Iterable[str], field: str) -> Iterator[tuple[str, str | Bad]]:
    for number, value in enumerate(json_values(chunks, RECORD_BYTES), 1):
        place = f"record {number}"
        if isinstance(value, dict) and isinstance(value.get(field), str):
            yield place, checked_text(value[field])
        else:
            yield place, Bad(f"is no JSON object with a {field!r} string")


def json_values(chunks: Iterable[str], limit: int) -> Iterator[Any]:
    """The elements of an array, or values that follow each other, one at a time.

    Raises Unreadable for what is no JSON, or longer than `limit` characters.
    """
    decode = json.JSONDecoder().raw_decode
    source, text, at, number = iter(chunks), "", 0, 0
    array = ended = False
    while True:
        at = _blank_end(text, at)
        if at < len(text) and text[at] == "[" and not number and not array:
            array, at = True, at + 1
            continue
        if array and at < len(text) and text[at] == ",":
            at = _blank_end(text, at + 1)
        if array and at < len(text) and text[at] == "]":
            return
        try:
            value, end = decode(text, at) if at < len(text) else (None, -1)
        except ValueError as error:
            end = -1
            if ended or len(text) - at > limit:
                reason = "is longer than a record may be" if not ended else f"is no JSON: {error}"
                raise Unreadable(f"record {number + 1} {reason}; the file is not read on") from None
        if end >= 0:
            yield value
            number, at = number + 1, end
            continue
        if ended and at >= len(text):
            if array:
                raise Unreadable(f"the array ends too early, after record {number}")
            return
        # Twice as much as was not enough: a long record is not decoded once per chunk.
        text, at = text[at:], 0
        wanted = max(_JSON_CHARS, 2 * len(text))
        pieces, size = [text], len(text)
        for chunk in source:
            pieces.append(chunk)
            size += len(chunk)
            if size >= wanted:
                break
        else:
            ended = True
        text = "".join(pieces)


def _blank_end(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _csv(chunks: Iterable[bytes], field: str) -> Iterator[tuple[str, str | Bad]]:
    csv.field_size_limit(RECORD_BYTES)
    rows = csv.reader(_csv_lines(chunks), strict=True)
    header = next(rows, None)
    if header is None:
        return
    column = _column(field, header)
    while True:
        place = f"line {rows.line_num + 1}"
        try:
            row = next(rows, None)
        except csv.Error as error:
            too_long = "field limit" in str(error)
            yield place, _too_long() if too_long else Bad(f"is no CSV record: {error}")
            continue
        if row is None:
            return
        if row and len(row) != len(header):
            yield place, Bad(f"has {len(row)} columns, the first line has {len(header)}")
        elif row:
            yield place, checked_text(row[column])


def _csv_lines(chunks: Iterable[bytes]) -> Iterator[str]:
    # Bytes that are no UTF-8 come out as surrogates, which no text may hold.
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    rest, number = "", 1
    for chunk in chunks:
        *whole, rest = (rest + decoder.decode(chunk)).split("\n")
        yield from map("{}\n".format, whole)
        number += len(whole)
        if len(rest) > RECORD_BYTES:
            raise Unreadable(f"line {number} {_too_long().reason}; the file is not read on")
    if rest := rest + decoder.decode(b"", True):
        yield rest


def _parquet(file: IO[bytes], field: str) -> Iterator[tuple[str, str | Bad]]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise needs_extra("pyarrow", ".parquet") from None

    try:
        table = parquet.ParquetFile(file)
        names = [f.name for f in table.schema_arrow]
        column = names[_column(field, names)]
        kind = table.schema_arrow.field(column).type
        plain = kind.value_type if pa.types.is_dictionary(kind) else kind
        if plain not in (pa.string(), pa.large_string(), pa.string_view()):
            raise Unreadable(f"has column {column!r} of type {kind}, not of text")
        number = 0
        for batch in table.iter_batches(batch_size=_PARQUET_ROWS, columns=[column]):
            for value in batch.column(0):
                number += 1
                yield f"row {number}", _cell(value)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise Unreadable(f"damaged, or no parquet file: {reason}") from None


def _cell(value: Any) -> str | Bad:
    try:
        text = value.as_py()
    except UnicodeDecodeError:
        return Bad("is not UTF-8 text")
    return Bad("has no text") if text is None else checked_text(text)


def _column(field: str, names: list[str]) -> int:
    if field in names:
        return names.index(field)
    raise Unreadable(
        f"has no column {field!r}; name one of {', '.join(map(repr, names))} with --text-field"
    )


def checked_text(text: str) -> str | Bad:
    """Bad when it is too long or holds half a surrogate pair, which UTF-8 cannot write."""
    if len(text) > RECORD_BYTES:
        return _too_long()
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            return Bad("is not UTF-8 text")
    return text


def _too_long() -> Bad:
    return Bad(f"is longer than {RECORD_BYTES >> 20} MiB, the limit of one record")
