"""A window at work: the reader's thread, the web server and its viewers, until the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import socket
import sys
import time
from pathlib import Path

from farflung.clock import ThreadWorkers
from farflung.events import Event, sentence_of
from farflung.ids import split_endpoint
from farflung.tasks import Tasks, nothing_else
from farflung.window.reader import RunReader
from farflung.window.server import WindowOptions, WindowServer, site
from farflung.window.static_files import read_static

LAST_S = 0.7
"""For telling the viewers that the host is gone, or that the run is complete."""
LOCK = "lock"
"""Of a folder in use: it names the process."""
NICE = 5


def show(
    folder: Path, sock: socket.socket, options: WindowOptions, *, map_shown: bool, lead: bool
) -> None:
    """Show a folder's run on a listening socket, on the fastest loop there is, until interrupted or
    (`lead`) until the standard input ends."""
    _be_modest()
    main = serve(folder, sock, options, map_shown=map_shown, lead=lead)
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
        return
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


async def serve(
    folder: Path, sock: socket.socket, options: WindowOptions, *, map_shown: bool, lead: bool
) -> None:
    """`show` on the running loop."""
    tasks = Tasks(_tell, nothing_else)
    workers = ThreadWorkers(1)
    reader = RunReader(
        folder,
        workers=workers,
        tasks=tasks,
        wall=time.time,
        map_shown=map_shown,
        served=None if lead else (lambda: in_use(folder)),
    )
    server = WindowServer(reader, read_static(), options)
    try:
        async with site(server, sock):
            tasks.start(reader.follow(server.hub.wake), "follow the run")
            tasks.start(server.hub.run(), "tell the viewers")
            if lead:
                await _follow_lead(reader)
                reader.leave()
                await asyncio.sleep(LAST_S)
            else:
                await tasks.failed()
    finally:
        await tasks.close()
        await workers.run(reader.close)
        workers.close()


async def _follow_lead(reader: RunReader) -> None:
    """Until the standard input ends."""
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader(limit=1 << 16)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        with contextlib.suppress(ValueError, AttributeError):
            await reader.tell_disk(str(json.loads(line).get("keeper_disk", "")))


def in_use(folder: Path) -> bool:
    """Whether a process has the folder, by what its lock says: asking the lock itself could turn
    a host away that is just starting."""
    try:
        os.kill(int((folder / LOCK).read_text().strip()), 0)
    except PermissionError:
        return True
    except (OSError, ValueError, OverflowError):
        return False
    return True


def address(bind: str, port: int) -> str:
    """What to open in a browser on this machine."""
    host, _ = split_endpoint(bind)
    shown = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host
    return f"http://[{shown}]:{port}/" if ":" in shown else f"http://{shown}:{port}/"


def _be_modest() -> None:
    """Behind the run in the queue for the processor; as many connections as the system allows."""
    with contextlib.suppress(OSError):
        os.nice(NICE)
    with contextlib.suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _tell(event: Event) -> None:
    """What went wrong in here; a host keeps it in a file."""
    print(sentence_of(event), file=sys.stderr, flush=True)
