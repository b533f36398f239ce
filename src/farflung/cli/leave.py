"""`farflung leave`: ask this machine's peer to hand back its lease and go."""

from __future__ import annotations

import os
import signal
import time
from typing import Annotated

import typer

from farflung.errors import UserError
from farflung.run.home import find_run, home_folder, running_process

PATIENCE_S = 30.0


def leave(
    run_name: Annotated[str, typer.Option("--run", help="Which run of FARFLUNG_HOME.")] = "",
) -> None:
    """Leave a run that this machine takes part in; `farflung join` continues later.

    Example:

      farflung leave
    """
    folder = find_run(home_folder(), run_name, "peer")
    process = running_process(folder)
    if process is None:
        raise UserError(f"no peer runs in {folder}; nothing to leave")
    os.kill(process, signal.SIGTERM)
    end = time.monotonic() + PATIENCE_S
    while running_process(folder) is not None:
        if time.monotonic() > end:
            raise UserError(f"process {process} has not left in {PATIENCE_S:g} s; kill it")
        time.sleep(0.1)
    typer.echo("left")
