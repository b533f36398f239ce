"""`python -m farflung.window`: the window's process, started by a host or by `farflung window`.

It prints one JSON line, {"address": "http://127.0.0.1:7080/", "port": 7080}, or {"error": "..."} and ends. With
`--lead` it lives as long as its standard input: whoever started it, and however that ends, the
pipe is closed then. Each line there is JSON of what only the host knows: {"keeper_disk": "..."}.
"""

from __future__ import annotations

import argparse
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
from farflung.window.server import WindowOptions, WindowServer, listen, site
from farflung.window.static_files import read_static

NICE = 10
LAST_S = 0.7
"""For telling the viewers that the host is gone, or that the run is complete."""
LOCK = "lock"
"""Of a folder in use: it names the process."""


def main() -> None:
    """Until the input ends (`--lead`), or a signal."""
    arguments = _parser().parse_args()
    options = WindowOptions(
        bind=arguments.bind,
        ports=arguments.ports,
        public=arguments.public,
        names=frozenset(arguments.name),
        prefix=arguments.prefix,
        most_connections=arguments.connections,
        most_each=arguments.each,
    )
    _be_modest()
    with contextlib.suppress(KeyboardInterrupt):
        _run(arguments, options)


def _run(arguments: argparse.Namespace, options: WindowOptions) -> None:
    try:
        sock = listen(options.bind, options.ports)
    except OSError as error:
        _print(error=f"cannot listen on {options.bind}: {(error.strerror or str(error)).lower()}")
        sys.exit(1)
    with sock:
        port = int(sock.getsockname()[1])
        _print(address=address(options.bind, port), port=port)
        main = serve(arguments.folder, sock, options, map_shown=arguments.map, lead=arguments.lead)
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
    """Show a folder's run on a listening socket, until cancelled or until the lead ends."""
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
    """What went wrong in here; the host keeps it in a file."""
    print(sentence_of(event), file=sys.stderr, flush=True)


def _print(**fields: str | int) -> None:
    print(json.dumps(fields), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m farflung.window")
    parser.add_argument("--folder", type=Path, required=True, help="Of a host, or of a peer.")
    parser.add_argument("--bind", default=WindowOptions.bind, help="HOST:PORT.")
    parser.add_argument("--ports", type=int, default=1, help="How many ports to try.")
    parser.add_argument("--public", action="store_true", help="For everybody.")
    parser.add_argument("--name", action="append", default=[], help="A host name to allow.")
    parser.add_argument("--prefix", default="", help="Path in front of all others.")
    parser.add_argument("--no-map", dest="map", action="store_false", help="Show no regions.")
    parser.add_argument("--connections", type=int, default=WindowOptions.most_connections)
    parser.add_argument("--each", type=int, default=WindowOptions.most_each)
    parser.add_argument("--lead", action="store_true", help="Live as long as standard input.")
    return parser


if __name__ == "__main__":
    main()
