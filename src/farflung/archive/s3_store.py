"""S3 and whatever speaks its protocol, through obstore (the extra `farflung[s3]`).

Credentials, region and endpoint come from the usual AWS_* variables (AWS_ENDPOINT_URL for other
makers' stores). obstore's calls run in its own threads; its retries are off, for retry.py has them.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from farflung.archive.store import PIECE_BYTES, Pieces, StoreDenied, StoreError
from farflung.errors import UserError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Store

CONNECT_S = "15s"
ANSWER_S = "600s"
"""Of one request; retry.py gives up earlier on small objects."""


class S3ObjectStore:
    """Objects of a bucket below a prefix."""

    def __init__(self, url: str) -> None:
        """UserError when obstore is missing, or the address or an AWS_* variable is unusable."""
        self._url = url
        self._store = _open(url)

    @property
    def address(self) -> str:
        return self._url

    async def get(self, name: str) -> bytes | None:
        try:
            answer = await self._store.get_async(name)
            size = answer.meta["size"]
            data = bytes(await answer.bytes_async())
        except Exception as error:  # obstore raises ValueError and OSError beside its own
            self._raise_unless_missing(name, error)
            return None
        if len(data) != size:
            raise StoreError(f"{self._url}/{name}: {len(data)} of {size} bytes came")
        return data

    async def get_range(self, name: str, offset: int, length: int) -> bytes:
        if not length:
            return b""
        try:
            data = bytes(await self._store.get_range_async(name, start=offset, length=length))
        except Exception as error:
            raise self._failure(name, error) from None
        if len(data) != length:
            raise StoreError(f"{self._url}/{name} ends before byte {offset + length}")
        return data

    async def put(self, name: str, data: bytes) -> None:
        try:
            await self._store.put_async(name, data, use_multipart=False)
        except Exception as error:
            raise self._failure(name, error) from None

    async def put_pieces(self, name: str, n_bytes: int, pieces: Pieces) -> None:
        try:
            await self._store.put_async(
                name, pieces(), use_multipart=True, chunk_size=PIECE_BYTES, max_concurrency=1
            )
        except Exception as error:
            raise self._failure(name, error) from None
        found = await self.size(name)
        if found != n_bytes:
            raise StoreError(f"{self._url}/{name} has {found} bytes, not {n_bytes}")

    async def list(self, prefix: str) -> dict[str, int]:
        found: dict[str, int] = {}
        try:
            async for page in self._store.list(prefix=prefix):
                found |= {meta["path"]: meta["size"] for meta in page}
        except Exception as error:
            raise self._failure(prefix, error) from None
        return found

    async def size(self, name: str) -> int | None:
        try:
            meta = await self._store.head_async(name)
        except Exception as error:
            self._raise_unless_missing(name, error)
            return None
        return int(meta["size"])

    async def delete(self, name: str) -> None:
        try:
            await self._store.delete_async(name)
        except FileNotFoundError:
            return
        except Exception as error:
            raise self._failure(name, error) from None

    def _raise_unless_missing(self, name: str, error: Exception) -> None:
        if isinstance(error, FileNotFoundError) and "NoSuchBucket" not in str(error):
            return
        raise self._failure(name, error) from None

    def _failure(self, name: str, error: Exception) -> StoreError:
        """One line of obstore's many."""
        from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

        where, text = f"{self._url}/{name}", " ".join(str(error).split())
        if "NoSuchBucket" in text or isinstance(error, FileNotFoundError):
            return StoreDenied(f"{where}: there is no such bucket; make it or correct the address")
        if isinstance(error, PermissionDeniedError | UnauthenticatedError):
            return StoreDenied(
                f"{where}: the store refuses these credentials; set AWS_ACCESS_KEY_ID and "
                f"AWS_SECRET_ACCESS_KEY (and AWS_REGION, AWS_ENDPOINT_URL)"
            )
        return StoreError(f"{where}: {_reason(text)}")


def _reason(text: str) -> str:
    """What people need of an error: the status or the last cause, no address, no debug output."""
    head = text.split(" Debug source:")[0]
    status = re.search(r"status code: ([0-9]{3}[^:]*)", head)
    return status[1].strip() if status else head.rpartition(" - ")[2][:200]


def _open(url: str) -> S3Store:
    try:
        from obstore.exceptions import BaseError
        from obstore.store import S3Store
    except ImportError:
        raise UserError(f"{url} needs the library obstore: pip install 'farflung[s3]'") from None
    options: ClientConfig = {"timeout": ANSWER_S, "connect_timeout": CONNECT_S}
    if os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"):
        options["allow_http"] = True
    try:
        return S3Store.from_url(url, client_options=options, retry_config={"max_retries": 0})
    except (BaseError, ValueError, OSError) as error:
        reason = _reason(" ".join(str(error).split()))
        raise UserError(f"cannot use {url}: {reason}; give s3://BUCKET/PREFIX") from None
