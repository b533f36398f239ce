"""Files as streams of UTF-8 bytes: decompressed, any byte-order mark gone, lines with a bound.

UTF-16 and UTF-32 are read when a byte-order mark says so. Without one, text is UTF-8, and NUL
bytes at its beginning mean that it is something else.
"""

from __future__ import annotations

import codecs
import contextlib
import lzma
import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import IO, Any

from farflung.data.formats import Compression
from farflung.errors import ConfigError

CHUNK = 1 << 20
"""Bytes that are read at a time."""
ZST_CHUNK = 1 << 9
"""Of a .zst, whose decompressor takes no bound: a few bytes may stand for 128 KiB."""
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16: its mark begins with UTF-16's
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


class Unreadable(ConfigError):
    """A file that cannot be read on: not what its name says, damaged, or no text.

    The message says what is wrong, without the file's name.
    """


def needs_extra(package: str, what: str, extra: str = "data") -> ConfigError:
    """The sentence for a missing optional package."""
    return ConfigError(f"reading {what} needs {package}: pip install 'farflung[{extra}]'")


class RawFile:
    """A file on disk that says how much of it was read."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self.size = os.fstat(self._file.fileno()).st_size

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size) or b""

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()

    @property
    def file(self) -> IO[bytes]:
        return self._file


def decompressed(raw: RawFile, compression: Compression) -> Iterator[bytes]:
    """The content in chunks. Raises Unreadable for what is no such file or ends too early."""
    if compression == "":
        while chunk := raw.read(CHUNK):
            yield chunk
    elif compression == "zst":
        yield from _zst(raw)
    else:
        with _named(compression):
            yield from _members(raw, compression)


def _members(raw: RawFile, compression: Compression) -> Iterator[bytes]:
    """Streams that follow each other in one file, as `cat a.gz b.gz` makes them."""
    import bz2

    start: dict[str, Any] = {
        "gz": lambda: zlib.decompressobj(wbits=31),
        "bz2": bz2.BZ2Decompressor,
        "xz": lzma.LZMADecompressor,
    }
    made = start[compression]
    stream, begun = made(), False
    while packed := raw.read(CHUNK):
        while packed:
            if stream.eof:
                packed = packed.lstrip(b"\0")  # padding after a member is allowed
                stream, begun = (made(), False) if packed else (stream, begun)
                continue
            begun = True
            yield from _bounded(stream, packed)
            packed = stream.unused_data if stream.eof else b""
    if not (begun and stream.eof):
        raise Unreadable(f"the {compression} stream ends too early")


def _bounded(stream: Any, packed: bytes) -> Iterator[bytes]:
    """What `packed` unpacks to, in pieces: a megabyte of it may stand for a gigabyte."""
    while True:
        chunk = stream.decompress(packed, CHUNK)
        if chunk:
            yield chunk
        packed = getattr(stream, "unconsumed_tail", b"")  # zlib's; the others keep it inside
        waits = getattr(stream, "needs_input", not packed and len(chunk) < CHUNK)
        if stream.eof or waits:
            return


@contextlib.contextmanager
def _named(compression: str) -> Iterator[None]:
    try:
        yield
    except (zlib.error, lzma.LZMAError, EOFError) as error:
        raise Unreadable(f"damaged, or no {compression} file: {error}") from None
    except OSError as error:
        if error.errno is not None:  # the disk's
            raise
        raise Unreadable(f"damaged, or no {compression} file: {error}") from None


def _zst(raw: RawFile) -> Iterator[bytes]:
    try:
        import zstandard
    except ImportError:
        raise needs_extra("zstandard", ".zst") from None

    stream, begun, ready = zstandard.ZstdDecompressor().decompressobj(), False, bytearray()
    fault = ""
    while not fault and (block := raw.read(CHUNK >> 2)):
        for start in range(0, len(block), ZST_CHUNK):
            packed = block[start : start + ZST_CHUNK]
            try:
                while packed:
                    if stream.eof:
                        stream = zstandard.ZstdDecompressor().decompressobj()
                    begun = True
                    ready += stream.decompress(packed)
                    packed = stream.unused_data if stream.eof else b""
            except zstandard.ZstdError as error:
                fault = f"damaged, or no zst file: {error}"
                break
            if len(ready) >= CHUNK:
                yield bytes(ready)
                ready.clear()
    if ready:
        yield bytes(ready)
    if fault or not (begun and stream.eof):
        raise Unreadable(fault or "the zst stream ends too early")


def utf8_chunks(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same text in UTF-8, without a byte-order mark. UTF-8 itself is not checked.

    Raises Unreadable for broken UTF-16 or UTF-32 and for NUL bytes at the beginning.
    """
    stream = iter(chunks)
    head = b""
    for chunk in stream:
        head += chunk
        if len(head) >= 4:
            break
    mark, encoding = next((m for m in _MARKS if head.startswith(m[0])), (b"", "utf-8"))
    head = head[len(mark) :]
    if encoding == "utf-8":
        if b"\0" in head[:4096]:
            raise Unreadable(
                "holds NUL bytes: no text, or UTF-16 without a byte-order mark; convert it, for "
                "example with iconv -f UTF-16LE -t UTF-8"
            )
        if head:
            yield head
        yield from stream
        return
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        for chunk in chain([head], stream):
            yield decoder.decode(chunk).encode("utf-8")
        decoder.decode(b"", True)
    except UnicodeError as error:
        raise Unreadable(
            f"is not {encoding.upper()} text, as its byte-order mark says ({error})"
        ) from None


def decoded(chunks: Iterable[bytes]) -> Iterator[str]:
    """UTF-8 as text. Raises Unreadable with the number of the first byte that is none."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    done = waiting = 0  # bytes turned into text; bytes of a character that is not whole yet
    try:
        for chunk in chunks:
            text = decoder.decode(chunk)
            done += waiting + len(chunk)
            waiting = len(decoder.getstate()[0])
            done -= waiting
            if text:
                yield text
        decoder.decode(b"", True)
    except UnicodeDecodeError as error:
        raise Unreadable(
            f"is not UTF-8 text (byte {done + error.start}); convert it, for example with iconv"
        ) from None


def lines(chunks: Iterable[bytes], limit: int) -> Iterator[tuple[int, bytes | None]]:
    """(number from 1, line without its break); None for one longer than `limit` bytes.

    Memory holds one chunk and one line, whatever the length of a line.
    """
    number, size = 1, 0
    waiting: list[bytes] = []
    for chunk in chunks:
        pieces = chunk.split(b"\n")
        last = len(pieces) - 1
        for i, piece in enumerate(pieces):
            size += len(piece)
            if size <= limit:
                waiting.append(piece)
            if i < last:
                yield number, b"".join(waiting) if size <= limit else None
                number, size = number + 1, 0
                waiting = []
    if size:
        yield number, b"".join(waiting) if size <= limit else None


@contextlib.contextmanager
def seekable(raw: RawFile, compression: Compression) -> Iterator[IO[bytes]]:
    """The decompressed content as a file that can be read at any place; on disk, not in memory."""
    if compression == "":
        yield raw.file
        return
    with tempfile.TemporaryFile() as unpacked:
        for chunk in decompressed(raw, compression):
            unpacked.write(chunk)
        unpacked.seek(0)
        yield unpacked
