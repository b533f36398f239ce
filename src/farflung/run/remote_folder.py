"""A data folder behind an https:// or s3:// address, read by ranges. Needs obstore.

Nothing that comes from there is trusted: whoever reads checks a hash that GENESIS implies.
"""

from __future__ import annotations

import os
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from farflung.errors import ConfigError, LinkDown

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_STATUS = re.compile(r"status code: (\d{3}[^:]*)")
"""What counts of a message that also tells the request, its milliseconds and a page of HTML."""
REQUEST_S = 60.0
RETRIES = 3
"""Inside one request, for answers such as 503; whoever asks tries again later."""
RETRY_S = 20.0


class RemoteFolder:
    """Reads files of one folder. Raises ConfigError without obstore or for a bad address."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._store = _open(self.url)

    async def read(self, name: str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes of a file. Raises LinkDown."""
        import obstore

        try:
            data = await obstore.get_range_async(self._store, name, start=offset, length=length)
        except Exception as error:  # its errors are many, and some are bare
            raise self._failure(name, error) from None
        return self._exactly(name, bytes(data), length)

    def read_whole(self, name: str, most: int) -> bytes:
        """A small file, for hosts; at most `most` bytes. Raises LinkDown."""
        import obstore

        try:
            found = obstore.get(self._store, name)
            if found.meta["size"] > most:
                raise LinkDown(
                    f"{self.url}/{name} has {found.meta['size']} bytes, more than {most}"
                )
            return bytes(found.bytes())
        except LinkDown:
            raise
        except Exception as error:
            raise self._failure(name, error) from None

    def _exactly(self, name: str, data: bytes, length: int) -> bytes:
        if len(data) != length:
            raise LinkDown(f"{self.url}/{name} gave {len(data)} of {length} bytes")
        return data

    def _failure(self, name: str, error: Exception) -> LinkDown:
        words = (str(error).strip().splitlines() or [type(error).__name__])[0]
        status = _STATUS.search(words)
        return LinkDown(f"{self.url}/{name}: {status[1] if status else words[:200]}")


def _open(url: str) -> ObjectStore:
    try:
        from obstore.store import HTTPStore, S3Store
    except ImportError:
        raise ConfigError(
            f"reading {url} needs obstore; install it with: pip install 'farflung[s3]'"
        ) from None
    if not urlsplit(url).netloc:
        raise ConfigError(f"{url} cannot be used: it names no host or bucket")
    plain = url.startswith("http://") or os.environ.get("AWS_ENDPOINT_URL", "").startswith("http:")
    options: dict[str, Any] = {
        "client_options": {"timeout": timedelta(seconds=REQUEST_S), "allow_http": plain},
        "retry_config": {
            "max_retries": RETRIES,
            "retry_timeout": timedelta(seconds=RETRY_S),
            "backoff": {
                "init_backoff": timedelta(seconds=0.1),
                "max_backoff": timedelta(seconds=2),
                "base": 2,
            },
        },
    }
    try:
        if url.startswith("s3://"):
            return S3Store.from_url(url, **options)
        return HTTPStore.from_url(url, **options)
    except Exception as error:
        raise ConfigError(f"{url} cannot be used: {error}") from None
