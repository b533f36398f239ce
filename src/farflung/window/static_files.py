"""The page's files, read once into memory: a few, and small."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

from farflung.hashing import digest

STATIC = Path(__file__).with_name("static")
PAGE = "index.html"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".txt": "text/plain; charset=utf-8",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}
"""What may be served at all."""
_PACKED = (".png", ".woff2", ".ico")
SMALL = 512
"""Bytes that are not worth compressing."""


@dataclass(frozen=True)
class Body:
    """Bytes to answer with, made once for all who ask."""

    content_type: str
    data: bytes
    gzipped: bytes | None
    """None: it would not be smaller."""
    etag: str


def body_of(content_type: str, data: bytes, *, level: int = 5) -> Body:
    packed = gzip.compress(data, level, mtime=0) if len(data) > SMALL and level else b""
    smaller = packed if packed and len(packed) < len(data) else None
    return Body(content_type, data, smaller, f'"{digest(data).hex()[:32]}"')


def read_static(folder: Path = STATIC) -> dict[str, Body]:
    """Path below the root -> body. Empty when the page was not built."""
    found = {}
    for path in sorted(folder.rglob("*")):
        kind = _TYPES.get(path.suffix)
        if kind is not None and path.is_file():
            level = 0 if path.suffix in _PACKED else 9
            found[path.relative_to(folder).as_posix()] = body_of(
                kind, path.read_bytes(), level=level
            )
    return found
