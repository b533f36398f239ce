"""`python -m farflung.window`: the window's process, as a host starts it.

It prints one JSON line, {"address": "http://127.0.0.1:7080/", "port": 7080} or {"error": "..."}.
With `--lead` it lives as long as its standard input: whoever started it, and however that ends,
the pipe is closed then. Each line there tells what only the host knows: {"keeper_disk": "..."}.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path

from farflung.window.process import address, show
from farflung.window.server import WindowOptions, listen


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
        show(arguments.folder, sock, options, map_shown=arguments.map, lead=arguments.lead)


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
