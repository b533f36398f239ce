"""S3 for real: obstore against a server on this machine, behind a proxy that does what networks and
busy stores do."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from archive_samples import WORKERS, Keeper, moments

from farflung.archive.address import open_store
from farflung.archive.index import INDEX
from farflung.archive.retry import RetryingStore
from farflung.archive.s3_store import S3ObjectStore
from farflung.archive.source import ArchiveSource
from farflung.archive.store import PIECE_BYTES, StoreDenied, StoreError
from farflung.archive.survey import survey
from farflung.failpoints import Killed

BUSY = (
    b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: 44\r\n"
    b"Connection: close\r\n\r\n<Error><Code>SlowDown</Code></Error>........"
)
Fault = Callable[[int], str]
"""Number of the connection -> what happens to it."""


class Proxy:
    """One thread per connection, one request each; `fault` says what becomes of it."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.fault: Fault = lambda _number: ""
        self._numbers = itertools.count()
        self.hit: list[str] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        fault = self.fault(next(self._numbers))
        self.hit.append(fault)
        with client:
            request = self._request(client)
            if fault == "busy":
                client.sendall(BUSY)
            elif fault == "cut":
                pass
            elif request:
                answer = self._ask(request)
                head = answer.find(b"\r\n\r\n") + 4
                body = len(answer) - head
                client.sendall(answer[: head + body // 2] if fault == "half" else answer)

    def _ask(self, request: bytes) -> bytes:
        with socket.create_connection(self._target) as server:
            server.sendall(request)
            return b"".join(iter(lambda: server.recv(1 << 16), b""))

    def _request(self, client: socket.socket) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            part = client.recv(1 << 16)
            if not part:
                return b""
            data += part
        head, _, body = data.partition(b"\r\n\r\n")
        wanted = next(
            (
                int(line[15:])
                for line in head.lower().split(b"\r\n")
                if line[:15] == b"content-length:"
            ),
            0,
        )
        while len(body) < wanted:
            body += client.recv(1 << 16)
        return head + b"\r\nConnection: close\r\n\r\n" + body


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, int]]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    try:
        yield moto.get_host_and_port()
    finally:
        moto.stop()


@pytest.fixture
def proxy(server: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    moments()  # in virtual time, before a real loop runs
    proxy = Proxy(server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    request = urllib.request.Request(f"http://127.0.0.1:{server[1]}/bucket", method="PUT")
    urllib.request.urlopen(request).close()
    yield proxy
    proxy.close()


def run(work: Any) -> Any:
    """On a real loop: obstore answers from its own threads."""

    async def main() -> Any:
        return await work

    return asyncio.run(main())


def test_the_store_does_what_the_others_do(proxy: Proxy) -> None:
    store = S3ObjectStore("s3://bucket/one")

    async def large() -> Any:
        for at in range(3):
            yield bytes([at]) * PIECE_BYTES

    async def story() -> None:
        assert await store.get("a/b") is None and await store.size("a/b") is None
        assert await store.list("a") == {}
        await store.put("a/b", b"other")
        await store.put("ab/c", b"not below a")
        assert await store.list("a") == {"a/b": 5}
        assert (await store.get("a/b"), await store.get_range("a/b", 1, 3)) == (b"other", b"the")
        assert await store.get_range("a/b", 1, 0) == b""
        await store.put_pieces("large", 3 * PIECE_BYTES, large)
        assert await store.get_range("large", PIECE_BYTES - 1, 2) == b"\x00\x01"
        await store.delete("a/b")
        await store.delete("a/b")
        assert await store.size("a/b") is None and await store.size("large") == 3 * PIECE_BYTES

    run(story())
    assert proxy.hit


def test_an_upload_and_its_check_survive_a_bad_network(proxy: Proxy) -> None:
    """Every third answer is a 503, every fifth connection is cut, every seventh answer is half."""

    def fault(number: int) -> str:
        for every, name in ((3, "busy"), (5, "cut"), (7, "half")):
            if number % every == every - 1:
                return name
        return ""

    proxy.fault = fault
    store = RetryingStore(S3ObjectStore("s3://bucket/two"), random.Random(3), first_s=0.01)

    async def story() -> None:
        await Keeper.at(1).send(store)
        sent = await Keeper.at(3).send(store, keep=1)
        assert sent.removed > 0
        found = await survey(await ArchiveSource.open(store), WORKERS, verify=True)
        assert [row.damage for row in found.rows] == [""] * len(found.rows)
        assert len(found.rows) == 2 and found.rows[-1].reaches >= 9

    run(story())
    assert {"busy", "cut", "half"} <= set(proxy.hit)


@pytest.mark.parametrize("fault", ["busy", "cut", "half"])
def test_a_failure_that_lasts_is_one_line(proxy: Proxy, fault: str) -> None:
    store = S3ObjectStore("s3://bucket/three")
    run(store.put("x", b"abcdefgh" * 100))
    proxy.fault = lambda _number: fault
    for work in (store.get("x"), store.get_range("x", 0, 800), store.list("x")):
        with pytest.raises(StoreError) as raised:
            run(work)
        text = str(raised.value)
        assert "\n" not in text and len(text) < 300 and text.startswith("s3://bucket/three/x")
        assert fault != "busy" or "503" in text


def test_a_bucket_that_is_not_there_is_not_tried_again(proxy: Proxy) -> None:
    store = open_store("s3://nowhere/x", WORKERS, random.Random(0))
    for work in (store.get(INDEX), store.put("a", b""), store.list("a")):
        before = len(proxy.hit)
        with pytest.raises(StoreDenied, match="no such bucket"):
            run(work)
        assert len(proxy.hit) == before + 1


def test_a_killed_upload_is_gone_on_with(proxy: Proxy) -> None:
    class Dying(RetryingStore):
        left = 5

        async def put(self, name: str, data: bytes) -> None:
            self.left -= 1
            if not self.left:
                raise Killed
            await super().put(name, data)

    inner = S3ObjectStore("s3://bucket/four")

    async def story() -> None:
        with pytest.raises(Killed):
            await Keeper.at(3).send(Dying(inner, random.Random(0)))
        sent = await Keeper.at(3).send(inner)
        assert sent.bytes > 0
        listed = await inner.list("blobs")
        assert await inner.get(INDEX) is not None and len(listed) > 4

    run(story())
    assert proxy.hit
