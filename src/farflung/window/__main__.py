"""`python -m farflung.window`: the window's process, started by a host or by `farflung window`.

It prints one JSON line, {"address": "http://127.0.0.1:7080/"}, or {"error": "..."} and ends. With
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
import sys
import time
from collections.abc import Callable
from pathlib import Path

from farflung.clock import ThreadWorkers
from farflung.events import Event, sentence_of
from farflung.ids import split_endpoint
from farflung.tasks import Tasks, nothing_else
from farflung.window.reader import RunReader
from farflung.window.server import WindowOptions, WindowServer, listen, site
from farflung.window.static_files import read_static

NICE = 10
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
        _print(address=address(options.bind, sock.getsockname()[1]))
        main = serve(arguments.folder, sock, options, map_shown=arguments.map, lead=arguments.lead)
        try:
            import uvloop
        except ImportError:
            asyncio.run(main)
            return
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main)
