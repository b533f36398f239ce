"""What asks a process to stop: Ctrl-C, SIGTERM, and a terminal that closes (SIGHUP).

Whoever started a program under `nohup` has SIGHUP ignored: then it stays ignored.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


def stop_signals() -> tuple[signal.Signals, ...]:
    """Those to be taken as a wish to stop, Ctrl-C among them."""
    always = (signal.SIGINT, signal.SIGTERM)
    return always if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (*always, signal.SIGHUP)


def ignore_hangups() -> None:
    """From now on: a closing terminal tells it twice (the kernel, then the shell), and the second
    time must not cut off what the first one began."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def interrupt_on_stop_signals() -> None:
    """SIGTERM and SIGHUP do what Ctrl-C does: KeyboardInterrupt in the main thread, so that every
    `finally` runs. What has a better answer installs its own."""
    for number in stop_signals():
        if number is not signal.SIGINT:
            signal.signal(number, _interrupt)


class _Hold:
    """Main thread only, as signal handlers are."""

    depth = 0
    wished = False


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """A wish to stop takes effect after this: who starts a process must know it before it has to
    end it. In the main thread of a program that called `interrupt_on_stop_signals`."""
    before = signal.signal(signal.SIGINT, _interrupt)
    _Hold.depth += 1
    try:
        yield
    finally:
        _Hold.depth -= 1
        signal.signal(signal.SIGINT, before)
        if not _Hold.depth and _Hold.wished:
            _Hold.wished = False
            raise KeyboardInterrupt


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    ignore_hangups()
    if _Hold.depth:
        _Hold.wished = True
    else:
        raise KeyboardInterrupt
