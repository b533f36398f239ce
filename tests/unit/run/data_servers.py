"""Where token shards come from in tests: nodes, and a store on this machine that misbehaves."""

from __future__ import annotations

import http.client
import http.server
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from farflung.clock import InlineWorkers
from farflung.config.run import RunSpec
from farflung.data.manifest import decode_manifest
from farflung.data.shards import blobs, read_manifest
from farflung.errors import LinkDown
from farflung.events import Event
from farflung.hashing import digest
from farflung.ids import Hash
from farflung.swarm.records import DataPart

Answer = Callable[[bytes], bytes]


class Donors:
    """The run's other nodes: they have the files of some folders."""

    def __init__(self, *folders: Path) -> None:
        self._files = {name: path for f in folders for name, path in blobs(f).items()}
        self.asked: list[tuple[str, int]] = []
        """(file, offset) of every piece."""
        self.spoil: Answer = lambda data: data

    async def fetch(self, _: Iterable[str], name: Hash, n_bytes: int) -> bytes:
        data = self._files[name].read_bytes()
        assert len(data) == n_bytes
        return data

    async def piece(self, _: Iterable[str], name: Hash, offset: int, length: int) -> bytes:
        if name not in self._files:
            raise LinkDown("no source for it")
        path = self._files[name]
        self.asked.append((path.name, offset))
        return self.spoil(path.read_bytes()[offset : offset + length])


class Blobs:
    """What this node serves."""

    def __init__(self) -> None:
        self.served: dict[bytes, Path] = {}

    def add_file(self, name: bytes, path: Path) -> None:
        self.served[name] = path


def node_of(spec: RunSpec, donors: Donors, told: list[Event]) -> Any:
    """What `DataFetch` sees of a node."""
    return SimpleNamespace(
        world=SimpleNamespace(
            workers=InlineWorkers(), emit=told.append, clock=SimpleNamespace(now=time.monotonic)
        ),
        mesh=SimpleNamespace(blobs=donors),
        donors=lambda: ["donor"],
        follower=SimpleNamespace(spec=spec, blobs=Blobs()),
    )


def part_of(name: str, folder: Path) -> DataPart:
    manifest = read_manifest(folder)
    return DataPart(
        name=name,
        rows=decode_manifest(manifest).train_rows,
        manifest=digest(manifest),
        manifest_bytes=len(manifest),
    )


class RangeServer:
    """http on 127.0.0.1: files of a folder, by ranges, with faults."""

    def __init__(self, folder: Path) -> None:
        self.asked: Counter[str] = Counter()
        self.bytes_sent = 0
        self.status: Callable[[str], int] = lambda _: 0
        """Of an error for this path; 0: none."""
        self.spoil: Callable[[str, bytes], bytes] = lambda _, data: data
        self.truncate: Callable[[str], bool] = lambda _: False
        self.delay_s = 0.0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Quiet."""

            def do_GET(self) -> None:
                outer.answer(self, folder)

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """A client that went away."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def answer(self, request: http.server.BaseHTTPRequestHandler, folder: Path) -> None:
        name = request.path.lstrip("/")
        self.asked[name] += 1
        path = folder / name
        status = self.status(name) or (200 if path.is_file() else 404)
        if status != 200:
            request.send_response(status)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        data, total = path.read_bytes(), path.stat().st_size
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
        if wanted:
            data = data[int(wanted[1]) : int(wanted[2]) + 1]
            request.send_response(206)
            end = int(wanted[1]) + len(data) - 1
            request.send_header("Content-Range", f"bytes {wanted[1]}-{end}/{total}")
        else:
            request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        request.end_headers()
        time.sleep(self.delay_s)
        data = self.spoil(name, data)
        if self.truncate(name):
            data = data[: len(data) // 2]
            request.close_connection = True
        self.bytes_sent += len(data)
        request.wfile.write(data)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class FaultyProxy:
    """http on 127.0.0.1 in front of another server: some answers are 503, cut short, or late."""

    def __init__(self, behind: str) -> None:
        self.faults: list[str] = []
        """What becomes of the coming GETs: `503`, `cut`, `late`."""
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Quiet."""

            def do_GET(self) -> None:
                outer.forward(self, behind)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def forward(self, request: http.server.BaseHTTPRequestHandler, behind: str) -> None:
        fault = self.faults.pop(0) if self.faults else ""
        host, _, port = behind.removeprefix("http://").partition(":")
        connection = http.client.HTTPConnection(host, int(port))
        connection.request("GET", request.path, headers=dict(request.headers))
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        request.send_response(503 if fault == "503" else answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                request.send_header(name, value)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if fault == "late":
            time.sleep(0.3)
        if fault == "cut":
            data = data[: len(data) // 2]
            request.close_connection = True
        request.wfile.write(data)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
