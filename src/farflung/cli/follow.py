"""`farflung follow`: a run's figures to trackers, its troubles to people."""

from __future__ import annotations

import functools
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from farflung.cli.which_run import which_node
from farflung.errors import UserError
from farflung.events import printable
from farflung.run.home import running_process

LOOK_S = 1.0

Export = Annotated[
    list[str] | None,
    typer.Option(
        help="Where the figures go: wandb:PROJECT, trackio:PROJECT, tensorboard:FOLDER "
        "(repeatable)."
    ),
]
AlertTo = Annotated[
    list[str] | None,
    typer.Option(help="Whom to tell of trouble: https://... or a command (repeatable)."),
]
AlertOn = Annotated[
    str, typer.Option(help="Of what: paused,stopped,lost,loss,disk,drift,finished. Default: all.")
]


def follow(
    run: Annotated[
        str,
        typer.Argument(
            metavar="[RUN]", help="A run's name in FARFLUNG_HOME, or a folder: a demo's --out too."
        ),
    ] = "",
    export: Export = None,
    alert: AlertTo = None,
    alert_on: AlertOn = "",
    once: Annotated[bool, typer.Option("--once", help="Tell what is there now, and end.")] = False,
    lead: Annotated[bool, typer.Option("--lead", hidden=True)] = False,
) -> None:
    """Follow a run that this machine hosts or has joined, from a process of its own: figures go to
    Weights & Biases, trackio or TensorBoard, alerts to a webhook or a command.

    Examples:

      farflung follow --export wandb:my-project

      farflung follow my-run --export tensorboard:runs --alert ./wake-me.sh

      farflung follow my-run --alert https://hooks.example.org/T0/B0

      farflung follow --alert "notify-send farflung" --alert-on paused,lost,disk
    """
    from farflung.monitor.alerts import KINDS, AlertRules
    from farflung.window.alarm import alarm, check_kinds
    from farflung.window.exporters import check_target, open_exporter
    from farflung.window.follow import Forwarder

    if not export and not alert:
        raise UserError(
            "nothing to do; give --export wandb:PROJECT (or trackio:, tensorboard:) or --alert URL"
        )
    for target in export or ():
        check_target(target)
    role, folder = which_node(run)
    forwarder = Forwarder(
        folder=folder,
        trackers=[(target, functools.partial(open_exporter, target)) for target in export or ()],
        alarms=[alarm(target) for target in alert or ()],
        watch=AlertRules(kinds=check_kinds(alert_on) if alert_on else frozenset(KINDS)),
        say=lambda text: typer.echo(printable(text)),
        wall=time.time,
        served=lambda: role != "host" or running_process(folder) is not None,
        own=_own_node(folder) if role == "peer" else "",
    )
    _until_the_end(forwarder.look, forwarder.close, once=once, lead=lead)


def _own_node(folder: Path) -> str:
    from farflung.disk import RealDisk
    from farflung.swarm.identity import Identity

    identity = Identity.load(RealDisk(folder), "node.key")
    return "" if identity is None else str(identity.node_id)


def _until_the_end(
    look: Callable[[], str], close: Callable[[], None], *, once: bool, lead: bool
) -> None:
    """Look every second until Ctrl-C, until the run is finished, or until the input ends."""
    over = threading.Event()
    if lead:
        threading.Thread(target=_wait_for_end, args=(over,), daemon=True).start()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever leads decides
    try:
        while True:
            state = look()
            if once or over.is_set() or state == "finished":
                return
            over.wait(LOOK_S)
    except KeyboardInterrupt:
        return
    finally:
        close()


def _wait_for_end(over: threading.Event) -> None:
    while sys.stdin.buffer.read(4096):
        pass
    over.set()
