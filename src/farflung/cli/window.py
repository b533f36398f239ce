"""`farflung window`: a run's dashboard, at any time, from its folder."""

from __future__ import annotations

import contextlib
from typing import Annotated

import typer

from farflung.cli.which_run import which_node
from farflung.config.load import check_endpoints
from farflung.errors import UserError
from farflung.ids import Endpoint


def window(
    run: Annotated[
        str,
        typer.Argument(
            metavar="[RUN]", help="A run's name in FARFLUNG_HOME, or a folder: a demo's --out too."
        ),
    ] = "",
    bind: Annotated[
        str,
        typer.Option(help="HOST:PORT. Default: the first free port from 127.0.0.1:7080 on."),
    ] = "",
    public: Annotated[
        bool, typer.Option("--public", help="For everybody: also at addresses of other machines.")
    ] = False,
    show_map: Annotated[
        bool, typer.Option("--map/--no-map", help="Show the regions that peers declare.")
    ] = True,
    names: Annotated[
        list[str] | None,
        typer.Option("--name", help="A host name to answer to, behind a proxy (repeatable)."),
    ] = None,
    prefix: Annotated[
        str, typer.Option(help="Path in front of all others, where a proxy leaves it: /runs/one")
    ] = "",
) -> None:
    """Show a run in a browser: one that is hosted here, one that is over, or a peer's own copy.

    A host shows its run by itself; this is for a run that nobody hosts now, for a peer that wants
    to look from its side (its folder tells less), and for a second window with other settings.

    Examples:

      farflung window my-run

      farflung window demo-out --bind 127.0.0.1:8000

      farflung window my-run --bind 0.0.0.0:7080 --public --no-map
    """
    from farflung.run.window_settings import DEFAULT_WINDOW, TRIED_PORTS
    from farflung.swarm.invite import is_loopback
    from farflung.window.process import address, show
    from farflung.window.server import WindowOptions, listen

    check_endpoints([bind] if bind else [])
    if bind and not public and not is_loopback(Endpoint(bind)):
        raise UserError(f"--bind {bind} shows the run to other machines; say so with --public")
    if public and not bind:
        raise UserError("--public needs --bind HOST:PORT, where everybody may see the run")
    _, folder = which_node(run)
    options = WindowOptions(
        bind=bind or DEFAULT_WINDOW,
        ports=1 if bind else TRIED_PORTS,
        public=public,
        names=frozenset(names or ()),
        prefix=prefix,
    )
    try:
        sock = listen(options.bind, options.ports)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise UserError(f"cannot listen on {options.bind}: {why}; give another --bind") from None
    with sock, contextlib.suppress(KeyboardInterrupt):
        port = int(sock.getsockname()[1])
        typer.echo(f"dashboard: {address(options.bind, port)}  (Ctrl-C ends it; the run goes on)")
        show(folder, sock, options, map_shown=show_map, lead=False)
