"""A window on a free port of this machine, and questions to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from farflung.clock import ThreadWorkers
from farflung.events import Event
from farflung.tasks import Tasks, nothing_else
from farflung.window.reader import RunReader
from farflung.window.server import WindowOptions, WindowServer, listen, site
from farflung.window.static_files import read_static

NOW = 1_800_000_000.0


@dataclass
class Serving:
    """What a test sees of it."""

    server: WindowServer
    reader: RunReader
    port: int
    session: aiohttp.ClientSession
    troubles: list[Event]

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"

    async def get(self, path: str, **options: Any) -> tuple[int, Any, bytes]:
        """Status, headers, body."""
        async with self.session.get(self.url(path), allow_redirects=False, **options) as answer:
            return answer.status, answer.headers, await answer.read()

    async def json(self, path: str) -> Any:
        status, _, body = await self.get(path)
        assert status == 200, (path, status, body)
        return json.loads(body)


@contextlib.asynccontextmanager
async def serving(
    folder: Path, *, follow: bool = True, ready: bool = True, map_shown: bool = True, **options: Any
) -> AsyncIterator[Serving]:
    """`follow` False: nothing of the folder is read yet; `ready` False: nobody waits for it."""
    troubles: list[Event] = []
    tasks, workers = Tasks(troubles.append, nothing_else), ThreadWorkers(1)
    reader = RunReader(folder, workers=workers, tasks=tasks, wall=lambda: NOW, map_shown=map_shown)
    wanted = WindowOptions(**{"bind": "127.0.0.1:0", **options})
    server = WindowServer(reader, read_static(), wanted)
    sock = listen(wanted.bind, 1)
    port = sock.getsockname()[1]
    try:
        async with site(server, sock), aiohttp.ClientSession() as session:
            if follow:
                tasks.start(reader.follow(server.hub.wake), "follow")
                tasks.start(server.hub.run(), "tell")
            if follow and ready:
                await until(lambda: reader.ready, "the history is read")
            yield Serving(server, reader, port, session, troubles)
    finally:
        await tasks.close()
        await workers.run(reader.close)
        workers.close()
    assert troubles == []


async def until(done: Callable[[], Any], what: str) -> None:
    for _ in range(3000):
        if done():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{what}: not within half a minute")


def served(story: Callable[[], Awaitable[None]]) -> None:
    """Run one test's coroutine."""
    asyncio.run(asyncio.wait_for(story(), 120))  # type: ignore[arg-type]


class Stream:
    """Server-sent events of one connection."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer
        self.ids: list[int] = []

    async def event(self) -> tuple[str, Any]:
        """The next event: its kind, and what it says."""
        kind, data = "", ""
        while True:
            line = (await asyncio.wait_for(self.answer.content.readline(), 30)).decode()
            assert line, "the stream has ended"
            name, _, value = line.rstrip("\n").partition(": ")
            if name == "id":
                self.ids.append(int(value))
            elif name == "event":
                kind = value
            elif name == "data":
                data = value
            elif not line.strip() and kind:
                return kind, json.loads(data)

    async def find(self, wanted: str, fits: Callable[[Any], bool] = lambda _: True) -> Any:
        while True:
            kind, value = await self.event()
            if kind == wanted and fits(value):
                return value
